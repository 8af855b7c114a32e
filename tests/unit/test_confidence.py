"""Confidence is a share: between 0 and 1, rising with the score, low for what is young or only a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.rules.table import RULES
from curb.detector.state.rule import NOT_MEASURED, Confidence, Family
from curb.stream.records.spend import Tier
from tests.fakes.views import family

FAMILIES = st.sampled_from(
    [each for rule in RULES for each in rule.families] + [Family("a-rule-of-tomorrow", NOT_MEASURED)]
)
TIERS = st.sampled_from(["page", "notice", "digest"])
SURE = Family("x", Confidence(((2, 0.4), (4, 0.8))), by_past=True)


@given(FAMILIES, st.floats(), TIERS, st.floats(allow_nan=False))
def test_it_is_a_share(family: Family, score: float, tier: Tier, known_days: float) -> None:
    sure = family.sure(score, tier, known_days)
    assert 0 < sure <= 1 if family.confidence.points else sure == 0


@given(FAMILIES, st.floats(-100, 100), st.floats(0, 100), TIERS, st.floats(0, 30), st.floats(0, 30))
def test_more_score_or_more_past_is_no_less_sure(
    family: Family, score: float, more: float, tier: Tier, days: float, more_days: float
) -> None:
    least = family.sure(score, tier, days)
    assert family.sure(score + more, tier, days) >= least
    assert family.sure(score, tier, days + more_days) >= least


@pytest.mark.parametrize(
    ("score", "days", "share"),
    [
        (2, 3, 0.4),
        (3, 3, 0.6),
        (4, 3, 0.8),
        (1, 3, 0.4),
        (9, 9, 0.8),
        (float("nan"), 3, 0.4),
        (4, 1.5, 0.6),
        (4, -1, 0.4),
    ],
)
def test_between_the_points_it_is_a_straight_line_and_youth_halves_it(score: float, days: float, share: float) -> None:
    assert SURE.sure(score, "page", days) == pytest.approx(share)


@pytest.mark.parametrize(
    ("channel", "score", "share"),
    [
        ("unexplained/30min", 74, 0.87),
        ("unexplained/5min", 10, 0.63),
        ("dollars", 10, 0.6),
        ("dollars", 29, 0.9),
        ("unit_cost", 9, 0.65),
        ("context", 1.1, 0.41),
        ("creep", 1, 0.5),
        ("weeks", 1, 0.5),
        ("errors", 1, 0.97),
        ("new_model", 10, 0.88),
        ("new_principal", 1, 0.83),
        ("new_region", 1, 0),
        ("idle_gpu/long", 2, 0.96),
        ("autoscaler/new", 2, 0.93),
        ("job", 1, 0),
        ("silent_feed", 1, 0),
        ("growth", 1, 0),
        ("metric-mine", 1, 0),
    ],
)
def test_the_confidence_that_ships(channel: str, score: float, share: float) -> None:
    assert family(channel).sure(score, "notice", 10) == pytest.approx(share)


def test_a_series_born_now_is_half_as_sure_by_its_past_but_not_by_a_rule() -> None:
    assert family("dollars").sure(29, "page", 0) == pytest.approx(family("dollars").sure(29, "page", 3) / 2)
    assert family("new_principal").sure(2, "page", 0) == family("new_principal").sure(2, "page", 9)


def test_a_line_of_the_digest_is_seldom_of_interest() -> None:
    assert family("dollars").sure(30, "digest", 10) == 0.15


def test_what_nobody_measured_says_so() -> None:
    unmeasured = {each.name for rule in RULES for each in rule.families if not each.confidence.measured}
    known = {"new_region", "job", "silent_feed", "growth", "missing_usage"}
    assert unmeasured == known | {"after_soft_cap", "day_one_cap", "new_charge", "repetition"}
