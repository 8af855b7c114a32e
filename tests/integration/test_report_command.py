"""`curb report` on a log of a daemon that is down: every format to a file, and mistakes in one line."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner, Result

from curb.cli.main import app
from curb.stream.clock import ManualClock
from curb.stream.log.embedded import EmbeddedLog
from tests.fakes.report_log import ESTIMATED_USD, NOW, a_log
from tests.fakes.webhook_receiver import WebhookReceiver

OCTOBER = ("--from", "2026-10-01", "--to", "2026-11-01")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")

    async def fill() -> None:
        source = await a_log()
        log = EmbeddedLog(directory / "log", ManualClock(NOW))
        await log.open()
        for topic in ("curb.usage", "curb.costs", "curb.gpu"):
            await log.append([each._replace(partition=None) for each in source.of(topic)])
        await log.close()

    asyncio.run(fill())
    path = directory / "curb.yaml"
    path.write_text(f"log: {{kind: embedded, directory: {directory}/log}}\n", encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["report", *(str(each) for each in arguments)])


def test_every_format_is_written_whole(config: Path, tmp_path: Path) -> None:
    totals = {}
    for form in ("table", "html", "csv", "json", "focus"):
        out = tmp_path / f"report.{form}"
        result = run("-c", config, *OCTOBER, "--by", "team,model", "--by", "api_key", "--format", form, "-o", out)
        assert result.exit_code == 0, result.output
        text = out.read_bytes().decode()
        assert "161.27" in text or form in ("csv", "json", "focus")
        if form in ("csv", "focus"):
            column = "spend_usd" if form == "csv" else "EffectiveCost"
            rows = list(csv.DictReader(text.splitlines(keepends=True)))
            totals[form] = sum(float(row[column]) for row in rows)
        elif form == "json":
            totals[form] = sum(row["spend_usd"] for row in json.loads(text)["groups"])
    assert {form: round(total, 2) for form, total in totals.items()} == dict.fromkeys(totals, round(ESTIMATED_USD, 2))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"report.{f}" for f in ("table", "html", "csv", "json", "focus")
    }


def test_the_terminal_has_the_total_and_the_notes(config: Path) -> None:
    result = run("-c", config, *OCTOBER, "--top", "2")
    assert result.exit_code == 0
    for text in ("2026-10-01 to 2026-10-31 (UTC)", "$161.27 estimated from usage", "8 others", "-85 %", "not added"):
        assert text in result.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from", "soon"), "'soon' is no date"),
        (("--by", " , "), "--by names no tag"),
        (("--kpi", "nowhere.csv"), "No such file"),
        ((*OCTOBER, "--format", "csv", "--out", "/nowhere/x.csv"), "/nowhere/x.csv: No such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(config: Path, arguments: tuple[str, ...], why: str) -> None:
    result = run("-c", config, *arguments)
    assert result.exit_code == 2
    assert why in result.output
    assert len(result.output.splitlines()) == 1


async def test_it_is_sent_to_people_with_the_page_as_a_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    receiver = WebhookReceiver()
    async with TestServer(receiver.app()) as server:
        path = config.with_name("sends.yaml")
        hook = {"kind": "webhook", "name": "finance", "url": str(server.make_url("/hook"))}
        given = yaml.safe_load(config.read_text()) | {"actions": {"notifiers": [hook, {**hook, "name": "other"}]}}
        path.write_text(yaml.safe_dump(given))
        arguments = ("-c", path, *OCTOBER, "--by", "team", "--send", "finance", "--send", "finance")
        for _ in range(2):
            result = await asyncio.to_thread(run, *arguments)
            assert (result.exit_code, result.output) == (0, "report sent to finance\n")
        (letter,) = receiver.accepted.values()
        assert letter["title"] == "Spend 2026-10-01 to 2026-10-31 (UTC)"
        assert "$161.27 estimated from usage" in letter["lines"][0]
        amounts = [
            re.search(r": (-?)\$([\d,.]+)", line) for line in letter["lines"][letter["lines"].index("By team:") + 1 :]
        ]
        total = sum(float(found[2].replace(",", "")) for found in amounts if found)
        assert round(total, 2) == 161.27
        assert letter["html"].startswith("<!doctype html>") or "<html" in letter["html"]
        receiver.refuse_with = 404
        result = await asyncio.to_thread(run, *arguments)
        assert (result.exit_code, "not sent to finance: " in result.output) == (1, True)


def test_a_notifier_that_is_not_there_is_named(config: Path) -> None:
    result = run("-c", config, *OCTOBER, "--send", "finance")
    assert (result.exit_code, "no notifier is called finance; there are: none" in result.output) == (2, True)
