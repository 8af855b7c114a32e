"""The running excess: exact sums since it began, over short pauses, and over any pause while an alert is open."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from curb.detector.incidents.incidents import RunningExcess
from tests.fakes.spend import bucket
from tests.fakes.views import T0


class Meter:
    """One series that is expected to burn $6 an hour, by the minute."""

    def __init__(self) -> None:
        self.excess, self.now = RunningExcess(), T0

    def minutes(self, rate: float, times: int = 1, kept: Iterable[int] = ()) -> Meter:
        for _ in range(times):
            self.excess.follow(bucket(self.now, [rate]), kept)
            self.now += 60
        return self

    @property
    def sums(self) -> tuple[float, float]:
        return self.excess.sums(0)


def test_ordinary_spend_is_no_excess() -> None:
    meter = Meter().minutes(6.0, 60).minutes(8.9, 60)
    assert (meter.excess.since(0), meter.sums) == (-1, (0.0, 0.0))


def test_it_begins_with_the_first_bucket_over_and_counts_exactly() -> None:
    meter = Meter().minutes(6.0, 10).minutes(60.0, 5)
    assert meter.excess.since(0) == T0 + 600
    assert meter.sums == pytest.approx((0.5, 5.0))


def test_a_pause_of_less_than_a_quarter_of_an_hour_belongs_to_it() -> None:
    meter = Meter().minutes(60.0).minutes(6.0, 14)
    assert meter.sums == pytest.approx((1.5, 2.4))
    meter.minutes(60.0)
    assert meter.excess.since(0) == T0
    assert meter.sums == pytest.approx((1.6, 3.4))


def test_a_longer_pause_ends_it() -> None:
    meter = Meter().minutes(60.0).minutes(6.0, 15)
    assert (meter.excess.since(0), meter.sums) == (-1, (0.0, 0.0))
    meter.minutes(60.0)
    assert meter.excess.since(0) == T0 + 16 * 60
    assert meter.sums == pytest.approx((0.1, 1.0))


def test_what_has_an_alert_goes_on_through_any_pause() -> None:
    meter = Meter().minutes(60.0).minutes(6.0, 120, kept={0: "an alert"})
    assert meter.excess.since(0) == T0
    assert meter.sums == pytest.approx((12.1, 13.0))
    meter.minutes(6.0)
    assert meter.excess.since(0) == -1


def test_an_alert_without_an_excess_begins_one_now() -> None:
    meter = Meter().minutes(6.0, 30)
    meter.excess.start(0, bucket(meter.now, [7.0]))
    assert meter.excess.since(0) == meter.now
    assert meter.sums == pytest.approx((0.1, 7 / 60))


def test_an_alert_within_an_excess_leaves_its_begin() -> None:
    meter = Meter().minutes(60.0, 3)
    meter.excess.start(0, bucket(meter.now, [60.0]))
    assert meter.excess.since(0) == T0
    assert meter.sums == pytest.approx((0.3, 3.0))


def test_the_hourly_excess_is_an_average_that_fades() -> None:
    meter = Meter().minutes(66.0, 60)
    assert meter.excess.hourly(0) == pytest.approx(60 * (1 - (59 / 60) ** 60))
    assert meter.minutes(6.0, 60).excess.hourly(0) < 25


def test_new_series_come_at_the_end() -> None:
    excess = RunningExcess()
    excess.follow(bucket(T0, [60.0]), ())
    excess.follow(bucket(T0 + 60, [60.0, 60.0]), ())
    assert (excess.since(0), excess.since(1)) == (T0, T0 + 60)


def test_state_goes_on_where_it_was_saved() -> None:
    meter, again = Meter().minutes(60.0, 7), Meter()
    again.excess.load({name: np.array(array) for name, array in meter.excess.dump().items()})
    again.now = meter.now
    for rate in (6.0, 60.0):
        assert again.minutes(rate, 3).sums == meter.minutes(rate, 3).sums
    assert again.excess.hourly(0) == meter.excess.hourly(0)
    assert again.excess.since(0) == T0
