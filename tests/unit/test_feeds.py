"""Alerts on feeds: sent once, updated in place, over when the feed is good; small losses wake nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.detector.incidents.feed_sources import Habit
from curb.detector.incidents.feeds import FeedAlerts, FeedDump
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.records.spend import Alert, ScopeTally, SourceTally, SpendTick
from tests.fakes.spend import T0

MIN, HOUR, DAY = 60, 3600, 86400


class House:
    """A source that reports once a minute, and what is alerted meanwhile."""

    def __init__(self) -> None:
        self.feeds, self.at = FeedAlerts(DEFAULT_SCOPES), float(T0)
        self.alerts: list[Alert] = []

    def note(self, **changes: Any) -> None:
        tally = SourceTally(source="gateway", hour=int(self.at // HOUR) * HOUR, last_at=self.at)
        self.feeds.note(msgspec.structs.replace(tally, **changes))

    def minutes(self, count: int, **changes: Any) -> list[Alert]:
        """Minutes with 10 records for $1 each, or what `changes` say; the revisions they brought."""
        before = len(self.alerts)
        for _ in range(count):
            self.at += MIN
            if changes.get("counted") != 0 or len(changes) > 1:
                self.note(**{"counted": 10, "counted_usd": 1.0, **changes})
            self.alerts += self.feeds.close(self.at)
        return self.alerts[before:]

    def silence(self, minutes: int) -> list[Alert]:
        return self.minutes(minutes, counted=0)

    def again(self) -> None:
        """Through a snapshot."""
        data = msgspec.msgpack.encode(self.feeds.dump())
        self.feeds = FeedAlerts(DEFAULT_SCOPES)
        self.feeds.load(msgspec.msgpack.decode(data, type=FeedDump))


def test_a_healthy_source_alerts_nothing() -> None:
    house = House()
    assert house.minutes(3 * 24 * 60) == []
    (row,) = house.feeds.rows()
    assert (row.source, row.problems, row.last_24_h["lost_percent"]) == ("gateway", [], 0.0)
    assert 23 * 600 <= row.last_24_h["counted"] <= 24 * 600


def test_a_loss_is_sent_once_and_ends_when_the_next_hour_is_good() -> None:
    house = House()
    house.minutes(90)
    (first,) = house.minutes(1, refused={"not_json": 20})
    assert (first.kind, first.status, first.tier, first.revision) == ("feed", "firing", "digest", 1)
    assert (first.scope, first.tags, first.channel) == ("source", {"source": "gateway"}, "feed/lost/not_json")
    assert "20 of 340 records" in first.explanation
    assert "20 no JSON" in first.explanation
    assert "curb connectors list" in first.explanation
    house.again()
    assert house.feeds.firing == [first]
    # 20 of 620 in the whole hour: it lasts through the next one, in which nothing is lost.
    later = house.minutes(88)
    assert later == []
    (over,) = house.minutes(60)
    assert (over.alert_id, over.status, over.revision) == (first.alert_id, "resolved", 2)
    assert house.feeds.firing == []


def test_one_bad_line_in_a_good_hour_is_no_alert() -> None:
    house = House()
    house.minutes(60)
    assert house.minutes(1, refused={"not_json": 1}) == []
    assert house.feeds.rows()[0].this_hour["refused"] == {"not_json": 1}


def test_a_bad_line_of_twenty_is_a_line_of_the_digest() -> None:
    house = House()
    (alert,) = house.minutes(1, counted=19, refused={"wrong_type": 1})
    assert (alert.tier, alert.dollars_at_risk) == ("digest", 0.0)
    assert "1 of 20 records of an hour (5.0%)" in alert.explanation


@pytest.mark.parametrize(
    ("changes", "tier"),
    [
        ({"refused": {"not_json": 150}}, "notice"),
        ({"refused": {"not_json": 15}, "counted": 5}, "notice"),
        ({"refused": {"negative_cost": 1}, "refused_usd": 40.0}, "notice"),
        ({"missed": 5.0, "missed_usd": 0.5}, "digest"),
        ({"missed": 200.0, "missed_usd": 20.0, "counted": 300}, "digest"),  # a history that is sent in one go
    ],
)
def test_how_loud_a_loss_is(changes: dict[str, Any], tier: str) -> None:
    house = House()
    (alert,) = house.minutes(1, **changes)
    assert alert.tier == tier


def test_the_largest_reason_is_named_and_a_new_one_is_a_revision_an_hour_later() -> None:
    house = House()
    (first,) = house.minutes(1, refused={"not_json": 3, "too_old": 2})
    assert first.channel == "feed/lost/not_json"
    assert house.minutes(30, refused={"too_old": 2}) == []
    (second,) = house.minutes(40, refused={"too_old": 2})
    assert (second.revision, second.channel) == (2, "feed/lost/too_old")
    assert "max_age_days" in second.explanation


def test_a_source_of_which_nothing_counts_any_more_is_a_page() -> None:
    house = House()
    house.minutes(60)
    found = house.minutes(65, counted=0, counted_usd=0.0, refused={"wrong_type": 10})
    assert [(each.tier, each.revision) for each in found] == [("digest", 1), ("notice", 2), ("page", 3)]
    assert house.minutes(300, counted=0, counted_usd=0.0, refused={"wrong_type": 10}) == []


def test_late_records_that_keep_coming_are_a_notice() -> None:
    house = House()
    (first,) = house.minutes(1, missed=10.0)
    assert (first.tier, first.channel) == ("digest", "feed/lost/too_late")
    (second,) = house.minutes(100, missed=10.0)
    assert second.tier == "notice"


def test_repeated_records_are_no_loss() -> None:
    house = House()
    assert house.minutes(120, duplicates=50, duplicate_usd=5.0) == []


def test_a_clock_that_is_off_is_reported_and_its_records_count() -> None:
    house = House()
    house.minutes(60)
    (alert,) = house.minutes(1, counted=20, skewed=20, skew_s=900.0)
    assert (alert.channel, alert.tier) == ("feed/clock/ahead", "digest")
    assert "15 min ahead" in alert.explanation
    assert "NTP" in alert.explanation
    (over,) = house.minutes(180)
    assert over.status == "resolved"


def test_a_source_that_went_quiet() -> None:
    house = House()
    house.minutes(2 * 24 * 60)
    assert house.silence(29) == []
    (alert,) = house.silence(10)
    assert (alert.channel, alert.tier) == ("feed/quiet/quiet", "digest")
    assert "sent nothing for 31 min" in alert.explanation
    house.again()
    (over,) = house.minutes(1)
    assert over.status == "resolved"


def test_a_source_known_for_weeks_is_missed_louder() -> None:
    house = House()
    house.minutes(15 * 24 * 60)
    assert [each.tier for each in house.silence(90)] == ["digest", "notice"]


def test_a_recorded_stream_ends_and_is_not_missed() -> None:
    house = House()
    house.minutes(2 * 24 * 60, source="replay-history")
    assert house.silence(120) == []


def test_a_young_source_is_not_missed() -> None:
    house = House()
    house.minutes(3 * 60)
    assert house.silence(24 * 60) == []


def test_a_day_old_source_is_given_two_hours() -> None:
    house = House()
    house.minutes(6 * 60)
    assert house.silence(119) == []
    assert len(house.silence(5)) == 1


def test_nights_and_weekends_are_no_silence_once_they_are_known() -> None:
    house = House()
    for day in range(21):
        house.silence(9 * 60)
        if day % 7 < 5:
            house.minutes(9 * 60)
        else:
            house.silence(9 * 60)
        found = house.silence(6 * 60)
        assert day < 7 or not found, f"day {day}: {found}"
    assert {alert.tier for alert in house.alerts} <= {"digest"}
    house.alerts.clear()
    # A working day without data is missed after two hours.
    found = house.silence(13 * 60)
    assert [(each.channel, each.status) for each in found] == [("feed/quiet/quiet", "firing")]


def test_daily_deliveries_are_missed_after_days() -> None:
    house = House()
    for _ in range(10):
        house.minutes(1)
        house.silence(24 * 60 - 1)
    assert house.alerts == []
    assert house.silence(30 * 60) == []
    (alert,) = house.silence(30 * 60)
    assert alert.channel == "feed/quiet/quiet"


def test_while_curb_was_down_nobody_was_silent() -> None:
    house = House()
    house.minutes(2 * 24 * 60)
    house.feeds.tick(SpendTick(at=house.at, source="curb.usage/0", live=True))
    house.feeds.tick(SpendTick(at=house.at + 5 * HOUR, source="curb.usage/0", live=True))
    assert house.silence(5 * 60) == []
    assert len(house.silence(40)) == 1


def test_a_source_that_is_gone_is_forgotten() -> None:
    house = House()
    house.minutes(2 * 24 * 60)
    found = house.silence(8 * 24 * 60)
    assert [each.status for each in found][-1] == "resolved"
    assert (house.feeds.rows(), house.feeds.firing) == ([], [])


def test_an_outage_teaches_no_habit() -> None:
    habit = Habit()
    habit.silent(T0, T0 + 10 * HOUR)
    habit.heard(T0 + 10 * HOUR, alerted=True)
    assert (habit.longest_s, habit.longest_gap_s, habit.silent_s) == (0.0, pytest.approx(HOUR, rel=1e-3), 0.0)


def test_dollars_in_other_are_reported_by_scope() -> None:
    house = House()
    house.minutes(5)
    house.feeds.tick(SpendTick(at=house.at, source="curb.usage/0", effective_cost=100.0))
    house.feeds.note(ScopeTally(scope="key", hour=T0, folded=7, folded_usd=0.9))
    assert house.minutes(1) == []
    house.feeds.note(
        ScopeTally(scope="key", hour=T0, folded=9, folded_usd=2.1, untagged_usd=5.0, largest=[("a / k9", 1.5)])
    )
    (alert,) = house.minutes(1)
    assert (alert.scope, alert.tags, alert.tier) == ("scope", {"scope": "key"}, "digest")
    assert "$3.00 of $100.00 of an hour (3.0%; 16 records) are in __other__" in alert.explanation
    assert "; the largest so far, at most: a / k9 $1.50" in alert.explanation
    (row,) = house.feeds.scope_rows()
    assert (row.scope, row.usd, row.folded_usd, row.untagged_usd) == ("key", 100.0, 3.0, 5.0)
    assert row.problems == [alert.explanation]
    assert [each.status for each in house.minutes(3 * 60)] == ["resolved"]


def test_what_is_said_has_no_control_characters() -> None:
    house = House()
    house.feeds.note(SourceTally(source="a\x1b[31m\n", hour=T0, refused={"not_json": 5}))
    (alert,) = house.feeds.close(float(T0 + 60))
    assert alert.explanation.isprintable()


def test_a_snapshot_of_an_earlier_version_has_none() -> None:
    feeds = FeedAlerts(DEFAULT_SCOPES)
    feeds.load(None)
    assert feeds.close(float(T0)) == []
