"""Confidence is a share: between 0 and 1, rising with the score, low for what is young or only a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.incidents.confidence import _SHARES, confidence
from curb.stream.records.spend import Tier

FAMILIES = st.sampled_from([*_SHARES, "autoscaler", "idle_gpu", "a rule of tomorrow"])
TIERS = st.sampled_from(["page", "notice", "digest"])


@given(FAMILIES, st.floats(), TIERS, st.floats(allow_nan=False))
def test_it_is_a_share(family: str, score: float, tier: Tier, known_days: float) -> None:
    assert 0 < confidence(family, score, tier, known_days) <= 1


@given(FAMILIES, st.floats(-100, 100), st.floats(0, 100), TIERS, st.floats(0, 30), st.floats(0, 30))
def test_more_score_or_more_past_is_no_less_sure(
    family: str, score: float, more: float, tier: Tier, days: float, more_days: float
) -> None:
    least = confidence(family, score, tier, days)
    assert confidence(family, score + more, tier, days) >= least
    assert confidence(family, score, tier, days + more_days) >= least


def test_two_statistics_far_over_their_threshold_are_surer_than_one_that_just_made_it() -> None:
    assert confidence("unexplained", 20, "page", 10) == pytest.approx(0.96)
    assert confidence("unexplained", 2.1, "notice", 10) < 0.65


def test_a_series_born_now_is_half_as_sure_by_its_past_but_not_by_a_rule() -> None:
    assert confidence("dollars", 12, "page", 0) == pytest.approx(confidence("dollars", 12, "page", 3) / 2)
    assert confidence("new_principal", 2, "page", 0) == confidence("new_principal", 2, "page", 9)


def test_a_line_of_the_digest_is_seldom_of_interest_but_a_sum_is_a_sum() -> None:
    assert confidence("dollars", 30, "digest", 10) == 0.15
    assert confidence("budget", 80, "digest", 0) == 1.0
