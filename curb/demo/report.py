"""What the demo leaves behind: summary, alerts, ledger, the Slack message as JSON and picture, and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from curb.actions.slack.blocks import blocks, fallback_text
from curb.demo.observed import Observed
from curb.demo.traffic import Tally
from curb.evaluate.slack_picture import render
from curb.views.alerts_and_actions import View
from curb.views.charts import burn, spend_chart

_MARKS = {"applied": "throttled", "effective": "verified", "restored": "restored"}


def write_report(
    out: Path, observed: Observed, view: View, tally: Tally, without: Tally, summary: dict[str, Any]
) -> None:
    """Write summary.json, alerts.jsonl, ledger.jsonl, slack.json, slack.png and chart.png into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _write_lines(out / "alerts.jsonl", view.alerts.values())
    _write_lines(out / "ledger.jsonl", (entry for entries in view.actions.values() for entry in entries))
    notice = observed.notice(view)
    if notice is not None:
        slack = {"text": fallback_text(notice), "blocks": blocks(notice)}
        (out / "slack.json").write_text(json.dumps(slack, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "slack.png").write_bytes(render(slack))
    (out / "chart.png").write_bytes(_chart(observed, view, tally, without, summary))


def _chart(observed: Observed, view: View, tally: Tally, without: Tally, summary: dict[str, Any]) -> bytes:
    stage, alias = observed.stage, observed.key.alias
    minutes = int((stage.live_end - stage.live_start) // 60)
    alert, ledger = observed.incident(view)
    at = {entry.state: entry.at for entry in reversed(ledger)}
    events = [(stage.loop.start, "loop starts"), (stage.loop.end, "loop fixed")]
    if alert is not None:
        events.append((alert.fired_at, "detected"))
    events += [(at[state], label) for state, label in _MARKS.items() if state in at]
    return spend_chart(
        [stage.live_start + 60 * minute for minute in range(minutes)],
        burn(tally.usd_per_minute(minutes, alias), 5),
        observed.expected_per_minute(minutes),
        counterfactual=burn(without.usd_per_minute(minutes, alias), 5),
        title=f"Key {alias}: one agent loop, with Curb and without",
        subtitle=f"the loop cost ${summary['lost_usd']:.2f} instead of ${summary['counterfactual_usd']:.2f}",
        events=sorted(events),
        lease=(at["applied"], at["restored"]) if {"applied", "restored"} <= at.keys() else None,
    )


def _write_lines(path: Path, records: Iterable[Any]) -> None:
    with path.open("wb") as lines:
        for record in records:
            lines.write(msgspec.json.encode(record) + b"\n")
