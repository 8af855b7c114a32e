"""Day one: what is judged from when on, and why a key that burns far over its usual is no alert yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curb.detector import day_one
from curb.detector.heads.window_score import SILENT
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.detector.state.bucket import Scores
from curb.detector.state.scopes import Scope
from curb.detector.state.view import Raised
from curb.stream.log.codec import encode
from tests.fakes.spend import T0, usage

KEY = Scope(name="key", group_by=("api_key",))
DAY = 86400


def settings(**changes: Any) -> DetectorSettings:
    return DetectorSettings(**{"scopes": (KEY,), "grace_s": 0, **changes})


def scores(rate: list[float], expected: list[float], notice: float = SILENT) -> Scores:
    n = len(rate)
    each = np.full(n, 0.0)
    return Scores(np.full(n, notice), each, np.zeros(n, np.intp), each, np.array(rate), np.array(expected), each, each)


def test_what_is_judged_from_when_on() -> None:
    found = day_one.abilities(settings(budgets=({"name": "b", "scope": "key", "amount_usd": 5},)))
    now = [each.what for each in found if each.needs_s == 0]
    assert now[0] == "budgets and hard caps"
    assert any("lost" in what for what in now)
    assert [each.needs_s for each in found] == sorted(each.needs_s for each in found)
    later = {each.what: each.needs_s / DAY for each in found}
    assert later["new keys and users"] == 3.0
    assert later["new models and regions of a key"] == 1.0
    assert later["pages and throttles by a key's own past"] == 3.0


def test_what_is_off_is_not_promised() -> None:
    found = day_one.abilities(settings(feed={"enabled": False}, growth={"enabled": False}))
    assert not any("data" in each.what or "growth" in each.what for each in found)
    assert "budgets and hard caps" not in {each.what for each in found}


@pytest.mark.parametrize(
    ("age_days", "notice", "raised", "words"),
    [
        (0.01, SILENT, 0.0, "within the first hour nothing is usual yet"),
        (1.0, SILENT, 0.0, "$5.00 over the expected within 5 minutes, $15.00 within 30 or $30.00 within 2 hours"),
        (1.0, SILENT, 0.0, "it is known for 24.0 h, and until 7.0 days the floors are 5 times"),
        (5.0, SILENT, 0.0, "$2.00 over the expected within 5 minutes"),
        (30.0, SILENT, 0.0, "it has not been $1.00 over the expected"),
        (30.0, 3.2, 0.0, "its score was at least 3.2 for 10 minutes; a notice needs 6.0"),
        (30.0, 3.2, 1.5, "a notice needs 7.5"),
    ],
)
def test_why_it_is_no_alert_yet(age_days: float, notice: float, raised: float, words: str) -> None:
    found = day_one.why_no_alert(scores([25.0], [1.0], notice), 0, age_days, settings(), Raised(notice=raised))
    assert words in found


def test_only_what_is_far_over_its_usual_is_watched() -> None:
    found = day_one.over_usual(scores([1.0, 25.0, 200.0, 2.9, 0.4], [1.0, 1.0, 90.0, 1.0, 0.0]))
    assert found == [1]
    assert day_one.over_usual(scores([25.0, 90.0], [1.0, 1.0])) == [1, 0]


def test_a_key_at_25_times_its_usual_is_watched_and_then_alerts() -> None:
    pipeline = Pipeline(settings(bucket_s=300))
    steps = 2 * 288
    for step in range(steps):
        at = T0 + 300 * step
        cost = 0.01 * (25 if step >= steps - 4 else 1)
        pipeline.feed([encode(usage(f"{step}", at, cost, received_at=at + 1, key="k"))])
        pipeline.tick(at + 300)
    assert pipeline.alerts == []
    (watched,) = pipeline.shard.watching(10)
    assert (watched.scope, watched.tags) == ("key", {"api_key": "k"})
    assert watched.usd_per_hour == pytest.approx(3.0)
    assert watched.usd_per_hour > 20 * watched.expected_usd_per_hour
    assert "over the expected within 5 minutes" in watched.why
    assert "2.0 days" in watched.why
