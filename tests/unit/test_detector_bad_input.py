"""The whole detector on input that nobody wants: every odd shape of spend, holes, clock jumps and crowds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import Alert, CostRecord
from tests.fakes.spend import T0, usage
from tests.sizes import size

#: Days of minutes are judged one by one: a minute of work, and more beside others.
pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

DAY, HOUR = 86400, 3600
KEY = Scope(name="key", group_by=("api_key",))
#: What happens at a moment: key and dollars of each.
Spend = Callable[[int], Iterable[tuple[str, float]]]


def pipeline(**settings: Any) -> Pipeline:
    return Pipeline(DetectorSettings(**{"scopes": (KEY,), "grace_s": 0, **settings}))


def run(subject: Pipeline, start: int, end: int, spend: Spend, step_s: int = 60) -> list[Alert]:
    """Records at the begin of every step, received a second later; time comes to the end of each step."""
    alerts: list[Alert] = []
    for at in range(start, end, step_s):
        lines = [encode(usage(f"{at}-{key}", at, usd, received_at=at + 1, key=key)) for key, usd in spend(at)]
        if lines:
            subject.feed(lines)
        subject.tick(at + step_s)
        alerts += subject.alerts
    return alerts


def steady(at: int, key: str = "steady", usd: float = 0.1) -> tuple[str, float]:
    """Noisy spend; the same moment always gives the same."""
    return key, float(np.random.default_rng([5, at, len(key)]).gamma(4.0, usd / 4))


def episodes(alerts: Iterable[Alert], key: str | None = None) -> set[str]:
    return {each.alert_id for each in alerts if key is None or each.tags.get("api_key") == key}


def finite(alert: Alert) -> bool:
    figures = (alert.usd_per_hour, alert.expected_usd_per_hour, alert.excess_usd, alert.dollars_at_risk, alert.score)
    return all(math.isfinite(each) for each in figures)


@pytest.mark.parametrize(
    ("name", "spend"),
    [
        ("constant", lambda at: [("k", 1.0)]),
        ("zero", lambda at: [("k", 0.0)]),
        ("sparse", lambda at: [("k", 0.4)] if (at // 300) % 211 == 0 else []),
        ("tiny", lambda at: [("k", 1e-12)]),
    ],
)
def test_odd_but_steady_spend_raises_nothing(name: str, spend: Spend) -> None:
    """Beside a series that is always there, so that silence of the odd one is no gap of the feed."""
    subject = pipeline(bucket_s=300)
    alerts = run(subject, T0, T0 + size(5, 9) * DAY, lambda at: [steady(at), *spend(at)], 300)
    assert alerts == [], name
    status = subject.shard.top(2)
    assert len(status) == 2
    assert all(math.isfinite(each.usd_per_hour + each.expected_usd_per_hour + each.total_usd) for each in status)


@pytest.mark.parametrize("usd", [lambda at: -1.0, lambda at: 1.0 if (at // 3600) % 7 else -4.0])
def test_credits_of_a_bill_raise_nothing(usd: Callable[[int], float]) -> None:
    subject = pipeline(bucket_s=300, scopes=(Scope(name="account", group_by=("api_key",), sources=("costs",)),))
    total = 0.0
    for at in range(T0, T0 + size(4, 9) * DAY, HOUR):
        record = CostRecord(
            id=f"{at}", charge_period_start=at, received_at=at + 1, effective_cost=usd(at), tags={"api_key": "k"}
        )
        subject.feed([encode(record)], COSTS)
        subject.tick(at + HOUR)
        total += usd(at)
    assert subject.alerts == []
    assert subject.dead_letters == []
    assert subject.shard.top(1)[0].total_usd == pytest.approx(total)


def test_usage_below_zero_is_a_dead_letter() -> None:
    subject = pipeline(bucket_s=300)
    alerts = run(subject, T0, T0 + HOUR, lambda at: [steady(at), ("k", -1.0)], 300)
    assert {alert.channel for alert in alerts} == {"feed/lost/negative_cost"}
    assert len(subject.dead_letters) == 12
    assert subject.shard.series_count == 1


@pytest.mark.parametrize("cost", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"12"', b"null"])
def test_what_is_no_number_is_a_dead_letter_and_leaves_the_rest_alone(cost: bytes) -> None:
    subject = pipeline()
    run(subject, T0, T0 + HOUR, lambda at: [steady(at)])
    good = encode(usage("bad", T0 + HOUR, 12.5, received_at=T0 + HOUR + 1, key="steady"))
    assert b"12.5" in good
    subject.feed([good.replace(b"12.5", cost)])
    before = subject.shard.top(1)[0].total_usd
    subject.tick(T0 + HOUR + 120)
    assert len(subject.dead_letters) == 1
    assert subject.shard.top(1)[0].total_usd == before
    after = run(subject, T0 + HOUR + 120, T0 + 2 * HOUR, lambda at: [steady(at)])
    assert {alert.kind for alert in after} <= {"feed"}


def test_a_single_huge_spike_is_one_episode_that_clears_within_twenty_minutes() -> None:
    subject = pipeline()
    at_spike = T0 + size(3, 5) * DAY

    def spend(at: int) -> list[tuple[str, float]]:
        return [("flat", 500.0 if at == at_spike else 0.1), steady(at)]

    assert run(subject, T0, at_spike, spend) == []
    everything = run(subject, at_spike, at_spike + size(6 * HOUR, 2 * DAY), spend)
    alerts = [each for each in everything if each.tier != "soft"]  # the soft cap has an alert of its own
    assert len(episodes(alerts)) == 1
    assert alerts[0].tags == {"api_key": "flat"}
    assert alerts[0].fired_at <= at_spike + 60
    cleared = [each for each in alerts if each.status == "resolved"]
    assert len(cleared) == 1
    assert cleared[0].resolved_at is not None
    assert cleared[0].resolved_at <= at_spike + 60 + 20 * 60
    assert all(finite(each) for each in alerts)


def test_a_gap_of_hours_of_the_whole_fleet_is_no_drop_and_no_burst() -> None:
    subject = pipeline(bucket_s=300)
    end = T0 + 8 * DAY

    def spend(at: int) -> list[tuple[str, float]]:
        down = any(start <= (at - T0) / HOUR < start + hours for start, hours in ((75, 2), (100, 9), (150, 5)))
        return [] if down else [steady(at, "a", 2.0), steady(at, "bb", 0.5)]

    # That the feed was silent is said, and nothing of any key.
    assert {alert.kind for alert in run(subject, T0, end, spend, 300)} <= {"feed"}
    status = {each.tags["api_key"]: each.expected_usd_per_hour for each in subject.shard.top(2)}
    assert status["a"] == pytest.approx(24.0, rel=0.2)
    assert status["bb"] == pytest.approx(6.0, rel=0.2)


def test_clock_jumps_of_a_source_lose_nothing_and_raise_nothing() -> None:
    """Records stamped hours back or ahead: the past counts late, what is too far ahead is a dead letter."""
    subject = pipeline()
    total = 0.0
    for at in range(T0, T0 + 4 * DAY, 300):
        hours = {30: -5.0, 50: 3.0, 70: -40.0, 80: 0.05}.get((at - T0) // HOUR, 0.0)
        usd = steady(at)[1]
        stamp = at + hours * HOUR
        subject.feed([encode(usage(f"{at}", stamp, usd, received_at=at + 1, key="steady"))])
        subject.tick(at + 60)
        total += usd if hours <= 0.05 else 0.0
    assert {alert.kind for alert in subject.alerts} == {"feed"}
    assert len(subject.dead_letters) == 12
    subject.tick(T0 + 4 * DAY + 600)
    assert subject.shard.top(1)[0].total_usd == pytest.approx(total)
    assert subject.shard.event_time == T0 + 4 * DAY + 600


def test_time_that_goes_back_changes_nothing() -> None:
    subject = pipeline()
    run(subject, T0, T0 + 2 * HOUR, lambda at: [steady(at)])
    before = subject.shard.event_time
    subject.tick(T0 + 60)
    assert subject.shard.event_time == before
    assert run(subject, T0 + 2 * HOUR, T0 + 3 * HOUR, lambda at: [steady(at)]) == []


def test_a_thousand_new_series_in_a_minute_are_counted_to_the_cent() -> None:
    subject = pipeline(bucket_s=300, guard={"first_series": 0})
    crowd_at = T0 + 4 * DAY
    run(subject, T0, crowd_at, lambda at: [steady(at)], 300)
    before = sum(usd for _, usd in subject.shard.totals("key"))
    alerts = run(subject, crowd_at, crowd_at + 300, lambda at: [(f"new-{i}", 0.01) for i in range(1000)], 300)
    totals = subject.shard.totals("key")
    assert sum(usd for _, usd in totals) - before == pytest.approx(10.0)
    # 500 may come in a minute; the others share one series.
    assert len(totals) == 502
    alerts += run(subject, crowd_at + 300, crowd_at + DAY, lambda at: [steady(at)], 300)
    assert len(episodes(alerts)) <= 1


def test_a_series_that_returns_after_weeks_is_neither_forgotten_nor_alarming() -> None:
    subject = pipeline(bucket_s=300)
    back = T0 + size(16, 35) * DAY
    run(subject, T0, T0 + 4 * DAY, lambda at: [steady(at), steady(at, "other", 1.0)], 300)
    quiet = run(subject, T0 + 4 * DAY, back, lambda at: [steady(at)] if at % 3600 == 0 else [], 300)
    assert {alert.kind for alert in quiet} <= {"feed"}
    alerts = run(subject, back, back + 2 * HOUR, lambda at: [steady(at), steady(at, "other", 1.0)], 300)
    assert subject.shard.series_count == 2
    # As much as before, but out of nothing: at most one notice, and never a page.
    assert len(episodes(each for each in alerts if each.tier != "digest")) <= 1
    assert all(each.tier != "page" for each in alerts)
    assert all(finite(each) for each in alerts)


def test_the_future_does_not_change_what_was_said() -> None:
    def past(at: int) -> list[tuple[str, float]]:
        loop = at >= T0 + 3 * DAY + 6 * HOUR
        return [("k", (25.0 if loop else 1.0) * steady(at)[1]), steady(at, "other", 0.5)]

    middle = T0 + 3 * DAY + 8 * HOUR
    one, other = pipeline(bucket_s=300), pipeline(bucket_s=300)
    first, second = run(one, T0, middle, past, 300), run(other, T0, middle, past, 300)
    assert first
    assert first == second
    quiet = run(one, middle, middle + 6 * HOUR, lambda at: [], 300)
    wild = run(other, middle, middle + 6 * HOUR, lambda at: [("k", 1e6), ("brand-new", 1e5)], 300)
    assert quiet != wild
    assert first == second
    assert [each for each in quiet if each.updated_at <= middle] == []
    assert [each for each in wild if each.updated_at <= middle] == []
