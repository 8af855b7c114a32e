"""What the demo leaves behind: summary, alerts, ledger, the Slack message as JSON and picture, and a chart."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from actions.slack_blocks import message
from curb.charts import spend_chart
from curb.demo.observed import Observed
from curb.demo.traffic import Tally
from curb.slack_picture import render
from curb.view import View

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
        slack = message(notice)
        (out / "slack.json").write_text(json.dumps(slack, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "slack.png").write_bytes(render(slack))
    (out / "chart.png").write_bytes(_chart(observed, view, tally, without))


def _chart(observed: Observed, view: View, tally: Tally, without: Tally) -> bytes:
    stage, alias = observed.stage, observed.key.alias
    minutes = int((stage.live_end - stage.live_start) // 60)
    times = [stage.live_start + 60 * minute for minute in range(minutes)]
    alert, ledger = observed.incident(view)
    events = [(stage.loop.start, "loop starts"), (stage.loop.end, "loop fixed")]
    if alert is not None:
        events.append((alert.fired_at, "detected"))
    events += [(entry.at, _MARKS[entry.state]) for entry in ledger if entry.state in _MARKS]
    return spend_chart(
        times,
        _per_hour(tally, minutes, alias),
        observed.expected_per_minute(minutes),
        counterfactual=_per_hour(without, minutes, alias),
        events=sorted(events),
        title=f"Key {alias}: one agent loop, with and without Curb",
    )


def _per_hour(tally: Tally, minutes: int, alias: str) -> list[float]:
    """Dollars per hour of each minute, smoothed over five minutes as the detector's fast window is."""
    raw = [usd * 60 for usd in tally.usd_per_minute(minutes, alias)]
    smooth, level = [], sum(raw[:5]) / max(1, len(raw[:5]))
    for value in raw:
        level += (value - level) / 5
        smooth.append(level)
    return smooth


def _write_lines(path: Path, records: Iterable[Any]) -> None:
    with path.open("wb") as lines:
        for record in records:
            lines.write(msgspec.json.encode(record) + b"\n")
