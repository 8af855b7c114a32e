"""`--dry-run` says what would be given back, reads nothing but the log, and writes nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from curb.cli.main import app
from curb.stream.clock import WallClock
from curb.stream.log.codec import encode
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, COMMANDS
from curb.stream.records.spend import LedgerEntry, Plan

#: Nobody listens there: a dry run that called the gateway would fail.
_CONFIG = """
log: {directory: DATA}
actions:
  actions:
    - {kind: litellm_limits, name: throttle, base_url: "http://127.0.0.1:9", api_key: key}
"""


def an_entry(action_id: str, state: Any) -> LedgerEntry:
    plan = Plan(
        action="throttle",
        target=f"litellm/key/{action_id}",
        summary="limit key",
        before={"rpm_limit": 600},
        after={"rpm_limit": 9},
    )
    now = time.time()
    return LedgerEntry(
        action_id=action_id, state=state, at=now, alert_id="a", fingerprint="f", plan=plan, lease_expires_at=now - 3600
    )


async def everything(directory: Path, entries: list[LedgerEntry]) -> list[bytes]:
    """Append entries; what is on the ledger and among the commands then."""
    log = EmbeddedLog(directory, WallClock())
    await log.open()
    await log.append([Message(ACTIONS, encode(entry), key=b"k") for entry in entries])
    found = [message.value for topic in (ACTIONS, COMMANDS) async for message in log.scan(topic)]
    await log.close()
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "curb.yaml"
    path.write_text(_CONFIG.replace("DATA", str(tmp_path / "data")), encoding="utf-8")
    return path


def curb(config: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "-c", str(config)])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["actions", "undo", "held"], 0), (["actions", "restore-all"], 0), (["reaper"], 1)],
    ids=["undo", "restore-all", "reaper"],
)
def test_it_shows_and_changes_nothing(config: Path, arguments: list[str], code: int) -> None:
    data = config.parent / "data"
    before = asyncio.run(everything(data, [an_entry("held", "applied"), an_entry("over", "restored")]))
    result = curb(config, *arguments, "--dry-run")
    assert (result.exit_code, result.stdout.split()) == (
        code,
        ["held", "litellm/key/held", "{'rpm_limit':", "9}", "→", "{'rpm_limit':", "600}"],
    )
    assert asyncio.run(everything(data, [])) == before


def test_nothing_is_held(config: Path) -> None:
    asyncio.run(everything(config.parent / "data", [an_entry("over", "restored")]))
    assert curb(config, "actions", "undo", "over", "--dry-run").stdout == "nothing to undo: it is restored\n"
    assert curb(config, "actions", "restore-all", "--dry-run").stdout == "nothing is held\n"
    assert (curb(config, "reaper", "--dry-run").exit_code, curb(config, "reaper", "--dry-run").stdout) == (0, "")
