"""A notice as Slack blocks and as plain lines: what it says, and that tag values stay data."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError

from curb.actions.notify.console import Console
from curb.actions.notify.protocol import Notice, Reply
from curb.actions.notify.wording import clean
from curb.actions.slack.blocks import blocks, fallback_text, reply_blocks
from curb.actions.slack.notifier import Config
from curb.stream.money import usd
from curb.stream.records.spend import BudgetStatus, Cause, LedgerEntry, Plan
from tests.fakes.alerts import T0, an_alert
from tests.fakes.terminal import terminal

NASTY = "<!channel> *b* `x` <https://evil.example|ok> & \x1b[31m\u202e\nnext"


def applied(**changes: Any) -> LedgerEntry:
    plan = Plan(
        action="limits",
        target="litellm/key/k1",
        summary="limit key prod: rpm_limit none → 20",
        before={"rpm_limit": None},
        after={"rpm_limit": 20},
    )
    base = LedgerEntry(
        action_id="0123456789abcdef",
        state="applied",
        at=T0,
        alert_id="a1",
        fingerprint="f1",
        plan=plan,
        lease_expires_at=T0 + 3600,
        usd_per_hour_before=240.0,
    )
    return msgspec.structs.replace(base, **changes)


def all_text(notice: Notice) -> str:
    """The message and the figures in its thread."""
    return json.dumps([*blocks(notice), *figures(notice)], ensure_ascii=False)


def figures(notice: Notice) -> list[dict[str, Any]]:
    return reply_blocks(Reply("r", "figures", notice, notice.alert))


def test_the_message_is_who_how_much_why_and_what_curb_did_and_the_figures_are_in_the_thread() -> None:
    alert = an_alert(reason="8.1 times what its requests explain", explanation="The whole sentence.")
    first, money, why, step, *rest = blocks(Notice("n", alert, (applied(),)))
    assert first["type"] == "header"
    assert (
        money["text"]["text"]
        == "$240.00/h instead of $12.00/h, $19.00 over so far, $1,900.00 at risk until somebody answers"
    )
    assert why["text"]["text"] == "8.1 times what its requests explain."
    assert "rpm_limit none → 20" in step["text"]["text"]
    assert [each["type"] for each in rest] == ["context", "context"]
    table, sentence = figures(Notice("n", alert))
    assert "*Cost of waiting 15 min*\n$57.00" in _texts([table])
    assert sentence["text"]["text"] == "The whole sentence."


def test_what_is_over_says_what_it_cost_in_all() -> None:
    alert = an_alert(status="resolved", resolved_at=T0)
    assert blocks(Notice("n", alert))[1]["text"]["text"] == "$19.00 over in all"


def test_it_says_money_cause_deed_and_end_of_the_lease() -> None:
    alert = an_alert(causes=[Cause(tags={"model": "m1"}, excess_usd=15.0, share=0.79)])
    text = all_text(Notice("n", alert, (applied(),)))
    for part in (
        "$240.00/h",
        "$12.00/h",
        "$19.00",
        "$1,900",
        "$228.00",
        "model=m1: $15.00 (79%)",
        "rpm_limit none → 20",
    ):
        assert part in text
    assert f"<!date^{int(T0 + 3600)}^{{date_short_pretty}} {{time}}|2025-06-15 16:06 UTC>" in text
    assert "curb actions undo 0123456789abcdef" in text


def test_it_says_why_where_and_how_sure_it_is() -> None:
    own = {"team": "search", "project": "rank", "api_key": "k1"}
    alert = an_alert(
        reason="8.1 times what its requests explain",
        explanation="The whole sentence.",
        confidence=0.93,
        causes=[
            Cause(tags={**own, "model": "large", "region": "us"}, excess_usd=15.0, share=0.79),
            Cause(tags=own, excess_usd=4.0, share=0.21),
        ],
    )
    texts = _texts(blocks(Notice("n", alert)))
    assert "8.1 times what its requests explain." in texts
    assert "*Where it comes from*\n• `model=large region=us: $15.00 (79%)`" in texts
    texts = _texts(figures(Notice("n", alert)))
    assert "*Confidence*\n93%" in texts
    assert "*Cost of waiting 15 min*\n$57.00" in texts
    assert "The whole sentence." in texts


def test_where_no_part_stands_out_nothing_is_listed() -> None:
    alert = an_alert(causes=[Cause(tags=an_alert().tags, excess_usd=19.0, share=1.0)], confidence=0.0)
    text = all_text(Notice("n", alert))
    assert "Where it comes from" not in text
    assert "Confidence" not in text


def test_slacks_ten_fields_are_kept_with_every_figure() -> None:
    budget = BudgetStatus(
        name="q", period="month", period_start=T0, period_end=T0, amount_usd=50.0, spent_usd=40.0, threshold=80.0
    )
    found = figures(Notice("n", an_alert(budget=budget, confidence=1.0)))
    assert all(len(block.get("fields", [])) <= 10 for block in found)


def test_without_any_action_it_says_so() -> None:
    assert "Curb has not changed anything." in all_text(Notice("n", an_alert()))


def test_a_resolved_alert_costs_nothing_to_wait_for() -> None:
    text = all_text(Notice("n", an_alert(status="resolved", resolved_at=T0)))
    assert "resolved" in text
    assert "Cost of waiting" not in text


def test_what_is_over_offers_no_undo_and_shows_the_fall() -> None:
    restored = applied(state="restored", detail="the lease ended", usd_per_hour_after=14.0)
    text = all_text(Notice("n", an_alert(), (applied(), restored)))
    assert "actions undo" not in text
    assert "$240.00/h → $14.00/h" in text


def test_a_budget_is_shown() -> None:
    budget = BudgetStatus(
        name="q", period="month", period_start=T0, period_end=T0, amount_usd=50.0, spent_usd=40.0, threshold=80.0
    )
    assert "$40.00 of $50.00" in all_text(Notice("n", an_alert(kind="budget", budget=budget)))


def test_tag_values_are_never_markup() -> None:
    alert = an_alert(
        tags={"team": NASTY},
        explanation=NASTY,
        reason=NASTY,
        causes=[Cause(tags={NASTY: NASTY}, excess_usd=1.0, share=1.0)],
    )
    ledger = (applied(detail=NASTY),)
    found = blocks(Notice("n", alert, ledger))
    texts = [*_texts(found), fallback_text(Notice("n", alert, ledger))]
    for text in texts:
        assert "<!channel" not in text
        assert "<http" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
    for text in _texts(found, "mrkdwn"):
        outside = text.split("`")[::2]
        assert text.count("`") % 2 == 0
        assert not any("*b*" in part for part in outside)


def _texts(value: Any, kind: str = "") -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, kind)]
    if isinstance(value, dict):
        own = [value["text"]] if isinstance(value.get("text"), str) and kind in ("", value["type"]) else []
        return own + [text for item in value.values() if not isinstance(item, str) for text in _texts(item, kind)]
    return []


def test_slacks_own_limits_are_kept_for_long_values() -> None:
    long = "&" * 5000
    alert = an_alert(tags={f"t{n}": long for n in range(20)}, explanation=long, reason=long)
    causes = [Cause(tags={f"t{n}": long for n in range(20)}, excess_usd=1.0, share=1.0)] * 9
    found = blocks(Notice("n", msgspec.structs.replace(alert, causes=causes), tuple([applied(detail=long)] * 60)))
    assert len(found) <= 50
    assert len(found[0]["text"]["text"]) <= 150
    assert all(len(text) <= 3000 for text in _texts(found))
    assert all(text.count("`") % 2 == 0 for text in _texts(found, "mrkdwn"))
    assert len(fallback_text(Notice("n", alert))) <= 3000


async def test_the_console_prints_plain_lines_as_they_are() -> None:
    screen, out = terminal()
    notice = Notice("n", an_alert(tags={"team": "[red]x[/red]"}, explanation=NASTY), (applied(),))
    await Console(screen).send(notice, "")
    assert "[red]x[/red]" in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()
    assert "undo: curb actions undo 0123456789abcdef" in out.getvalue()


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.00"), (999.994, "$999.99"), (1234.5, "$1,234.50"), (0.0012, "$0.0012"), (-3.0, "-$3.00")],
)
def test_dollars(amount: float, text: str) -> None:
    assert usd(amount) == text


def test_clean_makes_one_short_printable_line() -> None:
    assert clean("a\nb\x00c") == "a b c"
    assert clean("x" * 100) == "x" * 79 + "…"


def test_the_channel_is_an_id_and_the_token_stays_hidden() -> None:
    config = Config.model_validate({"kind": "slack", "name": "chat", "token": "xoxb-1", "channel": "C0123456789"})
    assert "xoxb-1" not in repr(config)
    with pytest.raises(ValidationError, match="channel"):
        Config.model_validate({"kind": "slack", "name": "chat", "token": "xoxb-1", "channel": "#alerts"})
