"""Shard: closes buckets in order, survives late sums, gaps and long silences, and counts every dollar."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.scopes import Scope
from curb.detector.state.ticks import Watermark
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, PEAKS, SPEND
from curb.stream.records.spend import (
    Alert,
    DeadLetter,
    Feedback,
    PlannedActivity,
    PricingHole,
    SourceTally,
    SpendPartial,
    SpendTick,
)
from tests.fakes.spend import T0

pytestmark = pytest.mark.long

KEY = Scope(name="key", group_by=("api_key",))
DAY = 86400


def partial(start: int, usd: float, key: str = "k", requests: int = 1) -> SpendPartial:
    return SpendPartial(
        scope="key", tags={"api_key": key}, bucket_start=start, effective_cost=usd, events=1, requests=requests
    )


def shard(**settings: Any) -> Shard:
    return Shard(DetectorSettings(scopes=(KEY,), **settings))


def send(subject: Shard, *lines: Any) -> list[Alert]:
    out = subject.process(Message(SPEND, encode_lines(lines), partition=0, offset=1))
    assert {each.topic for each in out} <= {ALERTS, PEAKS}
    return [msgspec.json.decode(each.value, type=Alert) for each in out if each.topic == ALERTS]


def tick(at: float, source: str = "") -> SpendTick:
    return SpendTick(at=at, source=source)


def test_a_bucket_closes_at_its_end_and_grace() -> None:
    subject = shard()
    send(subject, partial(T0, 1.0), tick(T0 + 89.9))
    assert subject.event_time == T0
    send(subject, tick(T0 + 90))
    assert subject.event_time == T0 + 60
    send(subject, tick(T0 + 10))
    assert subject.event_time == T0 + 60


@pytest.mark.parametrize(("kind", "seen"), [("usage", T0 + 5.0), ("gpu", T0 + 5.0), ("costs", None)])
def test_the_first_spend_is_seen_before_its_bucket_closes(kind: Any, seen: float | None) -> None:
    subject = shard()
    send(subject, SourceTally(source="gw", hour=T0, refused={"not_json": 1}, last_at=T0 + 1.0))
    assert subject.feeds.first_at is None
    for at in (T0 + 5.0, T0 + 9.0):
        send(subject, SourceTally(source="gw", kind=kind, hour=T0, counted=1, last_at=at))
    assert (subject.feeds.first_at, subject.event_time) == (seen, None)


def test_totals_hold_open_closed_and_late_sums() -> None:
    subject = shard()
    send(subject, partial(T0, 1.0), partial(T0, 2.0, "k2"), tick(T0 + 300))
    send(subject, partial(T0, 4.0), partial(T0 + 300, 8.0), partial(T0 - 30 * DAY, 16.0, "old"))
    assert {tags["api_key"]: usd for tags, usd in subject.totals("key")} == {"k": 13.0, "k2": 2.0, "old": 16.0}
    send(subject, tick(T0 + 600))
    assert subject.series_count == 3
    status = {each.tags["api_key"]: each for each in subject.top(10)}
    assert (status["k"].total_usd, status["k"].today_usd) == (13.0, 13.0)
    assert (status["old"].total_usd, status["old"].today_usd) == (16.0, 0.0)


def test_a_new_day_begins_with_what_came_for_it() -> None:
    subject = shard()
    evening = T0 + DAY - 60
    send(subject, partial(evening, 1.0), tick(evening + 10))
    send(subject, partial(T0 + DAY, 2.0), tick(T0 + DAY + 60))
    assert subject.top(1)[0].today_usd == 3.0
    send(subject, partial(T0 + DAY + 60, 4.0), tick(T0 + DAY + 90))
    assert subject.top(1)[0].today_usd == 6.0
    assert subject.top(1)[0].total_usd == 7.0


def test_the_top_is_by_rate_then_total() -> None:
    subject = shard()
    send(subject, partial(T0, 1.0, "a"), partial(T0, 9.0, "b"), partial(T0 - 60, 50.0, "c"))
    send(subject, tick(T0 + 90))
    assert [each.tags["api_key"] for each in subject.top(3)] == ["c", "b", "a"]
    assert [each.usd_per_hour > 0 for each in subject.top(3)] == [True] * 3
    assert subject.top(1, scope="nothing") == []


def test_time_waits_for_the_slowest_input_but_not_for_ever() -> None:
    mark = Watermark(max_skew_s=900)

    def advance(source: str, at: float) -> float:
        return mark.advance(SpendTick(at=at, source=source, live=True))

    assert advance("a", 1000.0) == 1000
    assert advance("b", 500.0) == 500
    assert advance("a", 1300.0) == 500
    assert advance("b", 1200.0) == 1200
    assert advance("a", 5000.0) == 4100
    assert advance("b", 100.0) == 4100


def test_time_waits_for_an_input_that_works_off_a_backlog() -> None:
    mark = Watermark(max_skew_s=900)
    assert mark.advance(SpendTick(at=0.0, source="a")) == 0
    assert mark.advance(SpendTick(at=90_000.0, source="b", live=True)) == 0
    assert mark.advance(SpendTick(at=80_000.0, source="a")) == 80_000
    assert mark.advance(SpendTick(at=80_100.0, source="a", live=True)) == 89_100


def test_what_no_rollup_wrote_is_a_dead_letter_and_the_rest_counts() -> None:
    value = encode_lines([tick(T0)]) + b"garbage\n" + encode_lines([tick(5_000_000_000)])
    outputs = shard().process(Message(SPEND, value, partition=0, offset=7))
    letters = [msgspec.json.decode(each.value, type=DeadLetter) for each in outputs]
    assert [each.location for each in letters] == ["curb.spend/0/7#1", "curb.spend/0/7#0"]


def warm(subject: Shard, days: float, usd: float = 0.1) -> int:
    """A steady key for some days; returns the next bucket."""
    now = T0
    while now < T0 + days * DAY:
        send(subject, partial(now, usd), tick(now + 90))
        now += 60
    return now


def test_a_runaway_is_paged_and_ends_with_its_cause() -> None:
    subject = shard(bucket_s=60)
    now = warm(subject, 3.2)
    alerts: list[Alert] = []
    for _ in range(25):
        alerts += send(subject, partial(now, 10.0, requests=50), tick(now + 90))
        now += 60
    assert [each.tier for each in alerts if each.revision == 1] == ["notice"]
    assert "page" in {each.tier for each in alerts}
    assert alerts[0].started_at == now - 25 * 60
    assert alerts[0].baseline is not None
    assert alerts[0].baseline.expected_usd_per_hour == pytest.approx(6.0, rel=0.05)
    assert subject.firing == [alerts[-1]]
    again = shard(bucket_s=60)
    again.restore(subject.snapshot())
    assert again.firing == subject.firing
    for _ in range(60):
        more = send(subject, partial(now, 0.1), tick(now + 90))
        assert send(again, partial(now, 0.1), tick(now + 90)) == more
        alerts += more
        now += 60
    assert alerts[-1].status == "resolved"
    assert {each.alert_id for each in alerts} == {alerts[0].alert_id}


@pytest.mark.parametrize("announced", [False, True])
def test_announced_work_without_a_job_of_its_own_is_no_news_to_any_rule(announced: bool) -> None:
    """A backfill in the key's own rows: more dollars, more requests of the same users, and far longer prompts."""
    subject, told = shard(bucket_s=300), set()
    begin, end = T0 + 4 * DAY, T0 + 4 * DAY + 8 * 3600
    if announced:
        plan = PlannedActivity(id="p", at=T0, tags={"api_key": "k"}, start=begin, end=end, max_usd=500.0)
        send(subject, plan, tick(T0))
    for now in range(T0, T0 + 5 * DAY, 300):
        usual = {"requests": 100, "users": 32, "input_tokens": 100 * 300, "output_tokens": 100 * 50}
        usd = 1.0
        if begin <= now < end:
            usual |= {"requests": 400, "input_tokens": 400 * 1500}
            usd = 5.0
        part = SpendPartial(scope="key", tags={"api_key": "k"}, bucket_start=now, effective_cost=usd, events=1, **usual)
        told |= {alert.kind for alert in send(subject, part, tick(now + 390))}
    assert told == (set() if announced else {"abusive"})


