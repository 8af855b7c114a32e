"""`/curb …`: what is meant, and what is answered to what cannot be meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.slack.slash import Slash, SlashError, dollars, moment, parse

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
HOUR = 3600.0


def said(text: str) -> Slash:
    return parse(text, now=NOW)


def refusal(text: str) -> str:
    with pytest.raises(SlashError) as caught:
        said(text)
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", "help", "HELP"])
def test_nothing_and_help_ask_for_help(text: str) -> None:
    assert said(text).verb is None


def test_every_command_is_understood() -> None:
    assert said("status") == Slash("status")
    assert said("resume") == Slash("resume")
    assert said("halt the gateway is down") == Slash("halt", text="the gateway is down")
    assert said("undo 0123abcd") == Slash("undo", subject="0123abcd")
    assert said("approve 0123abcd-2").verb == "approve"
    assert said("deny 0123abcd").verb == "deny"
    assert said("snooze a-1 4h") == Slash("snooze", subject="a-1", until=NOW + 4 * HOUR)
    planned = said("planned team=search env=prod until=18:00 max=$1,500.50 reindex of everything")
    assert planned.tags == (("team", "search"), ("env", "prod"))
    assert (planned.until, planned.max_usd) == (NOW + 6 * HOUR, 1500.5)
    assert planned.text == "reindex of everything"


def test_what_slack_escapes_is_read_as_it_was_typed() -> None:
    assert said("planned team=a&amp;b until=1h max=5").tags == (("team", "a&b"),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stauts", "no command 'stauts'"),
        ("status now", "stands alone"),
        ("resume please", "stands alone"),
        ("undo", "one id of an action"),
        ("undo a b", "one id of an action"),
        ("undo <!channel>", "one id of an action"),
        ("snooze a-1", "the id of an alert and a time"),
        ("snooze a-1 soon", "no time"),
        ("snooze a-1 2026-03-01T18:00", "no time zone"),
        ("snooze a-1 2026-02-01T18:00Z", "over already"),
        ("snooze a-1 90d", "more than 31 days"),
        ("planned until=1h max=5", "no tag"),
        ("planned team=a max=5", "until= is missing"),
        ("planned team=a until=1h", "max= is missing"),
        ("planned team=a until=1h max=lots", "no amount"),
        ("planned team=a until=1h max=-5", "no amount that can be meant"),
        ("planned team=a until=1h max=nan", "no amount that can be meant"),
        ("planned team=a team=b until=1h max=5", "given twice"),
        ("planned team= until=1h max=5", "needs a name and a value"),
        ("planned 5team=a until=1h max=5", "needs a name and a value"),
    ],
)
def test_every_mistake_is_answered_with_what_was_meant(text: str, words: str) -> None:
    answer = refusal(text)
    assert words in answer
    assert "Try: " in answer


def test_a_time_of_day_is_the_next_one_in_the_zone_of_the_people() -> None:
    assert moment("18:00", now=NOW) == NOW + 6 * HOUR
    assert moment("11:00", now=NOW) == NOW + 23 * HOUR
    assert moment("18:00", now=NOW, time_zone="Europe/Berlin") == NOW + 5 * HOUR
    before_summer_time = datetime(2026, 3, 28, 20, 0, tzinfo=UTC).timestamp()
    assert moment("18:00", now=before_summer_time, time_zone="Europe/Berlin") == before_summer_time + 20 * HOUR


@given(st.text(max_size=200))
def test_whatever_is_typed_is_understood_or_refused_in_words(text: str) -> None:
    try:
        slash = said(text)
    except SlashError:
        return
    assert slash.until == 0.0 or slash.until > NOW


@given(st.text(max_size=30))
def test_an_amount_is_a_positive_number_or_refused(text: str) -> None:
    try:
        assert 0 < dollars(text) <= 1e9
    except SlashError:
        return
