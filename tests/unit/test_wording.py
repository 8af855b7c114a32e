"""Figures and sentences of messages: what waiting costs, what an action would save, lines of a thread, the digest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Notice, NotifyConfig, Reply
from curb.actions.settings import ActionsSettings
from curb.stream.records.spend import BudgetStatus, Plan
from tests.fakes.alerts import T0, an_alert
from tests.unit.test_slack_desk import entry

HOUR = 3600.0


def budget(end: float) -> BudgetStatus:
    return BudgetStatus(
        name="b", period="day", period_start=T0, period_end=end, amount_usd=50.0, spent_usd=40.0, threshold=80.0
    )


def test_waiting_is_priced_until_people_answer_and_until_the_period_ends() -> None:
    alert = an_alert(budget=budget(T0 + 10 * HOUR))
    found = dict(wording.figures(alert, NotifyConfig(people_answer_after_minutes=30)))
    assert found["Over expected"] == "$228.00/h"
    assert found["Cost of waiting 30 min"] == "$114.00"
    assert found["Waiting until the budget's period ends"] == "$2,280.00"
    assert "Cost of waiting 1 h" in dict(wording.figures(alert, NotifyConfig(people_answer_after_minutes=60)))


def test_without_a_budget_the_month_is_the_period() -> None:
    at = datetime(2025, 12, 31, 22, 0, tzinfo=UTC).timestamp()
    found = dict(wording.figures(an_alert(updated_at=at)))
    assert found["Waiting until the month ends"] == "$456.00"
    over = an_alert(budget=budget(T0 - 5), updated_at=at)
    assert dict(wording.figures(over))["Waiting until the month ends"] == "$456.00"


def test_what_burns_less_than_expected_costs_nothing_to_wait_for() -> None:
    found = dict(wording.figures(an_alert(usd_per_hour=5.0)))
    assert (found["Over expected"], found["Cost of waiting 15 min"]) == ("$0.00/h", "$0.00")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"aim_usd_per_hour": 12.0, "lease_s": HOUR},
            "would save $228.00/h, $228.00 in its 1 h and refuse about 380 of",
        ),
        ({"aim_usd_per_hour": None}, "would save $228.00/h and refuse about 380 of 400 requests a minute"),
        ({"do": "block"}, "would save $240.00/h and refuse about 400 of 400 requests a minute"),
        ({"do": "pause", "lease_s": 2 * HOUR}, "would save $240.00/h, $480.00 in its 2 h"),
        ({"aim_usd_per_hour": 60.0, "plan": {"block": False}}, "would save $180.00/h and refuse about 300 of 400"),
    ],
)
def test_what_an_action_would_save_and_refuse(changes: dict[str, Any], words: str) -> None:
    if isinstance(after := changes.get("plan"), dict):
        changes = changes | {"plan": Plan(action="x", target="t", summary="s", before={}, after=after)}
    assert wording.worth(entry("proposed", **changes), an_alert()).startswith(words)


def test_what_is_not_known_is_not_said() -> None:
    alert = an_alert(requests_per_minute=None, baseline=None)
    assert wording.worth(entry("proposed"), alert) == ""


def test_steps_say_what_was_saved_by_whom_and_how_many_more() -> None:
    done = entry("effective", saved_usd=3.5, rejected=1200, approved_by="slack:U0000000ANA (ana)", also=["t2", "t3"])
    words = wording.step(done)
    for part in ("and 2 more like it", "saved $3.50 so far", "1,200 requests refused", "approved by ana (U0000000ANA)"):
        assert part in words
    assert "saved $3.50" in wording.step(entry("restored", saved_usd=3.5))
    assert "saved" not in wording.step(entry("applied", saved_usd=0.0))


@pytest.mark.parametrize(
    ("by", "name"), [("slack:U1 (ana)", "ana (U1)"), ("slack:U1", "U1"), ("fred", "fred"), ("curb", "curb")]
)
def test_people_are_called_by_their_names(by: str, name: str) -> None:
    assert wording.person(by) == name


def test_every_line_of_a_thread_says_what_it_is_about() -> None:
    notice, over = Notice("k", an_alert()), an_alert(status="resolved", resolved_at=T0 + HOUR)
    said = {
        kind: wording.reply(Reply("k", kind, notice, over if kind == "resolved" else an_alert()))
        for kind in ("tier", "also", "again", "repeat", "resolved", "chart")
    }
    assert said["tier"].startswith("Now a page: Runaway spend")
    assert said["also"].startswith("Also: Runaway spend")
    assert said["again"].startswith("Firing again: ")
    assert said["repeat"].startswith("Still firing since 2025-06-15 15:01 UTC")
    assert said["resolved"] == "Resolved after 65 min: team=search project=rank api_key=k1; $19.00 over in all"
    assert said["chart"] == "Spend of team=search project=rank api_key=k1"
    assert "It would save" in wording.reply(Reply("k", "step", notice, an_alert(), entry("proposed")))


def test_a_digest_counts_and_shortens() -> None:
    alerts = tuple(an_alert(alert_id=f"a{n}", tier="digest", excess_usd=float(n)) for n in range(25))
    digest = DayDigest("k", "2026-03-01", T0, alerts, (entry("restored", saved_usd=2.5),))
    assert wording.digest_title(digest) == "Curb on 2026-03-01: 25 small alerts, 1 action, $2.50 saved"
    told, done = wording.digest_lines(digest)
    assert (len(told), told[-1]) == (21, "and 5 more, $10.00 over")
    assert "$24.00 over" in told[0]
    assert len(done) == 1


@pytest.mark.parametrize(
    ("telling", "message"),
    [
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"digest": {"at": "9 o'clock"}}, "at"),
        ({"digest": {"notify": ["nobody"]}}, "no entry of `notifiers` is named 'nobody'"),
        ({"group_by": ["team", "team"]}, "names a tag twice"),
        ({"dashboard_url": "javascript:alert(1)"}, "dashboard_url"),
        ({"dashboard_url": "https://x|y>"}, "dashboard_url"),
    ],
)
def test_settings_that_cannot_be_meant_are_errors(telling: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ActionsSettings.model_validate({"telling": telling})