@pytest.mark.parametrize(("verdict", "grown"), [(None, 0.0), ("planned", 50.0), ("real", 0.0)])
def test_a_budget_does_not_grow_in_the_days_after_an_incident(verdict: Any, grown: float) -> None:
    """Through the shard: its own alerts and people's verdicts reach the budgets."""
    grows = {"step_percent": 50, "max_usd": 150, "utilisation_percent": 80, "clean_days": 3.5}
    budget = {"name": "b", "scope": "key", "amount_usd": 100, "period": "day", "auto_expand": grows}
    subject = shard(bucket_s=900, budgets=[budget])
    alerts: list[Alert] = []
    for now in range(T0, T0 + 4 * DAY, 900):
        # Four hours of a runaway, on the day at whose end the budget may grow first.
        wild = 3.2 * DAY <= now - T0 < 3.2 * DAY + 4 * 3600
        alerts += send(subject, partial(now, 30.0 if wild else 1.0, requests=50 if wild else 1), tick(now + 1000))
        for alert_id in {each.alert_id for each in alerts} if verdict and wild else ():
            send(subject, Feedback(id=alert_id, at=now, alert_id=alert_id, verdict=verdict))
    assert "runaway" in {each.kind for each in alerts if each.tier != "digest"}
    send(subject, partial(T0 + 4 * DAY, 1.0), tick(T0 + 4 * DAY + 1000))
    ((_, status),) = subject.budgets()
    assert status.expanded_usd == grown


