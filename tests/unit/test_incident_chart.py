"""Pictures of incidents: the burn of the last hours, the budget line, and what there is when nothing can be drawn."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest

from curb.detector.settings import DetectorSettings
from curb.detector.state.registry import SeriesMoney
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import BudgetStatus
from curb.views.explain_chart import IncidentChart, _budget_line, draw
from curb.views.explanation import BudgetLine, Explanation, Point, explain, read_log
from curb.views.recent_burn import RecentBurn
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.memory_log import MemoryLog


class Row(NamedTuple):
    scope: str
    tags: dict[str, str]
    usd_per_hour: float
    expected_usd_per_hour: float


class Shard:
    """One shard of the detector, as far as it is looked at."""

    def __init__(self, *rows: Row) -> None:
        self.event_time: float | None = None
        self.rows = rows

    def top(self, count: int) -> list[Row]:
        return list(self.rows[:count])

    def money(self) -> SeriesMoney:
        rates = [np.array([row[column] for row in self.rows], np.float64) for column in (2, 3)]
        none = np.zeros(len(self.rows))
        return SeriesMoney([row.scope for row in self.rows], [row.tags for row in self.rows], none, none, *rates, none)


def recent(shard: Shard, hours: float) -> RecentBurn:
    """What is remembered after so many hours of a look every minute."""
    burn = RecentBurn(lambda: [shard], ManualClock(T0))  # type: ignore[list-item]
    for minute in range(int(hours * 60)):
        shard.event_time = T0 - hours * 3600 + minute * 60
        burn.sample()
    return burn


def test_the_burn_is_remembered_every_two_minutes_for_eight_hours() -> None:
    alert = an_alert()
    found = recent(Shard(Row("key", alert.tags, 5.0, 4.0), Row("key", {"team": "x"}, 0.0, 0.0)), 10).points(alert)
    assert len(found) == 241
    assert (found[-1].at, found[-1].usd_per_hour, found[-1].expected_usd_per_hour) == (T0 - 120, 5.0, 4.0)
    assert found[0].at == T0 - 120 - 8 * 3600


def test_the_burn_of_a_whole_scope_is_remembered_for_a_day() -> None:
    shard = Shard(Row("key", {"api_key": "a"}, 5.0, 4.0), Row("key", {"api_key": "b"}, 1.0, 0.5), Row("team", {}, 6, 4))
    found = recent(shard, 30).totals("key")
    assert (found[-1].at, found[-1].usd_per_hour, found[-1].expected_usd_per_hour) == (T0 - 120, 6.0, 4.5)
    assert found[0].at == T0 - 120 - 24 * 3600
    assert recent(shard, 1).totals("nothing") == []


def test_a_series_that_is_gone_is_forgotten() -> None:
    alert = an_alert()
    shard = Shard(Row("key", alert.tags, 5.0, 4.0))
    burn = recent(shard, 1)
    shard.rows = ()
    shard.event_time = T0 + 9 * 3600
    burn.sample()
    assert burn.points(alert) == []
    assert burn._burns == {}


async def explained(points: list[Point], **changes: Any) -> Explanation:
    log = MemoryLog()
    await log.append([alert_message(an_alert(**changes))])
    recorded = await read_log(log, "a1")
    recorded.points = points
    return explain("a1", recorded, DetectorSettings())


def budget(usd: float, name: str = "b") -> BudgetStatus:
    return BudgetStatus(
        name=name,
        period="day",
        period_start=T0,
        period_end=T0 + 86400,
        amount_usd=usd,
        spent_usd=1.0,
        threshold=50.0,
    )


async def test_the_narrowest_budget_is_drawn_per_hour_unless_it_would_flatten_the_rest() -> None:
    found = await explained([Point(T0 + 60 * i, 10.0, 5.0) for i in range(9)])
    assert _budget_line(found, 10.0) is None
    found.budgets = [BudgetLine({}, budget(2400.0)), BudgetLine({"team": "search"}, budget(240.0))]
    assert _budget_line(found, 10.0) == 10.0
    found.budgets = [BudgetLine({}, budget(2400.0))]
    assert _budget_line(found, 10.0) is None
    with_budget, without = draw(found), draw(await explained([Point(T0 + 60 * i, 10.0, 5.0) for i in range(9)]))
    assert with_budget == without


async def test_the_picture_begins_before_the_alert_where_the_burn_is_known() -> None:
    alert = an_alert()
    log = MemoryLog()
    await log.append([alert_message(alert)])
    shard = Shard(Row("key", alert.tags, 5.0, 4.0))
    png = await IncidentChart(log, recent(shard, 2), DetectorSettings())("a1")
    assert png is not None
    assert struct.unpack(">II", png[16:24]) == (1200, 560)


async def test_nothing_to_draw_is_no_picture() -> None:
    log = MemoryLog()
    chart = IncidentChart(log, RecentBurn(lambda: [], ManualClock(T0)), DetectorSettings())
    assert await chart("nobody") is None
    await log.append([alert_message(an_alert())])
    assert await chart("a1") is None


async def test_without_the_library_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(found: Explanation) -> bytes:
        raise PermanentError("charts need matplotlib: install curbd[charts]")

    monkeypatch.setattr("curb.views.explain_chart.draw", missing)
    log = MemoryLog()
    await log.append([alert_message(an_alert())])
    chart = IncidentChart(log, RecentBurn(lambda: [], ManualClock(T0)), DetectorSettings())
    assert [await chart("a1"), await chart("a1")] == [None, None]
    assert len(caplog.records) == 1


async def test_a_log_that_is_away_is_a_reason_to_try_again() -> None:
    class Away(MemoryLog):
        async def scan(self, topic: str) -> Any:
            raise TransientError("log away")
            yield

    chart = IncidentChart(Away(), RecentBurn(lambda: [], ManualClock(T0)), DetectorSettings())
    with pytest.raises(TransientError):
        await chart("a1")
