"""No value of a tag, and nothing else from outside, can mention, link or format in any kind of message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Notice, NotifyConfig, Reply, ReplyKind
from curb.actions.slack import modal as slack_modal
from curb.actions.slack.blocks import (
    blocks,
    digest_blocks,
    digest_text,
    fallback_text,
    reply_blocks,
    reply_text,
)
from curb.actions.slack.buttons import VERBS, Buttons, May
from curb.actions.slack.listener import _ephemeral
from curb.stream.records.spend import Alert, BudgetStatus, Cause, LedgerEntry, LedgerState, Plan
from docs.mrkdwn import spans
from tests.fakes.alerts import T0, an_alert

#: Stands in everything that comes from outside, and in nothing of ours.
MARK = "\N{SKULL AND CROSSBONES}"
_PIECES = [
    "<!channel>", "<!here|x>", "<@U123>", "<#C123>", "<https://evil.example|ok>", "https://evil.example", "@here",
    "*b*", "_i_", "~s~", "`c`", "```", "```\n*x*", ":tada:", "&lt;!channel&gt;", "&", "<", ">", "|", "\n", "\r\n> q",
    "\u202e", "\u200b", "\x1b[31m", "\x00", "$", "[x](https://evil.example)", "• ", "^", "<!date^1^{time}|x>",
]  # fmt: skip
NASTY = st.lists(st.sampled_from(_PIECES) | st.text(max_size=12), max_size=12).map(
    lambda parts: MARK.join(["", *parts]) + MARK
)
_OURS = re.compile(
    r"<!date\^\d+\^\{date_short_pretty\} \{time\}\|[\d :UTC-]+>|<https://curb\.example/alerts/[\w%.-]+\|dashboard>"
)
_ENTITY = re.compile(r"&(?!amp;|lt;|gt;)")
TELLING = NotifyConfig(dashboard_url="https://curb.example/")


def nasty_alert(text: str, **changes: Any) -> Alert:
    budget = BudgetStatus(
        name=text, period=text, period_start=T0, period_end=T0 + 9e5, amount_usd=50.0, spent_usd=40.0, threshold=80.0
    )
    return an_alert(
        tags={"team": text, "project": text},
        explanation=text,
        reason=text,
        scope=text,
        channel=text,
        causes=[Cause(tags={"model": text, "region": text}, excess_usd=1.0, share=0.5)] * 7,
        budget=budget,
        **changes,
    )


def nasty_entry(text: str, state: LedgerState) -> LedgerEntry:
    plan = Plan(
        action=text,
        target=text,
        summary=text,
        before={},
        after={text: text},
        warning=text,
        reversible=len(text) % 2 > 0,
    )
    return LedgerEntry(
        action_id=f"id-{state}",
        state=state,
        at=T0,
        alert_id="a1",
        fingerprint="f1",
        plan=plan,
        by=text,
        detail=text,
        why=text,
        approved_by=text,
        also=[text, text],
        lease_expires_at=T0 + 60,
        answer_by=T0 + 60,
        lease_s=60.0,
        saved_usd=3.0,
        rejected=5,
    )


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every text object in blocks, however deep."""
    if isinstance(value, list):
        for item in value:
            yield from objects(item)
    elif isinstance(value, dict):
        if isinstance(value.get("text"), str) and "type" in value:
            yield value
        for item in value.values():
            yield from objects(item)


def check_blocks(shown: list[dict[str, Any]]) -> None:
    assert len(shown) <= 50
    for found in objects(shown):
        text = found["text"]
        assert len(text) <= 3000
        assert _ENTITY.search(text) is None
        if found["type"] == "plain_text":
            assert found["emoji"] is False
            assert not set("<>") & set(text)
        else:
            assert found["type"] == "mrkdwn"
            assert found["verbatim"] is True
            check_mrkdwn(text)


def check_mrkdwn(text: str) -> None:
    bare = _OURS.sub("", text)
    assert not set("<>") & set(bare)
    assert bare.count("`") % 2 == 0
    assert all(MARK not in outside for outside in bare.split("`")[::2])
    for span in spans(bare):
        assert MARK not in span.text or (span.code and not (span.bold or span.italic or span.strike or span.color))


def check_line(text: str) -> None:
    """What notifications and screen readers show."""
    assert not set("<>") & set(text)
    assert _ENTITY.search(text) is None
    assert text.isprintable()


@settings(max_examples=60, deadline=None)
@given(NASTY)
def test_a_message_and_its_buttons(text: str) -> None:
    states = get_args(LedgerState)
    may = May.model_validate(dict.fromkeys(VERBS, ("U0000000ANA",)))
    notice = Notice(
        "k",
        nasty_alert(text),
        tuple(nasty_entry(text, state) for state in states),
        (nasty_alert(text, alert_id="a2"), nasty_alert(text, alert_id="a3", status="resolved")),
        TELLING,
        T0 + 99,
    )
    check_blocks(blocks(notice, Buttons("chat", may, 4.0)))
    check_line(fallback_text(notice))
    for line in wording.plain_lines(notice):
        assert line.isprintable()


@settings(max_examples=60, deadline=None)
@given(NASTY, st.sampled_from(get_args(ReplyKind)), st.sampled_from(get_args(LedgerState)))
def test_every_line_of_a_thread(text: str, kind: ReplyKind, state: LedgerState) -> None:
    entry = nasty_entry(text, state) if kind == "step" else None
    reply = Reply("k", kind, Notice("k", nasty_alert(text)), nasty_alert(text), entry)
    check_blocks(reply_blocks(reply))
    check_line(reply_text(reply))


@settings(max_examples=40, deadline=None)
@given(NASTY)
def test_a_digest(text: str) -> None:
    entries = tuple(nasty_entry(text, state) for state in get_args(LedgerState))
    digest = DayDigest("k", "2026-03-01", T0, (nasty_alert(text),) * 30, entries)
    check_blocks(digest_blocks(digest))
    check_line(digest_text(digest))
    assert all(line.isprintable() for line in wording.digest_plain_lines(digest))


@settings(max_examples=40, deadline=None)
@given(NASTY)
def test_a_dialog_and_words_for_one_person(text: str) -> None:
    view = slack_modal.view(nasty_alert(text), "chat", T0)
    for found in objects([view["title"], view["submit"], view["blocks"]]):
        assert found["type"] == "plain_text"
        assert not set("<>") & set(found["text"])
    assert msgspec.json.decode(view["private_metadata"]) == {"alert_id": "a1", "notifier": "chat"}
    answer = _ephemeral(wording.clean(text, 500))
    check_blocks(answer["blocks"])
    check_line(answer["text"])
