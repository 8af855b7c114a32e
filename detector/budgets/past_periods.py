"""Periods that are over and whose bill still fills up: what comes late can cross a budget, and corrects what was said.

Only budgets on bills have them: usage is known within minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from curb.detector.budgets import wording as words
from curb.detector.budgets.alerts import spent_fingerprint, tier_of
from curb.detector.budgets.rows import BudgetRows, Late
from curb.detector.budgets.status import BudgetView
from curb.stream.records.revisions import alert_id_of, resolved, revised
from curb.stream.records.spend import TIER_RANK, Alert, BudgetStatus
from curb.stream.time import DAY_S

#: Seconds after its end that a period stays open for its bill, and that nothing may have changed before its alert ends.
#: Chosen by hand: bills are done within ten days, and within two after the last change.
_OPEN_S, _STILL_S = 10 * DAY_S, 2 * DAY_S
#: Change of the spend that is worth a revision, dollars: what people read is to the cent.
_MOVED_USD = 0.005


class EndedPeriod(msgspec.Struct):
    """One period of a row that is over."""

    start: float
    end: float
    amount_usd: float
    spent_usd: float
    #: The highest threshold (percent) that was reported, 0 for none.
    reported: float
    changed_at: float
    alert: Alert | None = None

    @property
    def is_firing(self) -> bool:
        """Whether its alert fires."""
        return self.alert is not None and self.alert.status == "firing"


class PastPeriods:
    """The periods of rows on bills that ended lately, by row."""

    def __init__(self, rows: BudgetRows, view: BudgetView) -> None:
        self._rows, self._view = rows, view
        self.periods: dict[int, list[EndedPeriod]] = {}
        self._changed: set[int] = set()
        #: Rows with an alert that fires.
        self._open_rows: set[int] = set()

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of the alerts that fire now."""
        found = (past for row in sorted(self._open_rows) for past in self.periods[row] if past.is_firing)
        return [past.alert for past in found if past.alert is not None]

    def begin(self, row: int, start: float) -> None:
        """Open the periods of a new row that ended lately at `start`: a bill is a day late when it names what is new.

        So a first load says what was passed last, and the time before is history.
        """
        number = int(self._rows["budget"][row])
        if not self._rows.is_billed(row):
            return
        end, amount = float(self._rows["period_start"][row]), float(self._rows["amount_usd"][row])
        while end > start - _STILL_S:
            begin, _ = self._rows.period(number, end - 1)
            self.periods.setdefault(row, []).insert(0, EndedPeriod(begin, end, amount, 0.0, 0.0, start))
            end = begin

    def end(self, row: int, reported: float, at: float, alert: Alert | None) -> bool:
        """The period of a row is over; `alert` on its highest threshold, `reported` percent, fires.

        True where it is on a bill, so that the alert goes on here until the bill is final.
        """
        if not self._rows.is_billed(row):
            return False
        start, end = float(self._rows["period_start"][row]), float(self._rows["period_end"][row])
        amount, spent = float(self._rows["amount_usd"][row]), float(self._rows["spent_usd"][row])
        kept = [past for past in self.periods.get(row, []) if past.end > at - _OPEN_S or past.is_firing]
        self.periods[row] = [*kept, EndedPeriod(start, end, amount, spent, reported, at, alert)]
        if alert is not None:
            self._open_rows.add(row)
            self._changed.add(row)  # what came since its last revision
        return True

    def late(self, late: Late, at: float) -> None:
        """Count dollars into the periods that they are of."""
        if not self.periods:
            return
        for row in np.unique(late.rows).tolist():
            for past in self.periods.get(row, ()):
                within = (late.rows == row) & (past.start <= late.start) & (late.start < past.end)
                if within.any():
                    past.spent_usd += float(late.usd[within].sum())
                    past.changed_at = at
                    self._changed.add(row)

    def close(self, at: float) -> list[Alert]:
        """Alerts of periods that crossed a threshold after their end, corrections, and those that are final."""
        revisions: list[Alert] = []
        for row in sorted(self._changed):
            revisions += [each for past in self.periods[row] for each in self._revise(row, past, at)]
        self._changed.clear()
        return revisions + [each for row in sorted(self._open_rows) for each in self._final(row, at)]

    def _final(self, row: int, at: float) -> list[Alert]:
        """Ends of the alerts of a row whose bill does not change any more."""
        ended = []
        for past in self.periods[row]:
            if past.is_firing and at - past.changed_at > _STILL_S:
                past.alert = resolved(past.alert, at) if past.alert is not None else None
                ended += [past.alert] if past.alert is not None else []
        if not any(past.is_firing for past in self.periods[row]):
            self._open_rows.discard(row)
        return ended

    def _revise(self, row: int, past: EndedPeriod, at: float) -> Sequence[Alert]:
        reached = [each for each in self._rows.budget(row).thresholds if past.spent_usd >= past.amount_usd * each / 100]
        highest = max(reached, default=0.0)
        if past.alert is not None and past.is_firing:
            if highest <= past.reported and abs(past.spent_usd - past.alert.actual_usd) < _MOVED_USD:
                return []
            past.reported = max(past.reported, highest)
            fields = self._fields(row, past)
            if TIER_RANK[fields["tier"]] > TIER_RANK[past.alert.tier]:
                fields["tier_since"] = at
            past.alert = revised(past.alert, at, **fields)
            return [past.alert]
        if highest <= past.reported:
            return []
        past.reported = highest
        past.alert = self._open(row, past, at)
        self._open_rows.add(row)
        return [past.alert]

    def _open(self, row: int, past: EndedPeriod, at: float) -> Alert:
        budget, tags = self._rows.budget(row), self._rows.tags[row]
        fingerprint = spent_fingerprint(self._rows, row, past.start)
        return Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, at),
            revision=1,
            status="firing",
            kind="budget",
            scope=budget.scope,
            tags=tags,
            fired_at=at,
            updated_at=at,
            **self._fields(row, past),
        )

    def _fields(self, row: int, past: EndedPeriod) -> dict[str, Any]:
        status = self._status(row, past)
        said = words.spent_by_its_end(self._view.who(row), status), self._view.billed_until(row)
        return {
            "tier": tier_of(past.reported),
            "channel": f"budget/{past.reported:g}",
            "score": 100 * past.spent_usd / past.amount_usd,
            "budget": status,
            "started_at": status.counted_from,
            "expected_usd": past.amount_usd,
            "actual_usd": past.spent_usd,
            "excess_usd": max(0.0, past.spent_usd - past.amount_usd),
            "dollars_at_risk": max(0.0, past.spent_usd - past.amount_usd),
            "usd_per_hour": 0.0,
            "expected_usd_per_hour": 0.0,
            "money": "billed",
            "explanation": " ".join(filter(None, said)),
        }

    def _status(self, row: int, past: EndedPeriod) -> BudgetStatus:
        (now,) = self._view.statuses([row], [past.reported], past.end)
        return msgspec.structs.replace(
            now,
            period_start=past.start,
            period_end=past.end,
            amount_usd=past.amount_usd,
            spent_usd=past.spent_usd,
            threshold=past.reported,
            counted_from=max(past.start, min(float(self._rows["since"][row]), past.end)),
            usd_per_hour=0.0,
            forecast_usd=None,
            forecast_low_usd=None,
            forecast_high_usd=None,
            breach_at=None,
            breach_probability=None,
        )

    def load(self, periods: Mapping[str, Sequence[EndedPeriod]], row_of: Mapping[int, int]) -> None:
        """Take over what was saved, of rows that stay."""
        known = ((row_of.get(int(number)), kept) for number, kept in periods.items())
        self.periods = {row: list(kept) for row, kept in known if row is not None}
        self._open_rows = {row for row, kept in self.periods.items() if any(past.is_firing for past in kept)}
