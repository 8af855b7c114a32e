"""What ceilings are set by: the highest honest minute of each day, on the log once a day and when a key grows."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from curb.detector.fast.alerts import Config, FastLane
from curb.detector.fast.lane import SLOT_S, FastTest
from curb.detector.state.reader import PartialSum
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.log.topics import PEAKS
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.spend import Alert
from tests.fakes.alerts import an_alert

DAY = 86400
SCOPE = next(scope for scope in DEFAULT_SCOPES if scope.group_by == ("team", "project", "api_key"))
TAGS = {"team": "search", "project": "p", "api_key": "k1"}
#: Midnight.
START = 20_000 * DAY


class Lane:
    """One key, minute by minute."""

    def __init__(self) -> None:
        self.lane = FastLane(Config(), [SCOPE], 60, lambda scope, tags: tags)
        self.at = float(START)
        self.soft: list[Alert] = []

    def minutes(self, *requests: int, every_s: float = 60.0) -> None:
        """So many requests for 2 cents each, in the first slot of each minute."""
        for count in requests:
            bucket = int(self.at // 60) * 60
            part = PartialSum(
                scope=SCOPE.name,
                tags=msgspec.Raw(msgspec.json.encode(TAGS)),
                bucket_start=bucket,
                effective_cost=0.02 * count,
                requests=count,
                received_at=self.at + 1,
                slot=0,
            )
            self.soft += self.lane.take([part])
            self.at += every_s

    def peaks(self, *incidents: Alert) -> list[PrincipalPeak]:
        self.lane.close(self.at, incidents)
        messages = self.lane.peaks(self.at)
        assert all(message.topic == PEAKS for message in messages)
        return [msgspec.json.decode(message.value, type=PrincipalPeak) for message in messages]

    def day(self, highest: int) -> None:
        """Six hours of calls every ten minutes, once with so many requests."""
        self.minutes(5, highest, *[5] * 34, every_s=600.0)
        self.at = (self.at // DAY + 1) * DAY


@pytest.fixture
def lane() -> Lane:
    return Lane()


def test_a_peak_is_reported_once_a_day_with_the_days_before(lane: Lane) -> None:
    lane.day(12)
    (peak,) = lane.peaks()
    lane.minutes(5, 5)
    assert lane.peaks() == []
    lane.day(8)
    (next_day,) = lane.peaks()
    assert (peak.scope, peak.tags, peak.highest_per_minute) == (SCOPE.name, TAGS, 12.0)
    assert next_day.highest_per_minute == 12.0
    assert next_day.known_days == pytest.approx(2.0, abs=0.01)
    assert next_day.usd_per_request == pytest.approx(0.02)


def test_a_month_is_remembered_and_no_more(lane: Lane) -> None:
    lane.day(40)
    highest = []
    for _ in range(34):
        lane.day(10)
        highest += [peak.highest_per_minute for peak in lane.peaks()]
    assert highest.count(40.0) == 30  # from the second of 31 days on
    assert highest[-1] == 10.0


def test_growth_is_reported_within_the_day_in_steps_of_a_tenth(lane: Lane) -> None:
    lane.day(10)
    lane.day(10)
    lane.peaks()
    told = []
    for count in (9, 11, 11, 12, 15, 15):
        lane.minutes(count, 1, 1, every_s=600.0)
        told += [(peak.highest_per_minute, peak.today_per_minute) for peak in lane.peaks()]
    assert told == [(10.0, 11.0), (10.0, 15.0)]


def test_what_an_alert_is_about_raises_no_ceiling(lane: Lane) -> None:
    lane.day(10)
    lane.day(10)
    lane.peaks()
    lane.minutes(18, 1, 1, every_s=600.0)
    page = an_alert(tier="page", kind="runaway", scope=SCOPE.name, tags=TAGS, started_at=lane.at - 1800)
    lane.peaks(page)
    lane.minutes(30, 1, 1, every_s=600.0)
    lane.peaks(page)
    lane.at = (lane.at // DAY + 1) * DAY
    lane.day(10)
    assert [peak.highest_per_minute for peak in lane.peaks()] == [10.0]


def test_it_goes_on_after_a_restart(lane: Lane) -> None:
    lane.day(10)
    lane.day(14)
    heir = Lane()
    heir.at = lane.at
    heir.lane.load(*lane.lane.dump())
    lane.minutes(5, 5)
    heir.minutes(5, 5)
    assert heir.peaks() == lane.peaks() != []


def test_a_state_of_cumulative_sums_keeps_its_highest_minutes() -> None:
    test = _stepped(FastTest(10.0), 2 * DAY, lambda: 3.0)
    arrays = {name: array.copy() for name, array in test.dump().items()}
    new = {
        f"fast.{name}" for name in ("day", "days", "spoiled", "reported", "high", "held_high", "recent", "week", "calm")
    }
    older = {name: array for name, array in arrays.items() if name not in new | {"fast.day_usd"}}
    older["fast.mean_usd"] = arrays["fast.day_usd"]
    heir = FastTest(10.0)
    heir.load(older)
    heir.begin_day(test.day + 1)
    assert heir.highest_minutes()[0][0] == pytest.approx(test.columns["peak"][0, 0], rel=1e-6)


def _stepped(test: FastTest, seconds: int, requests: Callable[[], float]) -> FastTest:
    test.grow(1)
    for slot in range(START // SLOT_S, (START + seconds) // SLOT_S, 60):
        test.step(slot, np.array([0]), np.array([[requests()], [0.1], [1.0]]))
    return test
