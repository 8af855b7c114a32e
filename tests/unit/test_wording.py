"""Figures and sentences of messages: what waiting costs, what an action would save, lines of a thread, the digest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Notice, NotifyConfig, Reply
from curb.actions.settings import ActionsSettings
from curb.stream.records.spend import Alert, BudgetStatus, Plan
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


def of_budget(spent_usd: float, threshold: float, **changes: Any) -> Alert:
    status = BudgetStatus(
        name="b", period="day", period_start=T0, period_end=T0 + 86400, amount_usd=100.0, spent_usd=spent_usd,
        threshold=threshold, forecast_usd=210.0,
    )  # fmt: skip
    figures = {"expected_usd": 100.0, "actual_usd": spent_usd, "excess_usd": max(0.0, spent_usd - 100.0)}
    rates = {"usd_per_hour": 0.0, "expected_usd_per_hour": 2.0, "confidence": 0.0}
    return an_alert(**{"kind": "budget", "budget": status, **figures, **rates, **changes})


def test_a_budget_has_a_sum_and_an_amount_instead_of_rates() -> None:
    over = of_budget(163.0, 100.0)
    assert wording.title(over) == "Budget (page): $163.00 of $100.00 (163 %), team=search project=rank api_key=k1"
    found = dict(wording.figures(over))
    assert found["Over the amount"] == "$63.00"
    assert (found["Forecast of the period"], found["Budget"]) == ("$210.00", "b: $163.00 of $100.00 (day)")
    text = "\n".join(wording.plain_lines(Notice("k", over)))
    for word in ("/h", "xpected", "-$", "over so far"):
        assert word not in text.replace(over.explanation, "")
    burning = dict(wording.figures(of_budget(163.0, 100.0, usd_per_hour=4.0)))
    assert (burning["Burning"], burning["Cost of waiting 15 min"]) == ("$4.00/h", "$1.00")


def test_a_budget_that_is_not_spent_says_what_is_left() -> None:
    below = of_budget(81.5, 80.0, tier="notice", usd_per_hour=4.0)
    found = dict(wording.figures(below))
    assert found["Left"] == "$18.50"
    assert not [label for label in found if "aiting" in label or "Over" in label]
    assert wording.money(below).startswith("$81.50 of $100.00 (82 %), $18.50 left, ")
    said = wording.reply(Reply("k", "tier", Notice("k", below), below))
    assert said.startswith("Now a notice: Budget (notice): $81.50 of $100.00")
    assert said.endswith("; $18.50 left")
    over = of_budget(163.0, 100.0)
    assert wording.reply(Reply("k", "crossed", Notice("k", over), over)).startswith(
        "Crossed 100 %: Budget (page): $163.00"
    )


@pytest.mark.parametrize("kind", ["pricing", "feed"])
def test_dollars_that_are_no_rate_are_said_as_they_are(kind: Any) -> None:
    flat = {"usd_per_hour": 0.0, "expected_usd_per_hour": 0.0, "excess_usd": 0.0, "expected_usd": 0.0}
    hole = an_alert(kind=kind, tags={"model": "m"}, actual_usd=163.0, dollars_at_risk=163.0, **flat)
    assert wording.title(hole).endswith("(page): $163.00, model=m")
    assert "/h" not in "\n".join(wording.plain_lines(Notice("k", hole))).replace(hole.explanation, "")
    assert wording.title(an_alert(kind=kind, tags={"model": "m"}, actual_usd=0.0, **flat)).endswith("(page): model=m")


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
        ({"time_zone": "Mars/Olympus"}, "unknown time zone"),
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
