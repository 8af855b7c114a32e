"""`curb forget` on the data of an earlier version: no file holds the name, and the daemon goes on where it was."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curb.cli.main import app
from tests.old_logs import DIRECTORY, KEYS, configuration, started, unpack

pytestmark = pytest.mark.timeout(180)
_PACKED = DIRECTORY / "3b6dd1a-stopped.tar.gz"


def holds(directory: Path, name: str) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != "curb.yaml"]
    return [path.name for path in files if name.encode() in path.read_bytes()]


def curb(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    unpack(_PACKED, tmp_path / "data")
    (tmp_path / "data/left.json").rename(tmp_path / "left.json")
    (tmp_path / "curb.yaml").write_text(configuration(tmp_path / "data", 0, "http://127.0.0.1:9", "http://127.0.0.1:9"))
    return tmp_path


def test_no_file_holds_the_name_and_the_daemon_goes_on(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop, other, kept = KEYS
    data, config = home / "data", str(home / "curb.yaml")
    assert holds(data, other)
    code, said = curb("forget", f"api_key={other}", "--dry-run", "-c", config)
    assert (code, "would be replaced" in said) == (0, True), said
    assert holds(data, other)
    code, said = curb("forget", f"api_key={other}", "-c", config)
    assert (code, bool(holds(data, other))) == (1, True), "nobody said yes"
    code, said = curb("forget", f"api_key={other}", "--yes", "-c", config)
    assert (code, holds(data, other)) == (1, ["log.sqlite3"]), "the ids of its records begin with it"
    assert "log.sqlite3" in said
    code, said = curb("forget", f"api_key={other}", "--yes", "--parts", "-c", config)
    assert (code, holds(data, other)) == (0, []), said
    assert holds(data, kept)
    code, said = curb("forget", f"api_key={loop}", "--yes", "-c", config)
    assert code == 1
    assert "an action is not over" in said
    (home / "left.json").rename(data / "left.json")
    with caplog.at_level(logging.WARNING):
        series = asyncio.run(_series(data))
    assert not [each for each in caplog.records if "set aside" in each.message]
    forgotten = [key for key in series if key.startswith("forgotten-")]
    assert len(forgotten) == 1
    assert {loop, kept} <= series
    assert other not in series


def test_what_a_kill_left_in_the_file_is_overwritten_by_the_next_run(home: Path) -> None:
    name = "only-in-deleted-pages"
    with contextlib.closing(sqlite3.connect(home / "data/log.sqlite3")) as log:
        log.execute("PRAGMA secure_delete=OFF")
        log.execute("INSERT INTO latest VALUES ('gone', 'k', ?)", (name * 500,))
        log.commit()
        log.execute("DELETE FROM latest WHERE topic = 'gone'")
        log.commit()
    assert holds(home / "data", name)
    code, said = curb("forget", f"api_key={name}", "--yes", "-c", str(home / "curb.yaml"))
    assert (code, holds(home / "data", name)) == (0, []), said


async def _series(data: Path) -> set[str]:
    async with started(data, 1.0) as world, asyncio.timeout(90):
        while not all(world.daemon.caught_up().values()):
            await asyncio.sleep(0.05)
        return {row.tags["api_key"] for shard in world.daemon.shards() for row in shard.top(100, "key")}
