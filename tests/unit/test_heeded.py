"""What people told changes findings: silences and plans make them digest lines, doubts raise what they need."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from curb.detector.incidents.feedback import subject_fingerprint, with_feedback
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Finding
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.records.spend import Feedback, Silence, Tier
from tests.fakes.views import DAY, HOUR, T0, family

THRESHOLD = 6.0
WEEK = 7 * DAY


class Scene:
    """Two keys and what people say about the alerts of the first."""

    def __init__(self) -> None:
        self.registry = SeriesRegistry(DEFAULT_SCOPES, "UTC")
        for key in ("k1", "k2"):
            tags = msgspec.json.encode({"team": "a", "project": "p", "api_key": key})
            self.registry.number("key", tags, T0)
        self.knowledge = Knowledge(DEFAULT_SCOPES, "UTC")

    def judge(
        self, verdict: Literal["real", "not_an_anomaly", "planned"], at: float = T0, kind: str = "runaway"
    ) -> None:
        fingerprint = subject_fingerprint(kind, self.registry, 0)
        alert_id = f"{fingerprint}-{int(at)}"
        self.knowledge.add(Feedback(id=f"f{at}", at=at, alert_id=alert_id, verdict=verdict))

    def tier(self, score: float = 6.5, at: float = T0 + 1, channel: str = "dollars", **changes: Any) -> Tier:
        finding = Finding(0, family(channel), "runaway", "page", score, "too much")._replace(**changes)
        (left,) = with_feedback([finding], self.knowledge, self.registry, at, THRESHOLD)
        assert left._replace(tier="page") == finding
        return left.tier


def test_without_opinions_findings_stay_as_they_are() -> None:
    assert Scene().tier() == "page"


def test_a_doubted_statistic_needs_three_points_more() -> None:
    scene = Scene()
    scene.judge("not_an_anomaly")
    assert scene.tier(8.9) == "digest"
    assert scene.tier(9.1) == "page"


def test_doubts_add_up_and_are_forgotten_by_half_in_two_weeks() -> None:
    scene = Scene()
    for at in (T0, T0 + 1, T0 + 2, T0 + 3):
        scene.judge("not_an_anomaly", at)
    assert scene.tier(14.9, T0 + 3) == "digest"
    assert scene.tier(15.0, T0 + 3) == "page"
    once = Scene()
    once.judge("not_an_anomaly")
    assert once.tier(7.4, T0 + 2 * WEEK) == "digest"
    assert once.tier(7.6, T0 + 2 * WEEK) == "page"
    assert once.tier(6.4, T0 + 6 * WEEK) == "page"


@pytest.mark.parametrize(("score", "tier"), [(1.9, "digest"), (2.0, "page")])
def test_a_doubted_rule_needs_twice_its_limit(score: float, tier: Tier) -> None:
    scene = Scene()
    scene.judge("not_an_anomaly")
    assert scene.tier(score, T0, channel="errors") == tier


def test_a_doubt_is_about_one_kind_on_one_series() -> None:
    scene = Scene()
    scene.judge("not_an_anomaly")
    assert scene.tier(series=1) == "page"
    assert scene.tier(kind="unit_cost") == "page"


def test_planned_is_excused_for_the_day_and_six_hours_at_least() -> None:
    scene = Scene()
    scene.judge("planned", T0 + 22 * HOUR)
    assert scene.tier(99.0, T0 + 28 * HOUR - 1) == "digest"
    assert scene.tier(99.0, T0 + 28 * HOUR) == "page"
    assert scene.tier(99.0, T0 + 23 * HOUR, series=1) == "page"


def test_real_changes_no_threshold() -> None:
    scene = Scene()
    scene.judge("real")
    assert scene.tier(6.0) == "page"


def test_what_comes_every_night_is_told_only_if_people_called_it_real() -> None:
    scene = Scene()
    nightly = Finding(0, family("unexplained"), "runaway", "page", 6.5, "too much", recurring=True)
    judge = (scene.knowledge, scene.registry, T0 + 1, THRESHOLD)
    assert with_feedback([nightly], *judge) == []
    scene.judge("real", kind="unit_cost")
    assert with_feedback([nightly], *judge) == []
    # Whether it was called abusive differs from night to night.
    scene.judge("real", kind="abusive")
    assert with_feedback([nightly], *judge) == [nightly]


def test_a_silence_makes_a_digest_line_of_what_matches_until_it_ends() -> None:
    scene = Scene()
    scene.knowledge.add(Silence(id="s", at=T0, matchers={"api_key": "k1*"}, until=T0 + HOUR))
    assert scene.tier(99.0, T0 + HOUR - 1) == "digest"
    assert scene.tier(99.0, T0 + HOUR) == "page"
    assert scene.tier(99.0, series=1) == "page"
