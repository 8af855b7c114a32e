"""An alert of a recorded stream: a back-test up to it that keeps the burn of its series around it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.evaluate import backtest
from curb.stream.records.spend import Alert, PlannedActivity
from curb.views.explanation import BudgetLine, NoSuchAlertError, Point, Recorded

_BEFORE_S, _AFTER_S, _AFTERMATH_S = 36 * 3600.0, 24 * 3600.0, 3600.0
#: Burns are 5-minute averages.
_EVERY_S = 300.0

_Series = tuple[str, tuple[tuple[str, str], ...]]


def read_files(path: Path, alert_id: str, settings: DetectorSettings, report_read: Callable[[int], object]) -> Recorded:
    """Run the stream at `path` until an hour after the alert ended, a day after it fired at most.

    `report_read` gets the bytes read so far. Raises FileNotFoundError, ValueError for an unreadable stream, and
    NoSuchAlertError where these settings raise no such alert.
    """
    fired = alert_id.rpartition("-")[2]
    if not fired.isdecimal():
        raise NoSuchAlertError(f"{alert_id!r} is not the id of an alert")
    file = backtest.events_file(path)
    grid = backtest.grid_in(file)
    settings = grid.settings(settings)
    pipeline, result = Pipeline(settings), backtest.Backtest(bucket_s=settings.bucket_s)
    watch = _Watch(alert_id, float(fired), pipeline, result)
    with file.open("rb") as raw:
        events = watch.until_over(backtest.read_events(raw, file, result, grid.step_s))

        def closed() -> None:
            watch.look()
            report_read(raw.tell())

        backtest.feed(pipeline, settings, events, result, closed)
    return watch.recorded()


class _Watch:
    """Looks at a back-test after every bucket that closed."""

    def __init__(self, alert_id: str, fired_at: float, pipeline: Pipeline, result: backtest.Backtest) -> None:
        self._alert_id, self._fired_at = alert_id, fired_at
        self._pipeline, self._result = pipeline, result
        self._plans: list[PlannedActivity] = []
        self._revisions: list[Alert] = []
        #: at, $/h, $/h expected, one after the other.
        self._burns: dict[_Series, array[float]] = {}
        self._looked_at = -math.inf
        self._over = False

    def until_over(self, events: Iterator[backtest.Event]) -> Iterator[backtest.Event]:
        """The events, up to when enough was seen."""
        for event in events:
            if self._over:
                return
            if isinstance(event, PlannedActivity):
                self._plans.append(event)
            yield event

    def look(self) -> None:
        now = self._pipeline.shard.event_time
        if now is None or now < self._fired_at - _BEFORE_S:
            return
        life = self._result.alerts.get(self._alert_id)
        if life is not None and (not self._revisions or self._revisions[-1].revision < life.last.revision):
            if not self._revisions and life.first is not life.last:
                self._revisions.append(life.first)
            self._revisions.append(life.last)
        if now - self._looked_at >= _EVERY_S:
            self._looked_at = now
            self._collect(now, None if life is None else _series(life.first))
        resolved_at = None if life is None else life.last.resolved_at
        end = self._fired_at + (_AFTER_S if life is not None else _AFTERMATH_S)
        self._over = now > (end if resolved_at is None else min(end, resolved_at + _AFTERMATH_S))

    def _collect(self, now: float, only: _Series | None) -> None:
        """Until it is known which series it is about, those of all."""
        if only is not None and len(self._burns) > 1:
            self._burns = {only: self._burns.get(only, array("d"))}
        scope = None if only is None else only[0]
        for row in self._pipeline.shard.top(1_000_000_000, scope):
            series = (row.scope, tuple(row.tags.items()))
            if only is None or series == only:
                burn = self._burns.setdefault(series, array("d"))
                burn.extend((now, row.usd_per_hour, row.expected_usd_per_hour))

    def recorded(self) -> Recorded:
        if not self._revisions:
            raise NoSuchAlertError(f"these settings raise no alert {self._alert_id} on this stream; see: curb backtest")
        burn = self._burns.get(_series(self._revisions[0]), array("d"))
        alerts = {key: msgspec.structs.replace(life.last, tier=life.tier) for key, life in self._result.alerts.items()}
        return Recorded(
            revisions=self._revisions,
            alerts=alerts,
            knowledge=list(self._plans),
            budgets=[BudgetLine(tags, status) for tags, status in self._pipeline.shard.budgets()],
            points=[Point(*burn[i : i + 3]) for i in range(0, len(burn), 3)],
        )


def _series(alert: Alert) -> _Series:
    return alert.scope, tuple(alert.tags.items())
