"""What units cost over time: hours of models and owners, first sights, and the runs of jobs."""

from __future__ import annotations

from typing import Any

import pytest

from curb.detector.settings import DetectorSettings
from curb.stream.records.spend import SpendPartial
from curb.views.unit_history import ALL, HOURS, UnitHistory

T0 = 1_750_032_000
ADS = (("team", "ads"),)


def part(scope: str, tags: dict[str, str], at: int, usd: float, requests: int = 10, tokens: int = 1000) -> SpendPartial:
    found = SpendPartial(scope=scope, tags=tags, bucket_start=at, effective_cost=usd, events=1)
    found.requests, found.input_tokens = requests, tokens
    return found


def of_key(at: int, usd: float, team: str = "ads", **more: Any) -> SpendPartial:
    job = more.pop("job", None)
    tags = {"team": team, "project": "p", "api_key": "k"} | ({"job": job} if job else {})
    return part("key", tags, at, usd, **more)


@pytest.fixture
def history() -> UnitHistory:
    return UnitHistory(DetectorSettings())


def test_a_request_and_a_thousand_tokens_of_an_owner_before_and_after(history: UnitHistory) -> None:
    for hour in range(48):
        history.add(of_key(T0 + 3600 * hour, 1.0 if hour < 24 else 2.0))
        history.add(of_key(T0 + 3600 * hour + 1800, 5.0, team="chat"))
    before, after = (history.between(ADS, T0 + 86400 * day, T0 + 86400 * (day + 1)) for day in (0, 1))
    assert (before.usd, before.requests, before.tokens) == (24.0, 240.0, 24_000.0)
    assert (before.usd_per_request, after.usd_per_request) == (pytest.approx(0.1), pytest.approx(0.2))
    assert after.usd_per_1k_tokens == pytest.approx(2.0)
    assert history.between(ALL, T0, T0 + 86400).usd == pytest.approx(144.0)
    assert history.between(ADS, T0 + 10 * 86400, T0 + 11 * 86400).usd_per_request is None
    assert history.until == T0 + 48 * 3600


def test_models_have_the_hour_in_which_they_came(history: UnitHistory) -> None:
    for hour in range(30):
        history.add(part("model", {"model": "small"}, T0 + 3600 * hour, 1.0))
        if hour >= 26:
            history.add(part("model", {"model": "large"}, T0 + 3600 * hour, 9.0))
    small, large = (("model", "small"),), (("model", "large"),)
    assert set(history.models()) == {small, large}
    assert (history.first_seen(small), history.first_seen(large)) == (T0, T0 + 26 * 3600)
    hours, (usd, requests, _) = history.hourly(large, T0)
    assert hours[0] == T0
    assert usd.tolist() == [0.0] * 26 + [9.0] * 4
    assert requests.sum() == 40


def test_an_hour_that_is_used_again_holds_nothing_of_the_old_one(history: UnitHistory) -> None:
    history.add(of_key(T0, 7.0))
    history.add(of_key(T0 + HOURS * 3600, 1.0))
    assert history.between(ADS, T0, T0 + 2 * HOURS * 3600).usd == 1.0
    history.add(of_key(T0, 7.0))  # older than what is kept
    assert history.between(ADS, T0, T0 + 2 * HOURS * 3600).usd == 1.0
    assert history.since == T0 + 3600


def test_what_comes_late_counts_in_its_hour(history: UnitHistory) -> None:
    history.add(of_key(T0 + 7200, 1.0))
    history.add(of_key(T0, 2.0))
    assert history.between(ADS, T0, T0 + 3600).usd == 2.0
    assert history.since == T0


def test_a_pause_ends_a_run_and_late_spend_joins_two(history: UnitHistory) -> None:
    for at in (0, 3600, 7200, 86400, 86400 + 3600):
        history.add(of_key(T0 + at, 1.0, job="nightly"))
    ((job, runs),) = history.jobs().items()
    assert dict(job) == {"team": "ads", "project": "p", "job": "nightly"}
    assert [(run.start - T0, run.end - T0, run.usd, run.requests) for run in runs] == [
        (0, 7200, 3.0, 30),
        (86400, 90000, 2.0, 20),
    ]
    history.add(of_key(T0 + 3600, 4.0, job="nightly"))
    assert [run.usd for run in history.jobs()[job]] == [7.0, 2.0]
    # The default pause of a run is 90 minutes: one bucket in the middle of three hours joins both sides.
    history.add(of_key(T0 + 86400 - 10800, 1.0, job="nightly"))
    assert len(history.jobs()[job]) == 3
    history.add(of_key(T0 + 86400 - 5400, 1.0, job="nightly"))
    assert [run.usd for run in history.jobs()[job]] == [7.0, 4.0]


def test_too_many_subjects_are_left_out_and_counted(history: UnitHistory) -> None:
    for number in range(1200):
        history.add(part("model", {"model": f"m{number}"}, T0, 1.0))
    assert len(history.models()) == 1000
    assert len(history.left_out) == 200
    for number in range(600):
        history.add(of_key(T0 + 60 * number, 1.0, job=f"j{number}"))
    assert len(history.jobs()) == 500


@pytest.mark.parametrize(("tags", "expected"), [({}, ALL), ({"team": "ads"}, ADS), ({"team": "no"}, None)])
def test_tags_of_a_deploy_name_the_widest_subject_that_has_them(history: UnitHistory, tags: Any, expected: Any) -> None:
    history.add(of_key(T0, 1.0))
    history.add(part("model", {"model": "small"}, T0, 1.0))
    assert history.owner_of(tags) == expected
    assert history.owner_of({"model": "small"}) == (("model", "small"),)
    assert history.owner_of({"project": "p"}) == (("team", "ads"), ("project", "p"))
