"""Forecasts and the slow lane as the daemon runs them, over a history that closes buckets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from curb.detector.budgets.budget import Budget
from curb.detector.forecast.pool import PoolSettings
from curb.detector.forecast.slow_lane import CHANNEL, LaneSettings
from curb.detector.forecast.spend_history import HistorySettings, SpendHistory
from curb.detector.settings import DetectorSettings, ForecastSettings
from curb.stream.clock import ManualClock
from curb.stream.records.spend import Alert
from curb.views.forecast_runner import ForecastRunner

START = int(datetime(2025, 3, 1, tzinfo=UTC).timestamp())
HOUR = 3600
BUDGETS = DetectorSettings(budgets=(Budget(name="cap", scope="team", amount_usd=10_000),))


class Shard:
    """Two teams: one even, one with days and nights."""

    def __init__(self) -> None:
        self.history = SpendHistory(HistorySettings(), "UTC", HOUR)
        self.history.grow(["team", "team"])
        self.hours = 0

    def subject(self, i: int) -> tuple[str, dict[str, str]]:
        return "team", {"team": ("even", "daily")[i]}

    def close(self, hours: int, usd: float | None = None) -> None:
        for _ in range(hours):
            cost = [1.0, 10 + 5 * np.sin(self.hours * 2 * np.pi / 24)]
            self.history.close(START + self.hours * HOUR, np.array(cost if usd is None else [usd, cost[1]]), False)
            self.hours += 1

    @property
    def end(self) -> int:
        return START + self.hours * HOUR


class House:
    """A runner over one shard, with the alerts it published."""

    def __init__(self, **lane: bool) -> None:
        self.shard, self.alerts = Shard(), list[Alert]()
        self.clock = ManualClock()
        settings = ForecastSettings(pool=PoolSettings(workers=1), lane=LaneSettings(**lane))
        self.runner = ForecastRunner(BUDGETS, settings, lambda: [self.shard], self.publish, self.clock)

    async def publish(self, alert: Alert) -> None:
        self.alerts.append(alert)

    async def look(self) -> None:
        await self.clock.advance(self.shard.end + 30 - self.clock.now())
        await self.runner.look()


@pytest.fixture
async def open_house() -> AsyncIterator[Callable[..., House]]:
    made: list[House] = []

    def build(**lane: bool) -> House:
        made.append(House(**lane))
        return made[-1]

    yield build
    for house in made:
        await house.runner.close()


async def test_a_young_daemon_answers_at_once(open_house: Callable[..., House]) -> None:
    house = open_house(enabled=False)
    assert (await house.runner.report("team", 5))["rows"] == []
    house.shard.close(36)
    await house.look()
    found = await house.runner.report("team", 5)
    assert found["at"] == "2025-03-02T12:00:00Z"
    daily, even = found["rows"]
    assert daily["tags"] == {"team": "daily"}
    assert (even["spent_usd"], even["budget"]) == (36.0, "cap")
    assert even["forecast_usd"] == pytest.approx(31 * 24, rel=0.01)
    assert len((await house.runner.report("team", 1))["rows"]) == 1
    assert (await house.runner.report("model", 5))["rows"] == []


async def test_long_histories_are_fitted_elsewhere_and_follow_the_day(open_house: Callable[..., House]) -> None:
    house = open_house(enabled=False)
    house.shard.close(40 * 24 + 6)
    before = {row["method"] for row in (await house.runner.report("team", 5))["rows"]}
    await house.look()
    while before == {"weekday_level"}:
        await asyncio.sleep(0.05)
        rows = (await house.runner.report("team", 5))["rows"]
        if all(row["method"] != "weekday_level" or row["missing"] for row in rows):
            break
    even = next(row for row in rows if row["tags"] == {"team": "even"})
    assert even["spent_usd"] == pytest.approx((40 - 31) * 24 + 6)
    assert even["forecast_usd"] == pytest.approx(30 * 24, rel=0.02)
    house.shard.close(6)
    later = (await house.runner.report("team", 5))["rows"]
    assert next(row for row in later if row["tags"] == {"team": "even"})["spent_usd"] == even["spent_usd"] + 6


async def test_an_hour_far_over_its_band_is_advice_once(open_house: Callable[..., House]) -> None:
    house = open_house()
    house.shard.close(10 * 24)
    await house.look()
    while house.runner.band("team", {"team": "even"}) is None:
        await asyncio.sleep(0.05)
    house.shard.close(1)
    await house.look()
    assert house.alerts == []
    for usd in (60.0, 70.0, 1.0):
        house.shard.close(1, usd)
        house.shard.close(0)
        await house.look()
    house.shard.close(1)
    await house.look()
    assert [(alert.status, alert.channel, alert.tier) for alert in house.alerts] == [
        ("firing", CHANNEL, "digest"),
        ("resolved", CHANNEL, "digest"),
    ]
    assert house.alerts[0].tags == {"team": "even"}
