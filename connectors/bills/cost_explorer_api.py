"""GetCostAndUsage: every page of a span, each call counted against a day's budget before it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from curb.stream.clients.aws import AwsClient
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import DAY_S, HOUR_S

MAX_PAGES = 500
#: Kinds of records that are usage, whoever pays for it; all others are fees, taxes, credits and the like.
USAGE = ("Usage", "DiscountedUsage", "SavingsPlanCoveredUsage")


class Cost(NamedTuple):
    """One group of one hour or day: values of what it is grouped by, and amounts by metric, in its currency."""

    start: int
    seconds: int
    values: tuple[str, ...]
    amounts: Mapping[str, str]
    currency: str
    estimated: bool


class _Spent(msgspec.Struct):
    day: int = 0
    calls: int = 0
    #: When everything was last asked, epoch seconds.
    asked_at: float = 0.0


class OverBudget(Exception):
    """No further call may be made today."""


class CallBudget:
    """Calls of the day (UTC), kept in a file so that a restart does not forget them."""

    def __init__(self, path: Path, calls_per_day: int, clock: Clock) -> None:
        self._path, self._calls_per_day, self._clock = path, calls_per_day, clock

    @property
    def asked_at(self) -> float:
        """When `asked` was last recorded, epoch seconds; 0 for never."""
        return self._load().asked_at

    @property
    def left(self) -> int:
        """Calls that may still be made today."""
        return self._calls_per_day - self._load().calls

    def spend(self) -> None:
        """Count one call that is about to be made. Raises OverBudget."""
        spent = self._load()
        if spent.calls >= self._calls_per_day:
            raise OverBudget
        self._save(msgspec.structs.replace(spent, calls=spent.calls + 1))

    def asked(self) -> None:
        """Everything was asked now."""
        self._save(msgspec.structs.replace(self._load(), asked_at=self._clock.now()))

    def _load(self) -> _Spent:
        today = int(self._clock.now() // DAY_S)
        try:
            spent = msgspec.json.decode(self._path.read_bytes(), type=_Spent)
        except FileNotFoundError:
            return _Spent(today)
        except msgspec.DecodeError:
            # Written half by a full disk, perhaps: what was spent is not known, so nothing is left.
            return _Spent(today, self._calls_per_day)
        return spent if spent.day == today else _Spent(today, 0, spent.asked_at)

    def _save(self, spent: _Spent) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(spent))
        new.replace(self._path)


class CostExplorerApi:
    """One operation of Cost Explorer. Blocks; raises TransientError, PermanentError or OverBudget."""

    def __init__(self, name: str, client: AwsClient, budget: CallBudget, *, hourly: bool) -> None:
        self._name, self._client, self._budget, self._hourly = name, client, budget, hourly

    def costs(
        self, start: float, end: float, group_by: Iterable[str], metrics: Iterable[str], *, usage: bool
    ) -> list[Cost]:
        """Groups from `start` until `end` (epoch seconds), of usage or of everything else.

        `group_by` are Cost Explorer's dimensions, `tag:KEY` or `category:KEY`, two at most. A group that comes twice
        counts once.
        """
        kinds = {"Dimensions": {"Key": "RECORD_TYPE", "Values": list(USAGE)}}
        parameters: dict[str, Any] = {
            "TimePeriod": {"Start": self._written(start), "End": self._written(end)},
            "Granularity": "HOURLY" if self._hourly else "DAILY",
            "Metrics": sorted(set(metrics)),
            "GroupBy": [_definition(each) for each in group_by],
            "Filter": kinds if usage else {"Not": kinds},
        }
        found: dict[tuple[int, tuple[str, ...]], Cost] = {}
        tokens: set[str] = set()
        for _ in range(MAX_PAGES):
            self._budget.spend()
            page = self._client.call("get_cost_and_usage", **parameters)
            for period in page.get("ResultsByTime", ()):
                for cost in self._of_period(period):
                    found[cost.start, cost.values] = cost
            token = page.get("NextPageToken")
            if not token:
                return list(found.values())
            if token in tokens:
                raise TransientError(f"{self._name}: Cost Explorer names a page again that was read")
            tokens.add(token)
            parameters["NextPageToken"] = token
        raise TransientError(f"{self._name}: Cost Explorer has no end after {MAX_PAGES} pages")

    def _of_period(self, period: dict[str, Any]) -> Iterable[Cost]:
        try:
            start = int(datetime.fromisoformat(period["TimePeriod"]["Start"]).replace(tzinfo=UTC).timestamp())
            for group in period.get("Groups", ()):
                amounts = {name: each["Amount"] for name, each in group["Metrics"].items()}
                currency = next((str(each.get("Unit", "USD")) for each in group["Metrics"].values()), "USD")
                values = tuple(map(str, group["Keys"]))
                seconds = HOUR_S if self._hourly else DAY_S
                yield Cost(start, seconds, values, amounts, currency, bool(period.get("Estimated")))
        except (KeyError, TypeError, ValueError) as error:
            raise PermanentError(f"{self._name}: not the expected answer of Cost Explorer: {error!r}") from None

    def _written(self, at: float) -> str:
        moment = datetime.fromtimestamp(at, UTC)
        return moment.strftime("%Y-%m-%dT%H:00:00Z") if self._hourly else moment.strftime("%Y-%m-%d")


def _definition(group: str) -> dict[str, str]:
    kind, colon, key = group.partition(":")
    if not colon:
        return {"Type": "DIMENSION", "Key": group}
    return {"Type": {"tag": "TAG", "category": "COST_CATEGORY"}[kind], "Key": key}
