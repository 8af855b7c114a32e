"""The files of the demo: summary, alerts, ledger, the Slack message as JSON and as Markdown, and a chart."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from curb.actions.slack.blocks import blocks, fallback_text
from curb.demo.observed import Observed
from curb.demo.traffic import Tally
from curb.stream.errors import PermanentError
from curb.views.alerts_and_actions import LogView
from curb.views.charts import burn, spend_chart

_MARKS = {"applied": "throttled", "effective": "verified", "restored": "restored"}


def write_report(
    out: Path, observed: Observed, view: LogView, tally: Tally, without: Tally, summary: dict[str, Any]
) -> str:
    """Write summary.json, alerts.jsonl, ledger.jsonl, slack.json, slack.md and chart.png into `out`.

    Returns why there is no chart.png where matplotlib is not installed; empty otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _write_lines(out / "alerts.jsonl", view.alerts.values())
    _write_lines(out / "ledger.jsonl", (entry for entries in view.actions.values() for entry in entries))
    notice = observed.notice(view)
    if notice is not None:
        shown = blocks(notice)
        slack = {"text": fallback_text(notice), "blocks": shown}
        (out / "slack.json").write_text(json.dumps(slack, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "slack.md").write_text(as_markdown(shown), encoding="utf-8")
    try:
        (out / "chart.png").write_bytes(_chart(observed, view, tally, without, summary))
    except PermanentError as error:
        (out / "chart.png").unlink(missing_ok=True)
        return str(error)
    return ""


def as_markdown(blocks: Iterable[dict[str, Any]]) -> str:
    """A Slack message for readers without Slack; a button is its label in brackets."""
    return "\n\n".join(line for block in blocks for line in _lines(block)) + "\n"


def _lines(block: dict[str, Any]) -> Iterator[str]:
    if block["type"] == "header":
        yield f"# {_markdown(block['text']['text'])}"
    elif block["type"] == "actions":
        yield " ".join(f"[ {each['text']['text']} ]" for each in block["elements"])
    else:
        parts = [block.get("text"), *block.get("fields", ()), *block.get("elements", ())]
        yield from (_markdown(part["text"]) for part in parts if part)


def _markdown(mrkdwn: str) -> str:
    text = re.sub(r"<!date[^|>]*\|([^>]*)>", r"\1", mrkdwn)
    text = re.sub(r"<([^|>]*)\|([^>]*)>", r"[\2](\1)", text)
    text = re.sub(r"(?<![\w*])\*([^*\n]+)\*(?![\w*])", r"**\1**", text)
    return html.unescape(text).replace("\n", "  \n")


def _chart(observed: Observed, view: LogView, tally: Tally, without: Tally, summary: dict[str, Any]) -> bytes:
    stage, alias = observed.stage, observed.key.alias
    minutes = int((stage.live_end - stage.live_start) // 60)
    alert, ledger = observed.incident(view)
    at = {entry.state: entry.at for entry in reversed(ledger)}
    events = [(stage.loop.start, "loop starts"), (stage.loop.end, "loop fixed")]
    if alert is not None:
        events.append((alert.fired_at, "on-call notified"))
    events += [(at[state], label) for state, label in _MARKS.items() if state in at]
    leases = list(observed.limits(view))
    if leases and leases[0][0] < at.get("applied", 0.0):
        events.append((leases[0][0], "soft cap"))
    return spend_chart(
        [stage.live_start + 60 * minute for minute in range(minutes)],
        burn(tally.usd_per_minute(minutes, alias), 5),
        observed.expected_per_minute(minutes),
        counterfactual=burn(without.usd_per_minute(minutes, alias), 5),
        title=f"Key {alias}: one agent loop, with Curb and without",
        subtitle=f"the loop cost ${summary['lost_usd']:.2f} instead of ${summary['counterfactual_usd']:.2f}",
        events=sorted(events),
        leases=leases,
    )


def _write_lines(path: Path, records: Iterable[Any]) -> None:
    with path.open("wb") as lines:
        for record in records:
            lines.write(msgspec.json.encode(record) + b"\n")
