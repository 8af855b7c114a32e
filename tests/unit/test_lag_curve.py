"""The lag of a source is learned from how its charge periods fill up."""

from __future__ import annotations

from curb.connectors.bills.lag_curve import LagCurve

HOUR = 3600
T0 = 1_760_000_000 // 86_400 * 86_400


def bill(as_of: float, full_after_h: float, days: int = 30) -> dict[int, float]:
    """Dollars told of each day's usage by then: they grow evenly until `full_after_h` after the day's end."""
    ends = [T0 + day * 86_400 for day in range(days)]
    shares = {end: min(1.0, (as_of - end) / HOUR / full_after_h) for end in ends if end < as_of}
    return {end: 100.0 * share for end, share in shares.items()}


def learn(full_after_h: float, every_h: int = 6, days: int = 20) -> LagCurve:
    curve = LagCurve(default_lag_s=48.0 * HOUR)
    for hours in range(0, days * 24, every_h):
        curve.observe("2025-10", T0 + hours * HOUR, bill(T0 + hours * HOUR, full_after_h))
    return curve


def test_until_enough_periods_settled_the_default_holds() -> None:
    assert learn(10, days=6).lag_s == 48 * HOUR
    assert learn(60, days=6).lag_s == 48 * HOUR


def test_the_lag_of_a_quick_and_of_a_slow_source() -> None:
    # Seen every six hours: what is full after 10 h is seen to be at 12 h.
    assert learn(10).lag_s == 12 * HOUR
    assert learn(40).lag_s == 42 * HOUR


def test_a_source_seen_once_a_day_is_complete_a_day_later_at_worst() -> None:
    assert learn(10, every_h=24).lag_s == 24 * HOUR


def test_restatements_of_old_periods_teach_no_longer_lag() -> None:
    curve = learn(10)
    as_of = T0 + 20 * 86_400
    curve.observe("2025-10", as_of, {end: 2 * usd for end, usd in bill(as_of, 10).items() if as_of - end > 6 * 86_400})
    assert curve.lag_s == 12 * HOUR


def test_ages_before_the_first_snapshot_teach_nothing() -> None:
    curve = LagCurve(default_lag_s=48.0 * HOUR)
    for day in range(11):  # the first snapshot already holds four whole days
        as_of = T0 + (4 + day) * 86_400
        curve.observe("2025-10", as_of, bill(as_of, 1))
    assert curve.seen[0] < curve.seen[-1]
    assert curve.lag_s == 24 * HOUR
