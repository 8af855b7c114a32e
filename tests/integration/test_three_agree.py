"""Rows about periods give the same alerts in a back-test, in a replay and in a daemon, on the grid and off it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from curb import daemon as daemons
from curb import wiring
from curb.config.file import CurbConfig, load_text
from curb.daemon import Daemon
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay
from curb.feed import feed
from curb.stream.clock import ManualClock, WallClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE
from tests.fakes.row_judges import Found, answered, found_in, on_log, until
from tests.fakes.row_streams import RUNAWAY, rows, usage_of, write

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


def config_of(directory: Path) -> CurbConfig:
    return load_text(
        yaml.safe_dump(
            {
                "log": {"directory": str(directory / "data")},
                "state_dir": str(directory / "data" / "connectors"),
                "http": {"port": 0},
                "commit_interval_s": 0.01,
            }
        )
    )


def of_backtest(stream: Path) -> list[Found]:
    return found_in([life.last for life in replay(stream, DetectorSettings()).alerts.values()])


async def of_replay(stream: Path, directory: Path) -> list[Found]:
    config = config_of(directory)
    await feed(config, stream, "auto", Console(quiet=True))
    async with wiring.open_log(config, WallClock()) as log:
        return found_in(await on_log(log))


async def of_daemon(step_s: int, move_s: int, days: float, directory: Path) -> list[Found]:
    """Each row comes when its period is over, on a clock that is moved from period to period."""
    stream = list(rows(step_s, move_s, days))
    clock = ManualClock(stream[0]["start"])
    daemon = Daemon(config_of(directory), clock)
    await daemon.open()
    running = asyncio.create_task(daemon.run())
    try:
        await until(lambda: all(daemon.caught_up().values()))
        at = 0
        while at < len(stream):
            due = stream[at]["start"] + step_s + 3
            batch = []
            while at < len(stream) and stream[at]["received"] <= due:
                batch.append(stream[at])
                at += 1
            await clock.advance(due - clock.now())
            await daemon.log.append([Message(USAGE, encode_lines(map(usage_of, batch)), key=b"meter")])
            await answered(daemon)
            await clock.advance(57)  # the bucket closes
            await answered(daemon)
        await clock.advance(2 * step_s)
        await answered(daemon)
        return found_in(await on_log(daemon.log))
    finally:
        daemon.stop()
        await running
        await daemon.close()


# Of every length of rows and every move; all 16 pairs take ten minutes.
@pytest.mark.parametrize(
    ("step_s", "days", "move_s"),
    [(3600, 3.0, 0), (3600, 3.0, 1440), (900, 1.5, 420), (300, 1.0, 149), (300, 1.0, 420), (60, 0.6, 149)],
)
async def test_backtest_replay_and_daemon_agree(
    step_s: int, days: float, move_s: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "_LOOK_EVERY_S", 0.001)
    stream = write(tmp_path / "stream.jsonl", step_s, move_s, days)
    expected = of_backtest(stream)
    assert any(found.key == RUNAWAY for found in expected)
    assert await of_replay(stream, tmp_path / "replay") == expected
    found = await of_daemon(step_s, move_s, days, tmp_path / "daemon")
    assert [each[:4] for each in found] == [each[:4] for each in expected]
    # Before a daemon knows their grid, it has seen three of the periods in other buckets.
    assert [each.excess_usd for each in found] == pytest.approx([each.excess_usd for each in expected], rel=0.01)
