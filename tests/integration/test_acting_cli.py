"""`curb plan`, `approve`, `deny`, `restore-all` and `show` on a log without a daemon and a gateway that is down."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from curb.cli.main import app
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines, encode
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, COMMANDS
from curb.stream.records.spend import Command, LedgerEntry, Plan
from tests.fakes.alerts import alert_message, an_alert

_CONFIG = """
log: {{directory: {directory}}}
actions:
  mode: {mode}
  actions:
    - {{kind: litellm_limits, name: limits, base_url: "http://127.0.0.1:9", api_key: sk-1, timeout_s: 1}}
  approvers:
    finance: {{people: [fred]}}
  routes:
    - ladder:
        - {{do: notify, verify_within_minutes: 5}}
        - {{do: shave_to_normal, act: [limits]}}
  limits:
    criticality: [{{match: {{}}, is: non_critical}}]
"""


class Shell:
    def __init__(self, directory: Path, mode: str = "auto") -> None:
        self.directory, self.config = directory / "data", directory / "curb.yaml"
        self.config.write_text(_CONFIG.format(directory=self.directory, mode=mode), encoding="utf-8")

    def lines(self, *words: str, code: int = 0, answer: str = "") -> list[str]:
        result = CliRunner().invoke(app, [*words, "-c", str(self.config)], input=answer)
        assert result.exit_code == code, result.output
        return result.output.splitlines()

    def __call__(self, *words: str, code: int = 0, answer: str = "") -> str:
        return " ".join(" ".join(self.lines(*words, code=code, answer=answer)).split())

    def on_log(self, *messages: Message) -> None:
        async def write() -> None:
            log = EmbeddedLog(self.directory, WallClock())
            await log.open()
            await log.append(messages)
            await log.close()

        asyncio.run(write())

    def told(self) -> list[Command]:
        async def read() -> list[Command]:
            log = EmbeddedLog(self.directory, WallClock())
            await log.open()
            found = [c async for m in log.scan(COMMANDS) for c in decode_lines(m.value, Command, lambda *_: None)]
            await log.close()
            return found

        return asyncio.run(read())


@pytest.fixture
def curb(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def an_entry(state: Any, **changes: Any) -> Message:
    entry = LedgerEntry(
        action_id="x1",
        state=state,
        at=time.time(),
        alert_id="a1",
        fingerprint="f1",
        plan=Plan(
            action="limits",
            target="litellm/key/k1",
            summary="limit k1",
            before={"rpm_limit": 500},
            after={"rpm_limit": 20},
        ),
        do="shave_to_normal",
        why="its normal level (p95)",
    )
    return Message(ACTIONS, encode(msgspec.structs.replace(entry, **changes)), key=b"litellm/key/k1")


def test_with_nothing_on_the_log_there_is_nothing_to_do(curb: Shell) -> None:
    assert curb("plan") == "no firing alert; nothing to do"
    assert curb("plan", "--json") == ""
    assert curb("actions", "restore-all") == "nothing is held"
    assert "no action x1 on the ledger" in curb("actions", "approve", "x1", code=1)
    assert "no action x1 on the ledger" in curb("actions", "deny", "x1", code=1)


def test_plan_shows_the_rung_and_what_stands_in_the_way(curb: Shell) -> None:
    now = time.time()
    curb.on_log(alert_message(an_alert(fired_at=now, updated_at=now)))
    said = curb("plan")
    assert "page runaway team=search project=rank api_key=k1 burns $240.00/h, expected $12.00/h" in said
    assert "rung 1 of 2, notify" in said
    assert "then rung 2 0 to change now, 0 to propose" in said
    curb.on_log(alert_message(an_alert(alert_id="a2", fired_at=now - 600, updated_at=now)))
    rows = [json.loads(line) for line in curb.lines("plan", "--json")]
    assert [(row["alert_id"], row["rung"], row["plan"]) for row in rows] == [("a1", 1, None), ("a2", 2, None)]
    assert "shave_to_normal, auto: cannot be planned:" in curb("plan")


def test_an_answer_is_a_command_by_whoever_gives_it(curb: Shell) -> None:
    curb.on_log(an_entry("proposed", answer_by=time.time() + 60, approvers=["fred"]))
    assert "may approve: fred" in curb("actions", "show", "x1")
    assert "proposed" in curb("actions", "list")
    curb("actions", "approve", "x1")
    curb("actions", "deny", "x1")
    assert [(c.kind, c.by, c.args) for c in curb.told()] == [
        ("approve", getpass.getuser(), {"action_id": "x1"}),
        ("deny", getpass.getuser(), {"action_id": "x1"}),
    ]
    curb.on_log(an_entry("applied", at=time.time() + 1))
    assert "x1 is not a proposal any more, it is applied" in curb("actions", "approve", "x1", code=1)


def test_an_action_in_force_is_extended(curb: Shell) -> None:
    curb.on_log(an_entry("planned"))
    assert "x1 is not in force" in curb("actions", "extend", "x1", code=1)
    curb.on_log(an_entry("applied", at=time.time() + 1))
    assert f"extend by {getpass.getuser()} is on the log" in curb("actions", "extend", "x1")
    assert [(command.kind, command.args) for command in curb.told()] == [("extend", {"action_id": "x1"})]


def test_restoring_everything_asks_first_and_says_what_is_still_held(curb: Shell) -> None:
    curb.on_log(an_entry("planned"), an_entry("applied", at=time.time() + 1))
    assert "Restore 1?" in curb("actions", "restore-all", answer="n\n", code=1)
    assert curb.told() == []
    said = curb("actions", "restore-all", "--yes", code=1)
    assert "x1 litellm/key/k1 {'rpm_limit': 20} → {'rpm_limit': 500}" in said
    assert "x1 still held: litellm/key/k1: GET 127.0.0.1/key/info: ClientConnectorError" in said
    assert "a running daemon or reaper goes on trying" in said
    assert [(command.kind, command.args) for command in curb.told()] == [("undo", {"action_id": "x1"})]


def test_what_cannot_be_given_back_is_listed_with_its_tries_and_may_be_left(curb: Shell) -> None:
    refused = {"ending": True, "tries": 3, "refusal": "HTTP 403: denied", "detail": "still in force: HTTP 403: denied"}
    curb.on_log(an_entry("applied", at=time.time() + 1, **refused))
    said = curb("actions", "list")
    assert all(part in said for part in ("tried 3×", "denied", "rpm_limit", "500", "20", "by curb"))
    # What leaves it needs no secret of the gateway.
    text = curb.config.read_text(encoding="utf-8")
    curb.config.write_text(text.replace("sk-1", '"${CURB_A_VARIABLE_THAT_IS_NOT_SET}"'), encoding="utf-8")
    assert f"x1 left in force by {getpass.getuser()}" in curb("actions", "leave", "x1")
    curb.config.write_text(text, encoding="utf-8")
    assert [(command.kind, command.args) for command in curb.told()] == [("leave", {"action_id": "x1"})]
    assert "x1 is not in force" in curb("actions", "leave", "x1", code=1)
    assert "nothing is held" in curb("actions", "restore-all")


def test_show_says_why_who_before_after_and_what_it_saved(curb: Shell) -> None:
    curb.on_log(an_entry("restored", saved_usd=114.5, rejected=990, approved_by="fred", tags={"team": "search"}))
    said = curb("actions", "show", "x1")
    assert "why alert a1 team=search; rung 1 shave_to_normal: its normal level (p95)" in said
    assert "who approved by fred before {'rpm_limit': 500} after {'rpm_limit': 20}" in said
    assert "saved $114.50 rejected 990 requests" in said


_LOG_ONLY = (
    "halt --reason x",
    "resume",
    "alerts",
    "spend",
    "spend --by team --unit requests",
    "report",
    "budgets",
    "reconcile",
    "silence list",
    "actions list",
    "actions show {id}",
    "actions undo {id}",
    "actions approve {id}",
    "actions deny {id}",
)


def test_commands_on_the_log_need_no_secret_of_the_daemon(curb: Shell) -> None:
    text = curb.config.read_text(encoding="utf-8").replace("sk-1", "'${CURB_UNSET_LEVER}'")
    text += "connectors: [{kind: usage_jsonl, name: gw, token: '${CURB_UNSET_TOKEN}'}]\n"
    text += "http: {port: 9, token: '${CURB_UNSET_API}'}\n"
    curb.config.write_text(text, encoding="utf-8")
    proposed = an_entry("proposed")
    curb.on_log(alert_message(an_alert()), proposed)
    (entry,) = decode_lines(proposed.value, LedgerEntry, lambda *_: None)
    for words in _LOG_ONLY:
        curb(*words.format(id=entry.action_id).split())
    assert "no spend in this scope yet" in curb("forecast", code=1)
    assert [c.kind for c in curb.told()] == ["halt", "resume", "undo", "approve", "deny"]
    for words in ("check-config", "run", "reaper --once", "actions restore-all", "plan", "drill limits --tag a=b"):
        assert "CURB_UNSET_LEVER is not set" in curb(*words.split(), code=2)
    curb.config.write_text("log: {directory: '${CURB_UNSET_LOG}'}\n", encoding="utf-8")
    assert "CURB_UNSET_LOG is not set" in curb("halt", code=2)
