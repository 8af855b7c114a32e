"""All processes of a log lay their buckets on one grid, by the rows of all inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from curb.config.file import CurbConfig, load_text
from curb.detector.rollup.relay import CommandRelay
from curb.detector.rollup.rollup import Rollup
from curb.evaluate.grid import Grid, about_periods, grid_of_times, lie_on
from curb.row_grid import RowGrid
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import COMMANDS, GRID, SPEND, USAGE
from tests.fakes.memory_log import MemoryLog

START = 1_750_032_000
HOUR = (3600, 1440, 3650)
CALLS = (7, 0, 2)


def config(directory: Path) -> CurbConfig:
    return load_text(f"log: {{directory: {directory}}}\n")


def states(
    config: CurbConfig, *inputs: tuple[int, tuple[int, int, int]], decides: bool = False, count: int = 40
) -> dict[TopicPartition, object]:
    """Rollups of inputs whose rows have a step, a phase and a time until receipt, seconds."""
    found: dict[TopicPartition, object] = {}
    for partition, (step_s, phase_s, after_s) in inputs:
        rollup = Rollup(config.detector, USAGE, 4)
        starts = START + phase_s + step_s * np.arange(count, dtype=np.float64)
        rollup.recent_times.add(starts, starts + after_s)
        found[TopicPartition(USAGE, partition)] = rollup
    if decides:
        found[TopicPartition(COMMANDS, 0)] = CommandRelay(config.detector, 4)
    return found


async def follow(rows: RowGrid, log: MemoryLog) -> None:
    """Take in all that is on the log."""
    fresh = await log.table(GRID)
    for key, value in fresh.items():
        rows.take_in(key, value)


def bucket(rows: RowGrid) -> tuple[int, int]:
    return rows.config.detector.bucket_s, rows.config.detector.phase_s


async def test_two_processes_take_one_grid_by_the_rows_of_both(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    deciding, other = RowGrid(settings, log), RowGrid(settings, log)
    assert not await other.look(states(settings, (1, HOUR)), alone=False)
    await follow(deciding, log)
    assert await deciding.look(states(settings, (0, HOUR), decides=True), alone=False)
    deciding.take()
    assert bucket(deciding) == (3600, 1440)
    assert bucket(other) == (60, 0)
    await follow(other, log)
    assert await other.look(states(settings, (1, HOUR)), alone=False)
    other.take()
    assert bucket(other) == (3600, 1440)
    assert not await other.look(states(settings, (1, HOUR)), alone=False)


async def test_calls_of_another_process_keep_the_configured_buckets(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    deciding, other = RowGrid(settings, log), RowGrid(settings, log)
    await other.look(states(settings, (1, CALLS)), alone=False)
    await follow(deciding, log)
    assert not await deciding.look(states(settings, (0, HOUR), decides=True), alone=False)


async def test_calls_that_begin_elsewhere_end_the_grid_for_all(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    deciding, other = RowGrid(settings, log), RowGrid(settings, log)
    assert await deciding.look(states(settings, (0, HOUR), decides=True), alone=False)
    deciding.take()
    await follow(other, log)
    await other.look(states(settings, (1, CALLS)), alone=False)
    await follow(deciding, log)
    assert await deciding.look(states(settings, (0, HOUR), decides=True), alone=False)
    deciding.take()
    assert bucket(deciding) == (60, 0)


async def test_only_the_owner_of_the_commands_chooses(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    rows = RowGrid(settings, log)
    assert not await rows.look(states(settings, (0, HOUR), (1, HOUR)), alone=False)
    assert set(await log.table(GRID)) == {b"seen/curb.usage/0", b"seen/curb.usage/1"}


async def test_a_process_that_starts_takes_what_was_chosen(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    assert await RowGrid(settings, log).look(states(settings, (0, HOUR), decides=True), alone=True)
    started = RowGrid(settings, log)
    await started.open()
    assert bucket(started) == (3600, 1440)
    # An input that came from elsewhere and of which nothing was read yet changes nothing.
    assert not await started.look(states(settings, (0, HOUR), decides=True, count=0), alone=True)


async def test_the_same_rows_are_shown_once(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    rows = RowGrid(settings, log)
    for count in (10, 20, 40):
        await rows.look(states(settings, (0, HOUR), count=count), alone=False)
    assert len(log.of(GRID)) == 1
    await rows.look(states(settings, (0, CALLS)), alone=False)
    assert len(log.of(GRID)) == 2


async def test_a_log_without_its_beginning_keeps_its_buckets(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    log.messages[TopicPartition(SPEND, 2)].append(Message(SPEND, b"", partition=2, offset=7))
    rows = RowGrid(settings, log)
    assert not await rows.look(states(settings, (0, HOUR), decides=True), alone=True)
    assert await log.table(GRID) == {}


async def test_what_is_no_grid_is_left_out(tmp_path: Path) -> None:
    log, settings = MemoryLog(), config(tmp_path)
    for value in (b"{", b"[0,0,0.0]", b"[-60,0,0.0]", b'"x"'):
        await log.append([Message(GRID, value, key=b"chosen"), Message(GRID, value, key=b"seen/curb.usage/1")])
        rows = RowGrid(settings, log)
        await rows.open()
        assert bucket(rows) == (60, 0)
    await log.append([Message(GRID, b'{"starts":[1.0],"received":[]}', key=b"seen/curb.usage/1")])
    rows = RowGrid(settings, log)
    await rows.open()
    assert await rows.look(states(settings, (0, HOUR), decides=True), alone=True)


def times(*rows: tuple[float, float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array(rows, np.float64).T


HOURLY = [(START + 1440 + 3600.0 * hour, START + 1440 + 3600.0 * hour + 3605) for hour in range(48)]
YEARS_AGO = (START - 7 * 365 * 86400.0 + 1234.5, START + 7205.0)


def test_a_single_row_of_years_ago_is_no_reason_to_have_no_grid() -> None:
    for stray in (YEARS_AGO, (YEARS_AGO[0] + 0.5, YEARS_AGO[1])):
        for at in (0, 3, 48):
            found = grid_of_times(times(*HOURLY[:at], stray, *HOURLY[at:]))
            assert found[:2] == (3600, 1440)
            assert about_periods(times(*HOURLY[:at], stray, *HOURLY[at:]), found)


def test_it_is_no_reason_to_leave_a_grid_either_however_few_rows_there_are() -> None:
    assert lie_on(times(YEARS_AGO), Grid(3600, 1440))
    assert lie_on(times(YEARS_AGO, *HOURLY), Grid(3600, 1440))
    calls = [(START + 7.0 * number, START + 7.0 * number + 1) for number in range(20)]
    assert not lie_on(times(*calls), Grid(3600, 1440))
    assert not lie_on(times(*HOURLY, *calls), Grid(3600, 1440))


def test_a_part_of_the_rows_with_a_shorter_step_is_no_stray() -> None:
    halves = [(START + 1440 + 1800.0 * half, START + 1440 + 1800.0 * half + 1805) for half in range(6)]
    assert grid_of_times(times(*HOURLY, *halves))[:2] == (1800, 1440)
