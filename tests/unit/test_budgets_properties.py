"""Promises of budgets for any stream: sums are exact, thresholds fire once, carry-over stays under its cap."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.budgets import DAY, HOUR, Fed, a_budget, settings_of
from tests.fakes.spend import T0

pytestmark = pytest.mark.long

usd = st.floats(min_value=-20, max_value=200, allow_nan=False, width=32)


class Event(NamedTuple):
    """Dollars of a series in an hour of the stream; `late` of them come by so many hours after it closed."""

    hour: int
    series: int
    usd: float
    late: int


events = st.lists(
    st.builds(Event, st.integers(0, 71), st.integers(0, 2), usd, st.sampled_from([0, 0, 0, 1, 5])), max_size=60
)
SERIES = (("team", "a"), ("team", "b"), ("team", "c"))


def feed(fed: Fed, stream: list[Event], hours: int = 80) -> Counter[tuple[str, str]]:
    """Close hour after hour; returns how often each alert was opened, by alert fingerprint and channel."""
    opened: Counter[tuple[str, str]] = Counter()
    for hour in range(hours):
        for event in stream:
            if event.late and event.hour + event.late == hour:
                start = np.array([T0 + event.hour * HOUR])
                fed.budgets.late(np.array([event.series]), np.array([event.usd]), start, T0 + (hour - 1) * HOUR)
        cost = [
            sum(e.usd for e in stream if not e.late and e.hour == hour and e.series == series) for series in range(3)
        ]
        for alert in fed.spend(T0 + hour * HOUR, *cost):
            if alert.revision == 1:
                opened[alert.fingerprint, alert.channel] += 1
    return opened


@given(events, st.randoms(use_true_random=False))
def test_spent_is_the_sum_of_the_inputs_in_any_order(stream: list[Event], random: object) -> None:
    org = a_budget(name="org", shared=True, period="month", amount_usd=1e6)
    each = a_budget(name="each", parent="org", period="month", amount_usd=1e6)
    shuffled = list(stream)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in (stream, shuffled):
        fed = Fed(settings_of(org, each), *SERIES)
        feed(fed, order)
        rows = {tags.get("team"): status for tags, status in fed.budgets.status()}
        for number, (_, team) in enumerate(SERIES):
            wanted = math.fsum(event.usd for event in stream if event.series == number)
            assert rows[team].spent_usd == pytest.approx(wanted, rel=1e-9, abs=1e-9)
            assert rows[team].spent_in_parent_usd == pytest.approx(wanted, rel=1e-9, abs=1e-9)
        assert rows[None].spent_usd == pytest.approx(math.fsum(e.usd for e in stream), rel=1e-9, abs=1e-9)


@given(events, st.booleans())
def test_each_threshold_fires_at_most_once_per_period(stream: list[Event], restart: bool) -> None:
    org = a_budget(name="org", shared=True, amount_usd=150)
    fed = Fed(settings_of(org, a_budget(parent="org", carry_over={"max_percent": 50})), *SERIES)
    opened = feed(fed, stream, 30)
    if restart:
        fed = fed.restarted()
    for hour in range(30, 80):
        cost = [sum(e.usd for e in stream if e.hour == hour and e.series == series) for series in range(3)]
        opened += Counter((a.fingerprint, a.channel) for a in fed.spend(T0 + hour * HOUR, *cost) if a.revision == 1)
    assert all(count == 1 for count in opened.values())


@given(events, st.floats(min_value=1, max_value=300))
def test_carry_over_is_never_negative_or_over_its_cap(stream: list[Event], percent: float) -> None:
    fed = Fed(settings_of(a_budget(carry_over={"max_percent": percent})), *SERIES)
    for hour in range(0, 72, 3):
        cost = [sum(e.usd for e in stream if hour <= e.hour < hour + 3 and e.series == s) for s in range(3)]
        fed.spend(T0 + hour * HOUR, *cost)
        for _, status in fed.budgets.status():
            assert 0.0 <= status.carried_usd <= percent * (1 + 1e-9)
            assert status.amount_usd == 100.0 + status.carried_usd
    fed.spend(T0 + 40 * DAY, 0.0)
    assert all(status.carried_usd <= percent * (1 + 1e-9) for _, status in fed.budgets.status())


@given(st.lists(st.floats(min_value=-200, max_value=0), min_size=1, max_size=5))
def test_negative_restatements_alone_tell_nothing(corrections: list[float]) -> None:
    fed = Fed(settings_of(a_budget(thresholds=[50, 100])), ("team", "a"))
    fed.spend(T0, 60.0)
    before = fed.budgets.firing
    for hour, each in enumerate(corrections, 1):
        fed.budgets.late(np.array([0]), np.array([each]), np.array([T0]), T0 + (hour - 1) * HOUR)
        assert fed.spend(T0 + hour * HOUR, 0.0) == []
    assert fed.budgets.firing == before
