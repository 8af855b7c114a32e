"""`curb connectors`, `curb reconcile` and `curb spend --by`, with the daemon up and down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from curb.cli import connectors as command
from curb.cli.main import app
from curb.config.file import CurbConfig, load_file
from curb.connectors.connector import Check, Pull
from curb.daemon import Daemon
from curb.stream.errors import PermanentError
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.time import iso

TOKEN = "a-long-token"
NOW = int(time.time()) - 3600
CONFIG = """
log: {{directory: {directory}/data}}
http: {{port: {port}}}
commit_interval_s: 0.05
connectors:
  - {{kind: usage_jsonl, name: gw, token: {token}}}
  - {{kind: usage_jsonl, name: files, path: "{directory}/usage*.jsonl", poll_interval_s: 0.05}}
attribution:
  keys: {{team: [owner]}}
  shares: [{{name: db, match: {{resource: db}}, fixed: {{a: 1, b: 3}}}}]
reconcile:
  pairs: [{{name: all, estimated: {{source: "*"}}, billed: {{source: bill}}}}]
detector:
  grace_s: 0
"""


def write_config(directory: Path, port: int) -> Path:
    path = directory / "curb.yaml"
    path.write_text(CONFIG.format(directory=directory, port=port, token=TOKEN), encoding="utf-8")
    return path


def line(number: int, **tags: str) -> str:
    return json.dumps({"id": f"r{number}", "charge_period_start": NOW + number, "effective_cost": 2.0, "tags": tags})


class House:
    """A daemon that runs, and its configuration with the port it took."""

    def __init__(self, daemon: Daemon, config: Path) -> None:
        self.daemon, self.config = daemon, config

    async def curb(self, *args: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*args, "-c", str(self.config)])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    daemon = Daemon(load_file(write_config(tmp_path, 0)))
    await daemon.open()
    running = asyncio.create_task(daemon.run())
    yield House(daemon, write_config(tmp_path, daemon.port))
    daemon.stop()
    await running
    await daemon.close()


async def rows_of(house: House, *args: str) -> list[dict[str, Any]]:
    result = await house.curb(*args, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(each) for each in result.stdout.splitlines()]


async def post(house: House, *lines: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{house.daemon.port}/v1/ingest/gw"
    async with aiohttp.ClientSession() as http, http.post(url, data="\n".join(lines), headers=headers) as answer:
        assert answer.status in (200, 207)  # 207 where a line is refused


async def until(wanted: Any, *args: str, house: House) -> list[dict[str, Any]]:
    """The rows of a command once they are as wanted; within ten seconds."""
    async with asyncio.timeout(10):
        while not wanted(rows := await rows_of(house, *args)):
            await asyncio.sleep(0.05)
    return rows


async def test_list_asks_the_daemon_and_then_reads_its_log(house: House, tmp_path: Path) -> None:
    (tmp_path / "usage1.jsonl").write_text(line(1, Owner="x") + "\n" + line(2) + "\n", encoding="utf-8")
    await post(house, line(3, resource="db"), "not json")
    rows = await until(lambda rows: rows[0]["cursor"], "connectors", "list", house=house)
    assert [(row["name"], row["kind"], row["way"]) for row in rows] == [
        ("files", "usage_jsonl", "pulls"),
        ("gw", "usage_jsonl", "is pushed to"),
    ]
    assert [(row["records"], row["dead_letters"]) for row in rows] == [(2, 0), (1, 1)]
    assert [row["newest_charge"] for row in rows] == [iso(NOW + 2), iso(NOW + 3)]
    assert all(row["lag_s"] < 60 for row in rows)
    shown = await house.curb("connectors", "list")
    assert "usage_jsonl" in shown.output

    house.daemon.stop()
    async with asyncio.timeout(10):
        while house.daemon._tasks:
            await asyncio.sleep(0.05)
    result = await house.curb("connectors", "list", "--json")
    offline = [json.loads(each) for each in result.stdout.splitlines()]
    assert "read from the log" in result.stderr
    assert [(row["name"], row["records"], row["dead_letters"]) for row in offline] == [("files", 2, 0), ("gw", 2, 1)]
    assert offline[0]["cursor"] == rows[0]["cursor"]
    assert "not_json" in offline[1]["last_error"]


async def test_attribution_stands_before_push_and_pull(house: House, tmp_path: Path) -> None:
    (tmp_path / "usage1.jsonl").write_text(line(1, Owner="x") + "\n", encoding="utf-8")
    await post(house, line(3, OWNER="y"), line(4, resource="db"), line(5))
    rows = await until(lambda rows: len(rows) == 5, "spend", "--by", "team", house=house)
    found = {row["tags"]["team"]: (row["total_usd"], row["usd_per_unit"]) for row in rows}
    assert found == {"x": (2.0, 2.0), "y": (2.0, 2.0), "a": (0.5, None), "b": (1.5, 1.5), "__untagged__": (2.0, 2.0)}
    shown = await house.curb("spend", "--by", "team")
    assert "25.0 % of the dollars have no team" in shown.output
    wrong = await house.curb("spend", "--by", "planet")
    assert wrong.exit_code == 2
    assert "no scope has the tags planet" in wrong.stderr


async def test_reconcile_says_that_nothing_is_known_yet(house: House) -> None:
    assert "nothing is reconciled yet" in (await house.curb("reconcile")).output
    url = f"http://127.0.0.1:{house.daemon.port}/v1/"
    async with aiohttp.ClientSession() as http:
        for path, key in (("reconciliation", "pairs"), ("unit-costs", "unit_costs"), ("connectors", "connectors")):
            async with http.get(url + path) as answer:
                assert key in await answer.json()


async def test_check_of_a_push_source_asks_whether_the_daemon_listens(house: House) -> None:
    result = await house.curb("connectors", "check", "gw")
    assert result.exit_code == 0, result.output
    assert "ok   POST /v1/ingest/gw is open: last heard never" in result.output
    assert (await house.curb("connectors", "check", "nobody")).exit_code == 2


async def test_check_of_files_names_what_cannot_be_read(house: House, tmp_path: Path) -> None:
    missing = await house.curb("connectors", "check", "files")
    assert missing.exit_code == 1
    assert "FAIL files at" in missing.output
    (tmp_path / "usage1.jsonl").write_text(line(1) + "\n", encoding="utf-8")
    found = await house.curb("connectors", "check", "files", "--json")
    assert found.exit_code == 0
    assert json.loads(found.stdout)["detail"] == "1 files"


async def test_without_pairs_the_reconcilers_old_position_is_forgotten(tmp_path: Path) -> None:
    text = write_config(tmp_path, 0).read_text(encoding="utf-8")
    for content in (text, text.partition("reconcile:")[0]):
        (tmp_path / "curb.yaml").write_text(content, encoding="utf-8")
        daemon = Daemon(load_file(tmp_path / "curb.yaml"))
        await daemon.open()
        running = asyncio.create_task(daemon.run())
        await post(House(daemon, tmp_path), line(1))
        await asyncio.wait_for(_settled(daemon), 10)
        daemon.stop()
        await running
        log = daemon.log
        assert isinstance(log, EmbeddedLog)
        groups = await log._call(
            lambda log=log: log._db.execute("SELECT DISTINCT reader_group FROM positions").fetchall()
        )  # type: ignore[misc]
        assert (("curb-reconcile",) in groups) is (content is text)
        await daemon.close()


async def _settled(daemon: Daemon) -> None:
    while not (daemon.detector.rounds > 2 and (daemon.reconciler is None or daemon.reconciler.rounds > 2)):
        await asyncio.sleep(0.02)


# --- checks --------------------------------------------------------------------------------------------------------


class Source:
    """A connector that can be tried."""

    def __init__(self, answer: list[Check] | Exception) -> None:
        self._answer, self.closed = answer, False

    async def read(self, cursor: str | None) -> None:
        raise AssertionError("a check reads nothing")

    async def check(self) -> list[Check]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    async def close(self) -> None:
        self.closed = True


class Settings:
    kind, name = "some", "some"

    def __init__(self, built: Any) -> None:
        self._built = built

    def build(self, context: object) -> Any:
        if isinstance(self._built, Exception):
            raise self._built
        return Pull(self._built, 60)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([Check("a", True), Check("b", False, "denied", "s3:GetObject")], [("a", True), ("b", False)]),
        (PermanentError("the key is wrong"), [("reach the source", False)]),
        (TimeoutError(), [("reach the source", False)]),
    ],
)
async def test_a_check_says_what_is_missing_and_closes(
    answer: list[Check] | Exception, expected: list[tuple[str, bool]]
) -> None:
    source = Source(answer)
    found = await command.run_checks(CurbConfig(), Settings(source))
    assert [(each.what, each.ok) for each in found] == expected
    assert source.closed


async def test_what_cannot_be_built_is_a_failed_check() -> None:
    (found,) = await command.run_checks(CurbConfig(), Settings(ImportError("install curbd[aws]")))
    assert (found.ok, found.detail) == (False, "install curbd[aws]")


def test_missing_permissions_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(Check("read [bold]x[/bold]", False, "denied", "s3:GetObject"))
    assert capsys.readouterr().out == "FAIL read [bold]x[/bold]: denied (needs s3:GetObject)\n"
