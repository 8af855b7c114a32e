"""Worker processes of the forecast pool, and Prophet inside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest

from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.days import DailySpend
from curb.detector.forecast.month_end import Period, forecast
from curb.detector.forecast.pool import FitFailedError, ForecastPool, PoolSettings, WorkerDiedError, urgency
from curb.detector.forecast.slow_lane import fit_band
from curb.detector.forecast.spend_history import HourlySpend
from tests.fakes import forecast_work as work


@pytest.fixture
async def pool() -> AsyncIterator[ForecastPool]:
    made = ForecastPool(PoolSettings(workers=1))
    yield made
    await made.aclose()


async def test_work_is_done_elsewhere(pool: ForecastPool) -> None:
    assert await pool.run("a", work.double, 21.0) == 42.0
    assert await pool.run("b", work.process_id) == await pool.run("c", work.process_id)


async def test_what_fails_tells_why_and_the_worker_lives(pool: ForecastPool) -> None:
    before = await pool.run("a", work.process_id)
    with pytest.raises(FitFailedError, match="ValueError: too short"):
        await pool.run("b", work.fail, "too short")
    assert await pool.run("c", work.process_id) == before


async def test_a_worker_that_dies_is_replaced(pool: ForecastPool) -> None:
    with pytest.raises(WorkerDiedError, match="-9"):
        await pool.run("a", work.die)
    assert await pool.run("b", work.double, 1.0) == 2.0


async def test_a_worker_that_hangs_is_ended() -> None:
    pool = ForecastPool(PoolSettings(workers=1, timeout_s=3))
    try:
        with pytest.raises(WorkerDiedError, match="longer than 3 s"):
            await pool.run("a", work.hang)
        assert await pool.run("b", work.double, 1.0) == 2.0
    finally:
        await pool.aclose()


async def test_a_worker_that_grew_too_large_is_replaced() -> None:
    pool = ForecastPool(PoolSettings(workers=1, max_memory_mib=150))
    try:
        grown = await pool.run("a", work.fill_memory, 200)
        assert await pool.run("b", work.process_id) != grown
    finally:
        await pool.aclose()


async def test_a_worker_is_replaced_after_so_many_fits() -> None:
    pool = ForecastPool(PoolSettings(workers=1, fits_per_worker=2))
    try:
        seen = [await pool.run(str(i), work.process_id) for i in range(4)]
    finally:
        await pool.aclose()
    assert seen[0] == seen[1] != seen[2] == seen[3]


async def test_the_most_urgent_goes_first(pool: ForecastPool, tmp_path: Path) -> None:
    go, notes = tmp_path / "go", tmp_path / "notes"
    waiting = [pool.submit("first", work.wait_for, str(go))]
    while len(pool):  # until the only worker has it
        await asyncio.sleep(0.01)
    usd = {"small": 5.0, "large": 500.0, "middle": 50.0}
    waiting += [pool.submit(k, work.note, str(notes), k, urgency=urgency(3600, v)) for k, v in usd.items()]
    replaced = pool.submit("small", work.note, str(notes), "small again", urgency=urgency(7200, 1000.0))
    go.touch()
    await asyncio.gather(*(asyncio.wrap_future(f) for f in [*waiting, replaced]), return_exceptions=True)
    assert waiting[1].cancelled()
    assert notes.read_text().split("\n")[:3] == ["small again", "large", "middle"]


async def test_too_much_waiting_drops_the_least_urgent(tmp_path: Path) -> None:
    pool, go = ForecastPool(PoolSettings(workers=1, max_waiting=2)), tmp_path / "go"
    try:
        busy = pool.submit("busy", work.wait_for, str(go))
        while len(pool):
            await asyncio.sleep(0.01)
        futures = [pool.submit(str(i), work.double, float(i), urgency=i) for i in (2, 1, 3)]
        assert [future.cancelled() for future in futures] == [False, True, False]
        go.touch()
        await asyncio.wrap_future(busy)
        assert await asyncio.wrap_future(futures[2]) == 6.0
    finally:
        await pool.aclose()


async def test_closing_ends_what_runs_and_what_waits() -> None:
    pool = ForecastPool(PoolSettings(workers=2))
    futures = [pool.submit(str(i), work.hang) for i in range(4)]
    while len(pool) > 2:
        await asyncio.sleep(0.01)
    await pool.aclose()
    await pool.aclose()
    for future in futures:
        with pytest.raises((CancelledError, WorkerDiedError)):
            future.result(timeout=10)
    assert pool.submit("late", work.double, 1.0).cancelled()


async def test_prophet_fits_days_and_hours_in_a_worker_within_its_memory() -> None:
    if forecast_prophet.missing():
        pytest.skip("prophet or statsmodels is not installed: curbd[prophet]")
    pool = ForecastPool(PoolSettings(workers=1, max_memory_mib=300, timeout_s=120))
    rng = np.random.default_rng(1)
    days = DailySpend(20000, 100 * np.exp(rng.normal(0, 0.1, 70)))
    hours = HourlySpend(20000 * 86400, 10 + 5 * np.sin(np.arange(500) * 2 * np.pi / 24) + rng.normal(0, 0.5, 500))
    try:
        found = await pool.run("days", forecast, days, Period(20060, 20090))
        band = await pool.run("hours", fit_band, hours, "UTC", 0.0)
        same = await pool.run("a", work.process_id), await pool.run("b", work.process_id)
    finally:
        await pool.aclose()
    assert found.method == "median(weekday_level, holt_winters, prophet)"
    assert found.missing == ()
    assert found.expected_usd == pytest.approx(3000, rel=0.1)
    assert band.method == "prophet"
    truth = 10 + 5 * np.sin((500 + np.arange(24)) * 2 * np.pi / 24)
    assert np.abs(np.array(band.expected[:24]) - truth).max() < 1.5
    # Had it grown over the limit, it would have been replaced in between.
    assert same[0] == same[1]
