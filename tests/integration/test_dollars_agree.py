"""Every dollar of an incident, wherever it is shown, is a sum over the records: alert, messages, page and commands."""

from __future__ import annotations

import gzip
import html
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from curb.actions.notify import wording
from curb.actions.notify.protocol import Notice
from curb.actions.slack.blocks import blocks
from curb.cli import explain_table, render
from curb.config.file import CurbConfig
from curb.connectors.intake.refused_posts import RefusedPosts
from curb.demo.trace import default_directory
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.evaluate import backtest
from curb.report import page as report_page
from curb.report import table as report_table
from curb.report.charges import Charges
from curb.report.figures import assemble, read_recorded
from curb.report.span import ReportSpan
from curb.report.wording import headline
from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.clock import ManualClock
from curb.stream.money import usd
from curb.stream.records.spend import Alert
from curb.views.alerts_and_actions import LogView
from curb.views.explanation import Recorded, explain
from curb.views.recent_burn import RecentBurn
from tests.fakes.alerts import alert_message, an_entry
from tests.fakes.demo_recording import demo_recording
from tests.fakes.memory_log import MemoryLog

pytestmark = pytest.mark.timeout(600)
BUCKET_S = 300
BUDGETS = [
    {"name": "team-day", "scope": "team", "amount_usd": 25, "period": "day"},
    {"name": "all", "scope": "team", "shared": True, "amount_usd": 150, "period": "month", "hard": True},
]
SETTINGS = DetectorSettings.model_validate({"bucket_s": BUCKET_S, "budgets": BUDGETS})


class Stream(NamedTuple):
    """The records as they were written, and what became of them."""

    records: list[dict[str, Any]]
    alerts: list[Alert]
    shard: Shard

    def sum(self, tags: dict[str, str], start: float, end: float, known_at: float = math.inf) -> float:
        """Dollars of the records with these tags that began from `start` to before `end` and were known by then."""
        return math.fsum(
            each["cost_usd"]
            for each in self.records
            if start <= each["at"] < end
            and each["known_at"] <= known_at
            and all(each["tags"].get(tag) == value for tag, value in tags.items())
        )


def _records(events: Path) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    with gzip.open(events, "rb") as lines:
        for line in lines:
            event = json.loads(line)
            for name, field in (("at", "ts"), ("known_at", "recv")):
                event[name] = datetime.fromisoformat(event[field]).replace(tzinfo=UTC).timestamp()
            seen.setdefault(event["id"], event)
    return list(seen.values())


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Four days of the demo's traffic with eight agent loops."""
    recording = demo_recording(default_directory(), tmp_path_factory.mktemp("recording"))
    result = backtest.replay(recording, SETTINGS)
    assert result.pipeline is not None
    kinds = {"budget", "runaway", "abusive", "unit_cost"}
    found = [life.last for life in result.alerts.values() if life.last.kind in kinds and life.last.tier != "soft"]
    return Stream(_records(recording / "events.jsonl.gz"), found, result.pipeline.shard)


def of_budget(stream: Stream, alert: Alert) -> list[str]:
    """What every surface must show of a budget's alert, from the records alone."""
    budget = alert.budget
    assert budget is not None
    is_over = alert.resolved_at is not None and alert.resolved_at >= budget.period_end
    known_at = math.inf if is_over else alert.updated_at
    start, end = budget.period_start, budget.period_end
    spent = stream.sum(alert.tags, start, end, known_at)
    assert (budget.spent_usd, alert.actual_usd) == (pytest.approx(spent), pytest.approx(spent))
    assert alert.expected_usd == budget.amount_usd
    assert alert.excess_usd == pytest.approx(max(0.0, spent - budget.amount_usd), abs=1e-9)
    for cause in alert.causes:
        assert cause.excess_usd == pytest.approx(stream.sum(cause.tags, start, end, known_at))
        assert cause.share == pytest.approx(cause.excess_usd / spent)
    return [f"{usd(spent)} of {usd(budget.amount_usd)}", usd(abs(budget.amount_usd - spent))]


