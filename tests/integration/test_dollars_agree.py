"""Every dollar of an incident, wherever it is shown, is a sum over the records: alert, messages, page and commands."""

from __future__ import annotations

import gzip
import html
import io
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from curb.actions.notify import wording
from curb.actions.notify.protocol import Notice
from curb.actions.slack.blocks import blocks
from curb.cli import explain_table, render
from curb.demo.recording import demo_recording
from curb.demo.trace import default_directory
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.evaluate import backtest
from curb.serve.pages.overview import _templates
from curb.stream.money import usd
from curb.stream.records.spend import Alert
from curb.views.explanation import Recorded, explain
from tests.fakes.alerts import an_entry

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
    result = backtest.replay(recording.path, SETTINGS)
    assert result.pipeline is not None
    kinds = {"budget", "runaway", "abusive", "unit_cost"}
    found = [life.last for life in result.alerts.values() if life.last.kind in kinds and life.last.tier != "soft"]
    return Stream(_records(recording.path / "events.jsonl.gz"), found, result.pipeline.shard)


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
    page = _templates().get_template("alert.html")
    done = [an_entry(1, "restored", saved_usd=1.5)]
    values = {"alert": alert, "figures": wording.figures(alert), "actions": done, "chart": False, "refresh_s": 30}
    return {
        "Slack": json.dumps(blocks(notice), ensure_ascii=False),
        "text": "\n".join(wording.plain_lines(notice)),
        "page": html.unescape(page.render(**values)),
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
