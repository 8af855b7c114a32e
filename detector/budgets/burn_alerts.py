"""Alerts on budgets that are spent too fast to last: one per row at a time, on the highest row that burns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.budgets.budget import AlertTimes
from curb.detector.budgets.burn import RULES, BurnState, BurnWindows
from curb.detector.budgets.changes import is_material
from curb.detector.budgets.rows import BudgetRows
from curb.detector.state.columns import Floats
from curb.stream.records.revisions import alert_id_of, resolved, revised
from curb.stream.records.spend import Alert

_WEAKEST = len(RULES)


class Burning(msgspec.Struct):
    """The newest revision of an alert, the strongest rule it broke, and for how long (seconds) no rule has held."""

    alert: Alert
    rule: int
    calm_s: float = 0.0

    @property
    def firing(self) -> bool:
        return self.alert.status == "firing"


class Moment(NamedTuple):
    """A closed bucket (epoch seconds) and the burn of every row then, shape (rows,): $/h, the usual $/h of its series,
    and requests per minute."""

    end: float
    at: float
    rate: Floats
    usual: Floats
    requests: Floats


class BurnReport(NamedTuple):
    """Subject of an alert: the row, the rule, and the rows below that burn with it and get no alert of their own."""

    row: int
    rule: int
    below: list[str]


#: The fields of an alert on a burn rate, except those of its life cycle.
Describe = Callable[[BurnReport], dict[str, Any]]


class RateAlerts:
    """Opens an alert when a rule is broken, ends it after `calm_s` without one, reopens it within the same period."""

    def __init__(self, alerts: AlertTimes, rows: BudgetRows, burn: BurnWindows) -> None:
        self._alerts, self._rows, self._burn = alerts, rows, burn
        self.burning: dict[int, Burning] = {}
        self._min_usd = np.array(
            [each.burn_rate.min_usd if each.burn_rate.enabled else np.inf for each in rows.budgets], np.float64
        )

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        return [each.alert for each in self.burning.values() if each.firing]

    def close(
        self, moment: Moment, step_s: float, describe: Describe, who: Callable[[int], str], spent: Collection[int]
    ) -> list[Alert]:
        """New revisions after a bucket of `step_s` seconds; `who` names a row. The rows `spent` have a page for that,
        which stands for their burn."""
        state = self._state(moment.rate)
        opening, holding = self._burn.opening(moment.end, state), self._burn.holding(state)
        for row in self.burning:
            self.burning[row].calm_s = 0.0 if holding[row] else self.burning[row].calm_s + step_s
        revisions = []
        for row in sorted(self.burning):
            alert = self._next(row, int(opening[row]), moment, describe, ends=row in spent)
            if alert is not None:
                revisions.append(alert)
        return revisions + self._open(opening, moment.at, describe, who)

    def _state(self, rate: Floats) -> BurnState:
        rows = self._rows
        names = ("spent_usd", "amount_usd", "period_start", "period_end", "since")
        spent, amount, start, end, since = (rows[name] for name in names)
        return BurnState(spent, amount, rate, start, end, since, self._min_usd[rows["budget"]])

    def _next(self, row: int, rule: int, moment: Moment, describe: Describe, *, ends: bool) -> Alert | None:
        burning, at = self.burning[row], moment.at
        alert = burning.alert
        if not burning.firing:
            return self._reopen(row, rule, at, describe)
        if ends or burning.calm_s >= self._alerts.calm_s:
            burning.alert = resolved(alert, at, **describe(BurnReport(row, burning.rule, [])))
            return burning.alert
        moved = is_material(alert, self._rows.figures(row, moment.rate), at, self._alerts.update_every_s)
        if 0 <= rule < burning.rule or (alert.tier == "page" and moved):
            burning.rule = min(burning.rule, rule) if rule >= 0 else burning.rule
            burning.alert = revised(alert, at, **describe(BurnReport(row, burning.rule, [])))
            return burning.alert
        return None

    def _reopen(self, row: int, rule: int, at: float, describe: Describe) -> Alert | None:
        """A page that comes back within the period is the same alert again; a notice fires once per period."""
        burning = self.burning[row]
        if rule >= 0 and RULES[rule].tier == "notice":
            return None  # once per period
        if rule >= 0:
            burning.rule, burning.calm_s = rule, 0.0
            burning.alert = revised(
                burning.alert, at, status="firing", resolved_at=None, **describe(BurnReport(row, rule, []))
            )
            return burning.alert
        return None

    def _open(
        self, opening: NDArray[np.int64], at: float, describe: Describe, who: Callable[[int], str]
    ) -> list[Alert]:
        """New alerts. A row below an alert at least as strong is named there and gets none of its own."""
        new = {row: rule for row, rule in _broken(opening) if row not in self.burning}
        below: dict[int, list[str]] = {}
        reported = []
        for row, rule in new.items():
            root = self._covered_by(row, rule, new)
            if root is None:
                reported.append(row)
            elif root in new:
                below.setdefault(root, []).append(who(row))
        revisions = []
        for row in reported:
            figures = describe(BurnReport(row, new[row], below.get(row, [])))
            fields = {**figures, "alert_id": alert_id_of(figures["fingerprint"], at), "revision": 1}
            alert = Alert(**fields, status="firing", kind="budget", fired_at=at, updated_at=at)
            self.burning[row] = Burning(alert, new[row])
            revisions.append(alert)
        return revisions

    def _covered_by(self, row: int, rule: int, new: Mapping[int, int]) -> int | None:
        """The highest row above that burns at least as strongly."""
        root, above = None, self._rows.parent(row)
        while above is not None:
            known = self.burning.get(above)
            strength = known.rule if known is not None and known.firing else new.get(above, _WEAKEST)
            if RULES[rule].tier != "page" or (strength < _WEAKEST and RULES[strength].tier == "page"):
                root = above if strength < _WEAKEST else root
            above = self._rows.parent(above)
        return root

    def end(self, row: int, at: float) -> list[Alert]:
        """Resolve the alert of a row whose period is over, or which is gone."""
        burning = self.burning.pop(row, None)
        return [resolved(burning.alert, at)] if burning is not None and burning.firing else []


def _broken(opening: NDArray[np.int64]) -> list[tuple[int, int]]:
    rows = np.flatnonzero(opening >= 0)
    return list(zip(rows.tolist(), opening[rows].tolist(), strict=True))
