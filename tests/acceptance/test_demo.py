"""The demo from its first line to its files: found, throttled to the normal level, verified, restored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.daemons import curb

pytestmark = pytest.mark.timeout(240)
_PNG = b"\x89PNG\r\n\x1a\n"


async def test_the_demo_tells_its_story_and_leaves_its_files(tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    code, said = await curb("demo", "--out", str(out))
    assert code == 0, said
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["effect_verified"] is True
    assert summary["restored"] is True
    assert 0 < summary["detected_after_s"] <= summary["throttled_after_s"] < summary["verified_after_s"]
    assert 1 < summary["rpm_limit_during"] < summary["rpm_limit_before"] == summary["rpm_limit_after"]
    assert 0 < summary["lost_usd"] < 0.6 * summary["counterfactual_usd"]
    assert 0 < summary["lost_with_ceiling_usd"] < summary["counterfactual_usd"]
    assert 0 < summary["lost_with_soft_caps_usd"] < 0.6 * summary["counterfactual_usd"]

    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text(encoding="utf-8").splitlines()]
    runaway = [alert for alert in alerts if alert["kind"] == "runaway"]
    assert {alert["tier"] for alert in runaway} >= {"soft", "page"}
    assert {alert["status"] for alert in runaway} == {"resolved"}
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {each["action_id"]: each["state"] for each in entries}
    assert "restored" in last.values(), "the soft cap, and what the page did"
    assert set(last.values()) <= {"restored", "skipped"}
    assert summary["detected_after_s"] <= 180, "the fast lane, in event time"
    message = json.loads((out / "slack.json").read_text(encoding="utf-8"))
    assert message["blocks"][0]["type"] == "header"
    shown = (out / "slack.md").read_text(encoding="utf-8")
    assert shown.startswith(f"# {message['blocks'][0]['text']['text']}")
    assert "support-agent" in shown
    assert "/h instead of $" in shown
    assert "curb actions undo" in shown
    assert not set("<>") & set(shown)
    assert (out / "chart.png").read_bytes().startswith(_PNG)
    for line in (
        "an agent starts to loop",
        "soft: ",
        "page: ",
        "plan: limit key",
        "verified: ",
        "restored",
        "The loop cost $",
    ):
        assert line in said
