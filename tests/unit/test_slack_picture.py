"""Pictures of Slack messages: mrkdwn read as Slack reads it, and every block kind drawn."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from docs.mrkdwn import Span, plain_spans, spans
from docs.slack_picture import render, render_thread


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a *b* c", [Span("a "), Span("b", bold=True), Span(" c")]),
        ("`x*y*`", [Span("x*y*", code=True)]),
        ("*_b i_*", [Span("b i", bold=True, italic=True)]),
        ("~no~", [Span("no", strike=True)]),
        ("```a\n*b*```", [Span("a\n*b*", code=True)]),
        ("2*3*4 and snake_case_name", [Span("2*3*4 and snake_case_name")]),
        ("at 12:30:45", [Span("at 12:30:45")]),
        ("<!date^1^{time}|14:30 UTC>", [Span("14:30 UTC")]),
        ("<https://e.org|here>", [Span("here", color="#1264a3")]),
        ("<https://e.org>", [Span("https://e.org", color="#1264a3")]),
        ("<!channel> <@U1>", [Span("@channel", color="#1264a3"), Span(" "), Span("@U1", color="#1264a3")]),
        ("a &lt;b&gt; &amp;amp;", [Span("a <b> &amp;")]),
        (":white_check_mark: ok", [Span("✔", color="#1a8f4c"), Span(" ok")]),
        ("✅", [Span("✔", color="#1a8f4c")]),
        (":unknown_thing:", [Span(":unknown_thing:")]),
        ("", []),
    ],
)
def test_mrkdwn(text: str, expected: list[Span]) -> None:
    assert spans(text) == expected


def test_plain_text_has_no_markup_but_emoji() -> None:
    assert plain_spans("*a* :warning:") == [Span("*a* "), Span("▲", color="#e8710a")]
    assert plain_spans("a &amp; :warning:", emoji=False) == [Span("a & :warning:")]


def test_every_block_kind_takes_room() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": "head"}},
        section("*bold* `code`\nsecond line"),
        {"type": "section", "fields": [{"type": "mrkdwn", "text": f"*f{i}*\n{i}"} for i in range(3)]},
        {"type": "divider"},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": "small"}, {"type": "image", "alt_text": "i"}]},
        {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "Undo"}}] * 9},
        {"type": "image", "alt_text": "chart"},
    ]
    heights = [size(render({"blocks": blocks[: i + 1]}))[1] for i in range(len(blocks))]
    assert heights == sorted(set(heights))
    assert size(render({"blocks": blocks}))[0] == 1440


def test_long_text_wraps_and_a_long_word_is_broken() -> None:
    one = size(render({"blocks": [section("word")]}))[1]
    assert size(render({"blocks": [section("word " * 60)]}))[1] > one
    assert size(render({"blocks": [section("f" * 300)]}))[1] > one


def test_text_alone_and_attachments_are_drawn() -> None:
    empty = size(render({}))[1]
    assert size(render({"text": "one\ntwo\nthree"}))[1] > empty
    attached = render({"text": "x", "attachments": [{"color": "danger", "blocks": [section("a"), section("b")]}]})
    assert size(attached)[1] > empty


def test_unknown_blocks_and_wrong_types_do_not_break_it() -> None:
    message = {"ts": "soon", "blocks": [{"type": "video"}, {"type": "section"}, {"type": "header", "text": "bare"}]}
    assert size(render(message))[0] == 1440


def test_a_thread_is_drawn_below_its_message_with_its_pictures() -> None:
    message = {"blocks": [section("root")]}
    alone = size(render(message))[1]
    assert size(render_thread(message, []))[1] == alone
    reply = {"blocks": [section("a reply")]}
    one = size(render_thread(message, [reply]))[1]
    assert one > alone
    assert size(render_thread(message, [{**reply, "reply_broadcast": True}]))[1] > one
    shown = {"files": [{"id": "F1", "title": "chart"}]}
    without = size(render_thread(message, [shown]))[1]
    assert size(render_thread(message, [shown], {"F1": render(message)}))[1] > without > alone
