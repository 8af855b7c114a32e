"""The watermark: time is that of the slowest input, as long as it can be waited for."""

from __future__ import annotations

from curb.detector.state.ticks import Watermark
from curb.stream.records.spend import SpendTick
from curb.stream.time import DAY_S

_NOW = 1_760_000_000.0


def tick(source: str, days: float, *, live: bool = False) -> SpendTick:
    return SpendTick(at=_NOW + days * DAY_S, source=source, live=live)


def test_an_input_of_a_recording_is_waited_for_however_far_the_others_are() -> None:
    watermark = Watermark(3600.0)
    watermark.advance(tick("curb.usage/0", -30))
    watermark.advance(tick("curb.usage/1", -30))
    assert watermark.advance(tick("curb.costs/0", 0)) == _NOW - 30 * DAY_S
    assert watermark.advance(tick("curb.usage/0", 0)) == _NOW - 30 * DAY_S
    assert watermark.advance(tick("curb.usage/1", -9)) == _NOW - 9 * DAY_S


def test_an_input_with_a_backlog_is_given_up_a_week_behind_those_that_are_live() -> None:
    watermark = Watermark(3600.0)
    watermark.advance(tick("curb.usage/0", -30))
    assert watermark.advance(tick("curb.usage/1", 0, live=True)) == _NOW - 7 * DAY_S
    assert watermark.advance(tick("curb.usage/0", -2)) == _NOW - 2 * DAY_S


def test_an_input_that_was_live_and_fell_silent_holds_time_up_by_the_skew() -> None:
    watermark = Watermark(3600.0)
    watermark.advance(tick("curb.usage/0", -1, live=True))
    assert watermark.advance(tick("curb.usage/1", 0, live=True)) == _NOW - 3600


def test_what_people_say_today_moves_no_limit() -> None:
    watermark = Watermark(3600.0)
    watermark.advance(tick("curb.usage/0", -30))
    assert watermark.advance(tick("curb.commands/0", 0, live=True)) == _NOW - 30 * DAY_S
