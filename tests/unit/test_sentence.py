"""What an alert says: every figure once, nothing where there is nothing to say, and tag values fit to be shown."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from curb.detector.incidents.sentence import Summary, incident, since, waiting, where
from curb.stream.records.spend import UNTAGGED, Cause

UTC = ZoneInfo("UTC")
#: A Monday, midnight UTC.
T0 = 1_750_032_000.0
KEY = {"team": "search", "api_key": "k1"}


def told(**changes: Any) -> Summary:
    causes = [Cause(tags={**KEY, "model": "large", "region": "us"}, excess_usd=15.0, share=0.79)]
    base = Summary("key", KEY, 240.0, 12.0, T0 + 3600, T0 + 5100, 19.0, "8 times its requests", causes, 1900.0, 0.934)
    return base._replace(**changes)


def test_the_whole_sentence() -> None:
    assert incident(told(known="Planned: $1.00 of $5.00 used."), UTC) == (
        "key k1 (team search) burns $240.00/h, expected $12.00/h, since 01:00 UTC (25 min): $19.00 over; 8 times its "
        "requests. 79 % of it is model large, region us. Waiting costs $228.00/h; $1,900.00 at risk until somebody "
        "answers. Planned: $1.00 of $5.00 used. Confidence 93%."
    )


def test_what_is_not_known_is_not_said() -> None:
    bare = told(usd_per_hour=12.0, excess_usd=-1.0, reason="", causes=[], confidence=0.0)
    assert incident(bare, UTC) == (
        "key k1 (team search) burns $12.00/h, expected $12.00/h, since 01:00 UTC (25 min): not over so far."
    )


def test_another_day_is_named_in_the_zone_of_the_business() -> None:
    assert since(T0, T0 + 60, UTC) == "00:00 UTC"
    assert since(T0, T0 + 86400, UTC) == "2025-06-16 00:00 UTC"
    assert since(T0 - 60, T0 + 60, UTC) == "2025-06-15 23:59 UTC"
    assert since(T0 - 60, T0 + 60, ZoneInfo("Europe/Berlin")) == "01:59 CEST"


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        ([], ""),
        ([({}, 1.0)], ""),
        ([({"model": UNTAGGED}, 1.0)], ""),
        ([({"model": "m"}, 1.0)], "All of it is model m."),
        ([({"model": "m"}, 0.6), ({"model": "n"}, 0.3)], "60 % of it is model m; 30 % model n."),
        ([({"model": "a\x1b[31m\nb"}, 1.0)], "All of it is model a?[31m?b."),
    ],
)
def test_where(causes: list[tuple[dict[str, str], float]], words: str) -> None:
    found = [Cause(tags=KEY | tags, excess_usd=1.0, share=share) for tags, share in causes]
    assert where(found, KEY) == words


def test_a_long_name_is_cut() -> None:
    assert len(where([Cause(tags={"model": "m" * 500}, excess_usd=1.0, share=1.0)], {})) < 70


def test_waiting_for_nothing_costs_nothing() -> None:
    about = told(dollars_at_risk=5.0)
    assert waiting(about._replace(usd_per_hour=12.0)) == ""
    assert waiting(about._replace(usd_per_hour=1.0)) == ""
    costs = waiting(about._replace(usd_per_hour=13.5))
    assert costs == "Waiting costs $1.50/h; $5.00 at risk until somebody answers."


def test_a_bill_is_said_in_days() -> None:
    assert incident(told(by_day=True, now=T0 + 3600 + 3 * 86400), UTC) == (
        "key k1 (team search) burns $5,760.00 a day, expected $288.00 a day, since 2025-06-16 (3 days): $19.00 over; 8 "
        "times its requests. 79 % of it is model large, region us. Waiting costs $5,472.00 a day; $1,900.00 at risk "
        "until somebody answers. Confidence 93%."
    )