def of_series(stream: Stream, alert: Alert) -> list[str]:
    """What every surface must show of an alert on what a series burns over its expected."""
    end = (alert.updated_at - SETTINGS.grace_s) // BUCKET_S * BUCKET_S
    actual = stream.sum(alert.tags, alert.started_at, end)
    excess = max(0.0, actual - alert.expected_usd)
    assert alert.actual_usd == pytest.approx(actual)
    assert alert.excess_usd == pytest.approx(excess, abs=1e-9)
    return [usd(excess)]


def surfaces(alert: Alert) -> dict[str, str]:
    """An alert as people see it."""
    notice, listed, explained = Notice("k", alert), io.StringIO(), io.StringIO()
    render.alerts(Console(file=listed, width=300), [alert], json_lines=False)
    found = explain(alert.alert_id, Recorded(revisions=[alert], alerts={alert.alert_id: alert}), SETTINGS)
    explain_table.show(Console(file=explained, width=300), found)
    return {
        "Slack": json.dumps(blocks(notice), ensure_ascii=False),
        "text": "\n".join(wording.plain_lines(notice)),
        "curb alerts": listed.getvalue(),
        "curb explain": explained.getvalue(),
    }


def test_every_dollar_of_every_incident_is_a_sum_over_the_records(stream: Stream) -> None:
    assert {"budget", "abusive"} <= {alert.kind for alert in stream.alerts}
    for alert in stream.alerts:
        wanted = of_budget(stream, alert) if alert.kind == "budget" else of_series(stream, alert)
        for place, text in surfaces(alert).items():
            for words in wanted:
                assert words in text, (place, alert.kind, alert.channel)


def test_a_budget_has_one_alert_on_its_spend_in_a_period(stream: Stream) -> None:
    spent = [alert for alert in stream.alerts if alert.kind == "budget" and "burn" not in alert.channel]
    assert len({alert.fingerprint for alert in spent}) == len(spent) > 10
    assert all(alert.revision <= 60 for alert in spent)


def test_totals_are_those_of_the_records(stream: Stream) -> None:
    totals = stream.shard.totals("key")
    for tags, total in totals:
        assert total == pytest.approx(stream.sum(tags, -math.inf, math.inf)), tags
    everything = stream.sum({}, -math.inf, math.inf)
    assert math.fsum(total for _, total in totals) == pytest.approx(everything)


def daemon_of(stream: Stream) -> Running:
    """A daemon that has processed the stream, as far as the HTTP API reads it."""
    view, clock = LogView(), ManualClock(max(alert.updated_at for alert in stream.alerts))
    for alert in stream.alerts:
        view.apply(alert_message(alert))
    nothing: dict[str, Any] = {"halted": None, "open": [], "proposed": [], "ceilings": [], "problems": {}}
    return cast(
        "Running",
        SimpleNamespace(
            config=CurbConfig.model_validate({"detector": {"bucket_s": BUCKET_S, "budgets": BUDGETS}}),
            log=MemoryLog(),
            view=view,
            clock=clock,
            lag_s=dict,
            caught_up=lambda: {"detector": True},
            log_problem=str,
            connectors=SimpleNamespace(runners=[], sources={}, refused_posts=RefusedPosts()),
            action_state=lambda: nothing,
            shards=lambda: [stream.shard],
            recent=RecentBurn(list, clock),
            reconciliations=list,
        ),
    )


