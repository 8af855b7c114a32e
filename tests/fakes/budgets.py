"""Budgets over a registry of series, fed bucket by bucket without the rest of the detector."""

from __future__ import annotations

from typing import Any

import msgspec

from curb.detector.budgets.tracker import Budgets
from curb.detector.settings import DetectorSettings
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import Scope
from curb.stream.records.spend import Alert, BudgetStatus
from tests.fakes.spend import T0, bucket

TEAM = Scope(name="team", group_by=("team",))
KEY = Scope(name="key", group_by=("team", "api_key"))
HOUR, DAY = 3600, 86400
#: For tests about something else than burn rates.
NO_BURN = {"enabled": False}


def a_budget(**fields: Any) -> dict[str, Any]:
    """$100 a day for each team, without burn rates."""
    return {"name": "b", "scope": "team", "amount_usd": 100, "period": "day", "burn_rate": NO_BURN, **fields}


def settings_of(*budgets: dict[str, Any], **more: Any) -> DetectorSettings:
    return DetectorSettings.model_validate({"scopes": [TEAM, KEY], "budgets": list(budgets), **more})


class Fed:
    """Budgets and what they said. Series are named by scope and tag values: ("team", "a"), ("key", "a", "k1")."""

    def __init__(self, settings: DetectorSettings, *series: tuple[str, ...]) -> None:
        self.settings = settings
        self.registry = SeriesRegistry(settings.scopes, settings.time_zone)
        self._scopes = {scope.name: scope for scope in settings.scopes}
        self.budgets = Budgets(settings, self.registry)
        for each in series:
            self.series(*each)

    def series(self, scope: str, *values: str) -> int:
        """The number of a series, which may be new."""
        tags = dict(zip(self._scopes[scope].group_by, values, strict=True))
        return self.registry.number(scope, msgspec.json.encode(tags), T0)

    def spend(self, start: int, *usd: float, bucket_s: int = HOUR) -> list[Alert]:
        """Close a bucket in which series i cost `usd[i]`; what is not given cost nothing."""
        padded = [*usd, *[0.0] * (len(self.registry) - len(usd))]
        return self.budgets.close(bucket(start, [each * HOUR / bucket_s for each in padded], bucket_s=bucket_s))

    def status(self, row: int = 0) -> BudgetStatus:
        return self.budgets.status()[row][1]

    def restarted(self, settings: DetectorSettings | None = None) -> Fed:
        """The same after a restart, with other settings if given."""
        again = Fed(settings or self.settings)
        again.registry = self.registry
        again.budgets = Budgets(again.settings, self.registry)
        dump, arrays = self.budgets.dump()
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(dump), type=type(dump))
        again.budgets.load(decoded, {name: array.copy() for name, array in arrays.items()})
        return again


def brief(alerts: list[Alert]) -> list[tuple[str, str, str]]:
    """Who, what and whether it fires."""
    return [(" ".join(a.tags.values()), a.channel.removeprefix("budget/"), a.status) for a in alerts]