def test_a_long_silence_is_passed_over_and_ends_alerts() -> None:
    steps: list[int] = []
    subject = shard()
    now = warm(subject, 0.2)
    head = subject._scoring.head
    head_step = head.step
    head.step = lambda step: steps.append(step.start) or head_step(step)  # type: ignore[func-returns-value,method-assign]
    send(subject, PricingHole(model="m", source="s", reason="unknown_model", at=now), partial(now, 0.1), tick(now + 90))
    assert len(subject.firing) == 1
    alerts = send(subject, partial(now + 30 * DAY, 5.0, "other"), tick(now + 30 * DAY + 90))
    assert len(steps) < 300
    assert subject.event_time == now + 30 * DAY + 60
    assert [(each.kind, each.status) for each in alerts] == [("pricing", "resolved")]


def test_a_silence_told_in_many_ticks_is_the_same_as_in_one() -> None:
    one, many = shard(), shard()
    now = warm(one, 0.2)
    warm(many, 0.2)
    end = now + 2 * DAY
    send(one, tick(end + 90))
    for at in range(now, end + 1, 600):
        send(many, tick(at + 90))
    follow = [partial(end, 3.0), tick(end + 150)]
    send(one, *follow)
    send(many, *follow)
    a, b = one.top(1)[0], many.top(1)[0]
    assert a.usd_per_hour == pytest.approx(b.usd_per_hour, rel=1e-9)
    assert a.expected_usd_per_hour == pytest.approx(b.expected_usd_per_hour, rel=1e-9)
    assert one.event_time == many.event_time


def test_the_first_tick_does_not_begin_in_the_far_past() -> None:
    subject = shard()
    send(subject, partial(T0 - 30 * DAY, 1.0), partial(T0, 1.0), tick(T0 + 60))
    assert subject.event_time == T0
    assert subject._stream_since == T0 + 60 - 7200
    send(subject, tick(T0 + 90))
    assert subject.event_time == T0 + 60
    assert subject.totals("key")[0][1] == 2.0


def test_ticks_before_anything_came_are_no_time() -> None:
    subject = shard()
    assert send(subject, tick(T0)) == []
    assert subject.event_time is None
    assert subject.flush(T0 + 5.0) == ()
    again = shard()
    again.restore(subject.snapshot())
    assert again.event_time is None


def test_an_alert_says_which_part_of_all_spend_its_subject_is() -> None:
    budgets = [{"name": "day", "scope": "key", "amount_usd": 50.0, "period": "day", "thresholds": [100]}]
    subject = Shard(DetectorSettings.model_validate({"scopes": [KEY], "budgets": budgets}))
    told = SpendTick(at=T0 + 90, source="curb.usage/0", effective_cost=240.0)
    early, alert = send(subject, partial(T0, 60.0), told)
    assert (early.revision, early.share) == (1, None)
    assert (alert.kind, alert.share) == ("budget", 0.25)
