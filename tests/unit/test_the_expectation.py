"""The page on the expectation: its worked examples are what the shipped classes compute."""

from __future__ import annotations

import re

import numpy as np
import pytest

from curb.detector.heads.demand_model import DemandModel
from curb.detector.heads.past import DollarsHead, ScoreSettings, Step
from tests.fakes.views import DAY, HOUR, T0
from tests.house.tree import ROOT

PAGE = (ROOT / "docs" / "explain" / "the-expectation.md").read_text(encoding="utf-8")
STEP_S = 300
NOBODY = np.zeros(1, np.bool_)


def said(pattern: str) -> float:
    """The one number that the page gives where the pattern has its group."""
    (found,) = re.findall(pattern.replace(" ", r"\s+"), PAGE)  # a line of prose may end anywhere
    return float(found)


def spend(head: DollarsHead, begin: int, end: int, usd: float) -> None:
    for start in range(begin, end, STEP_S):
        head.step(Step(start, np.array([usd]), np.array([10.0]), False, NOBODY))


def test_the_series_that_doubles() -> None:
    head = DollarsHead(ScoreSettings(), STEP_S, "UTC")
    head.grow(1, T0)
    spend(head, T0, T0 + 7 * DAY, 0.5)
    assert head.baseline(0).expected_usd_per_hour / 60 == pytest.approx(said(r"`μ` = \$([\d.]*\d)"), rel=1e-3)
    state = head.dump()
    assert state["profile.level"][0] == pytest.approx(0.0, abs=1e-4)
    spend(head, T0 + 7 * DAY, T0 + 7 * DAY + HOUR, 1.0)
    mean = float(head.dump()["profile.mean"][0])
    assert mean == pytest.approx(said(r"\^12 = ([\d.]*\d)"), abs=5e-5)
    assert 6 * mean == pytest.approx(said(r"`g` = ([\d.]*\d)"), abs=5e-5)
    spend(head, T0 + 7 * DAY + HOUR, T0 + 7 * DAY + HOUR + STEP_S, 1.0)
    state = head.dump()
    assert state["profile.drift"][0] == pytest.approx(said(r"v = .* = ([\d.]*\d)\n"), abs=1e-4)
    assert state["profile.level"][0] == pytest.approx(said(r"ℓ = .* = ([\d.]*\d)\n"), abs=5e-5)
    log_ratio = np.log((12 + 6 * mean) / (6 + 6 * mean))
    assert log_ratio == pytest.approx(said(r"r = ln.* = ([\d.]*\d)\n"), abs=5e-5)


def test_the_users_that_explain() -> None:
    demand = DemandModel(STEP_S / 60, 1)
    demand.columns.grow(1)
    points = [(10.0, 4.0), (40.0, 11.0), (160.0, 31.0)]
    for _ in range(20):
        for requests, users in points:
            usd = np.array([0.02 * requests])
            demand.learn(usd, np.array([requests]), np.array([users]), np.array([3.0]), NOBODY)
    explained = demand.organic(np.array([400.0]), np.array([11.0]))[0]
    assert explained == pytest.approx(said(r"`n̂` = ([\d.]*\d)"), abs=0.05)
    assert explained * demand.unit_usd[0] == pytest.approx(said(r"request \$([\d.]*\d) are expected"), abs=0.005)
    slope = np.polyfit(*np.log(np.array(points)).T, 1)[0]
    assert slope == pytest.approx(said(r"`b` = ([\d.]*\d)"), abs=5e-5)
    # With that slope: users turned back into requests.
    x, y = np.log(np.array(points)).T
    assert np.exp((np.log(11.0) - y.mean()) / slope + x.mean()) == pytest.approx(explained)