async def test_the_api_the_pages_and_the_metrics_show_the_same_dollars(stream: Stream) -> None:
    async with TestClient(TestServer(make_app(daemon_of(stream), Doors()))) as client:
        async with client.get("/v1/alerts", params={"limit": "10000"}) as answer:
            alerts = {each["alert_id"]: each for each in await answer.json()}
        async with client.get("/v1/budgets") as answer:
            budgets = (await answer.json())["budgets"]
        async with client.get("/metrics") as answer:
            families = {each.name: each for each in text_string_to_metric_families(await answer.text())}
        pages = {}
        for alert in stream.alerts:
            async with client.get(f"/alerts/{alert.alert_id}") as answer:
                pages[alert.alert_id] = html.unescape(await answer.text())
    assert alerts.keys() == {alert.alert_id for alert in stream.alerts}
    for alert in stream.alerts:
        shown = alerts[alert.alert_id]
        wanted = (of_budget if alert.kind == "budget" else of_series)(stream, alert)
        figures = {
            usd(shown["excess_usd"]),
            usd(shown["actual_usd"]),
            usd(abs(shown["expected_usd"] - shown["actual_usd"])),
        }
        assert wanted[-1] in figures, alert.channel
        assert all(words in pages[alert.alert_id] for words in wanted), alert.channel
    assert len(budgets) > 2
    for row in budgets:
        assert row["spent_usd"] == pytest.approx(stream.sum(row["tags"], row["period_start"], row["period_end"]))
    samples = families["curb_spend_usd"].samples
    keys = {each.labels["tag_api_key"]: each.value for each in samples if each.labels["scope"] == "key"}
    shown_alone = [key for key in keys if key != "__other__"]
    assert len(shown_alone) > 3
    for key in shown_alone:
        assert keys[key] == pytest.approx(stream.sum({"api_key": key}, -math.inf, math.inf))
    teams = [each for each in samples if each.labels["scope"] == "team"]
    assert math.fsum(each.value for each in teams) == pytest.approx(stream.sum({}, -math.inf, math.inf))
    firing = {alert.alert_id: alert for alert in stream.alerts if alert.status == "firing"}
    for each in families["curb_alert_excess_usd"].samples:
        alert = firing[each.labels["alert_id"]]
        end = (alert.updated_at - SETTINGS.grace_s) // BUCKET_S * BUCKET_S
        if alert.kind != "budget":
            assert each.value == pytest.approx(
                max(0.0, stream.sum(alert.tags, alert.started_at, end) - alert.expected_usd)
            )


def test_an_action_is_shown_with_the_dollars_of_its_ledger(stream: Stream) -> None:
    alert, printed = stream.alerts[0], io.StringIO()
    entries = [
        an_entry(1, state, alert_id=alert.alert_id, saved_usd=usd_)
        for state, usd_ in (("applied", None), ("restored", 12.34))
    ]
    render.action_life(Console(file=printed, width=300), entries, json_lines=False)
    assert "saved    $12.34" in printed.getvalue()
    assert f"alert {alert.alert_id}" in printed.getvalue()


async def test_a_report_lists_anomalies_with_the_same_dollars(stream: Stream) -> None:
    log = MemoryLog()
    await log.append([alert_message(alert) for alert in stream.alerts])
    starts = [each["at"] for each in stream.records]
    span = ReportSpan(min(starts), max(starts) + 86_400, ZoneInfo("UTC"))
    charges = await Charges(span, ("team",), SETTINGS, lines=False).read(log)
    found = assemble(charges, await read_recorded(log, SETTINGS), SETTINGS, (), None, span.end)
    anomalies = {alert.alert_id: alert for alert in stream.alerts if alert.kind != "budget"}
    assert [row.alert_id for row in found.anomalies] == sorted(anomalies, key=lambda each: -anomalies[each].excess_usd)
    printed = io.StringIO()
    report_table.show(Console(file=printed, width=300), found, 10)
    places = (html.unescape(report_page.page(found)), printed.getvalue())
    total = 0.0
    for row in found.anomalies:
        words = of_series(stream, anomalies[row.alert_id])
        assert usd(row.excess_usd) == words[0]
        assert all(word in place for word in words for place in places), row
        total += row.excess_usd
    assert found.total.excess_usd == pytest.approx(total)
    assert any(f"{len(anomalies)} anomalies, {usd(total)} over the expected" in line for line in headline(found))
