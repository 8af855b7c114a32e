"""Budgets at every flush: a threshold fires when its sums are on the log, once, and the bucket revises its page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import Alert, BudgetIncrease, SpendPartial, SpendScored, SpendTick
from tests.fakes.spend import T0, usage

KEY = Scope(name="key", group_by=("api_key",))
CAP = {"name": "cap", "scope": "key", "amount_usd": 50.0, "period": "day", "thresholds": [100], "hard": True}
ALL = {"name": "all", "scope": "key", "amount_usd": 80.0, "period": "day", "shared": True, "thresholds": [100]}
DAY = 86400


def shard(*budgets: dict[str, Any]) -> Shard:
    listed = [{**each, "burn_rate": {"enabled": False}} for each in budgets or (CAP,)]
    return Shard(DetectorSettings.model_validate({"scopes": [KEY], "budgets": listed}))


def part(start: int, usd: float, key: str = "k", at: float | None = None, **fields: Any) -> SpendPartial:
    received_at = start + 1.0 if at is None else at
    tags = {"api_key": key}
    return SpendPartial(
        scope="key", tags=tags, bucket_start=start, effective_cost=usd, events=1, received_at=received_at, **fields
    )


def send(subject: Shard, *lines: Any, key: bytes = b"in") -> list[Alert]:
    out = subject.process(Message(SPEND, encode_lines(lines), key=key, partition=0, offset=1))
    return [msgspec.json.decode(each.value, type=Alert) for each in out]


def tick(at: float, source: str = "in") -> SpendTick:
    return SpendTick(at=at, source=source)


def started(*budgets: dict[str, Any]) -> Shard:
    """A shard that has closed the bucket before T0 + 60."""
    subject = shard(*budgets)
    assert send(subject, part(T0, 1.0), tick(T0 + 90)) == []
    return subject


def brief(alerts: Iterable[Alert]) -> list[tuple[str, int, str, float]]:
    return [(a.tags.get("api_key", ""), a.revision, a.status, a.budget.spent_usd if a.budget else 0.0) for a in alerts]


def test_a_cap_alerts_when_its_sums_come_and_revised_when_the_bucket_closes() -> None:
    subject = started()
    at = T0 + 91.5
    assert send(subject, part(T0 + 60, 40.0, at=T0 + 90.5)) == []
    (alert,) = send(subject, part(T0 + 60, 10.0, at=at))
    assert (alert.kind, alert.tier, alert.channel, alert.fired_at) == ("budget", "page", "budget/100", at)
    assert alert.budget is not None
    assert alert.budget.hard
    assert alert.budget.spent_usd == 51.0
    assert alert.usd_per_hour > 550, "the open bucket is in the rate"
    assert send(subject, part(T0 + 60, 5.0)) == []
    assert brief(send(subject, tick(T0 + 150))) == [("k", 2, "firing", 56.0)]
    assert [each.alert_id for each in subject.firing if each.kind == "budget"] == [alert.alert_id]
    assert send(subject, tick(T0 + 210)) == []


def test_a_key_that_is_new_has_its_cap_from_the_first_sum_on() -> None:
    subject = shard()
    assert brief(send(subject, part(T0, 60.0))) == [("k", 1, "firing", 60.0)]
    subject = started()
    assert brief(send(subject, part(T0 + 60, 30.0, "new"))) == []
    assert brief(send(subject, part(T0 + 60, 30.0, "new"))) == [("new", 1, "firing", 60.0)]
    assert brief(send(subject, tick(T0 + 150))) == [("new", 2, "firing", 60.0)]
    rows = [(tags["api_key"], status.spent_usd, status.counted_from) for tags, status in subject.budgets()]
    assert rows == [("k", 1.0, T0), ("new", 60.0, T0 + 60)]


def test_a_shared_budget_counts_all_keys_at_once() -> None:
    subject = started(CAP, ALL)
    assert send(subject, part(T0 + 60, 45.0)) == []
    (alert,) = send(subject, part(T0 + 60, 40.0, "other"))
    assert alert.budget is not None
    assert (alert.budget.name, alert.budget.spent_usd) == ("all", 86.0)


def test_late_sums_count_at_once_and_those_of_another_day_do_not() -> None:
    subject = started()
    send(subject, tick(T0 + 900))
    assert send(subject, part(T0 - DAY, 60.0)) == []
    assert brief(send(subject, part(T0 + 120, 60.0))) == [("k", 1, "firing", 61.0)]


def test_sums_of_tomorrow_wait_for_tomorrow() -> None:
    subject = started()
    midnight = T0 // DAY * DAY + DAY
    send(subject, tick(midnight + 20))
    assert send(subject, part(midnight, 49.5, at=midnight + 5)) == [], "a dollar of today would make it 50.5"
    assert send(subject, tick(midnight + 90)) == []
    assert brief(send(subject, part(midnight + 60, 1.0))) == [("k", 1, "firing", 50.5)]


def test_what_is_only_judged_is_not_counted_twice() -> None:
    subject = started()
    assert send(subject, part(T0 + 60, 30.0, counted_only=True)) == []
    scored = SpendScored(
        scope="key", tags={"api_key": "k"}, bucket_start=T0 + 60, effective_cost=30.0, events=1, received_at=T0 + 70
    )
    assert send(subject, scored) == []
    assert brief(send(subject, part(T0 + 60, 30.0, counted_only=True))) == [("k", 1, "firing", 61.0)]


def test_a_raised_amount_lets_it_fire_again() -> None:
    subject = started()
    (first,) = send(subject, part(T0 + 60, 60.0))
    more = BudgetIncrease(
        id="i", at=T0 + 100, budget="cap", match={"api_key": "k"}, amount_usd=50.0, expires_at=T0 + DAY
    )
    send(subject, more, tick(T0 + 150))
    assert brief(send(subject, tick(T0 + 210)))[-1:] in ([], [("k", 3, "resolved", 61.0)])
    (second,) = send(subject, part(T0 + 240, 45.0, at=T0 + 250))
    assert second.alert_id != first.alert_id
    assert second.budget is not None
    assert (second.budget.spent_usd, second.budget.amount_usd) == (106.0, 100.0)


def test_an_input_that_lags_does_not_hide_the_sums_and_does_not_revise_them_away() -> None:
    subject = shard()
    send(subject, tick(T0 + 60, "slow"), key=b"slow")
    send(subject, part(T0, 1.0), tick(T0 + 90))
    assert brief(send(subject, part(T0 + 300, 60.0, at=T0 + 310))) == [("k", 1, "firing", 61.0)]
    assert send(subject, tick(T0 + 150, "slow"), key=b"slow") == [], "its own bucket is open still"
    send(subject, tick(T0 + 400))
    (revision,) = send(subject, tick(T0 + 400, "slow"), key=b"slow")
    assert (revision.revision, revision.updated_at) == (2, T0 + 390)


@pytest.mark.parametrize("closed", [False, True])
def test_a_shard_that_takes_over_fires_it_neither_early_nor_twice(closed: bool) -> None:
    """A partition moves to another process between two flushes of one bucket."""
    subject = started()
    send(subject, part(T0 + 60, 40.0))
    if closed:  # taken in by the bucket before, and still in an open bucket
        send(subject, part(T0 + 120, 0.5), tick(T0 + 149))
    heir = shard()
    heir.restore(subject.snapshot())
    assert send(heir, part(T0 + 60, 8.0)) == []
    (alert,) = send(heir, part(T0 + 60, 2.0))
    assert brief([alert]) == brief(send(subject, part(T0 + 60, 10.0)))
    last = shard()
    last.restore(heir.snapshot())
    assert send(last, part(T0 + 60, 1.0)) == []
    (revision,) = send(last, tick(T0 + 190))
    assert (revision.alert_id, revision.revision) == (alert.alert_id, 2)


def test_an_event_that_comes_twice_counts_once() -> None:
    pipeline = Pipeline(shard()._settings)
    events = [usage(f"e{i}", T0 + 60 + i, 12.0, received_at=T0 + 61 + i, key="k") for i in range(4)]
    for each in [*events, *events]:
        pipeline.feed(encode_lines([each]))
        pipeline.tick(T0 + 70.0)
    assert pipeline.alerts == []
    pipeline.feed(encode_lines([usage("e5", T0 + 66, 3.0, received_at=T0 + 71, key="k")]))
    pipeline.tick(T0 + 72.0)
    assert brief(pipeline.alerts) == [("k", 1, "firing", 51.0)]
