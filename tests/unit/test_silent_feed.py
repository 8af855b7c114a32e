"""Feeds that fall silent: kinds of data, teams, bursty ones, one alert for all, restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.rules.silent_feed import Config as FeedConfig
from curb.detector.rules.silent_feed import SilentFeed
from curb.detector.settings import DetectorSettings
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import USAGE
from curb.stream.records.spend import Alert, UsageRecord
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, gpu, saved, usage

Rows = Callable[[int], list[Row] | None]
SILENCE = range(T0 + 10 * DAY + 6 * HOUR, T0 + 10 * DAY + 12 * HOUR)
TEAMS = ("a", "b", "c")


def rule(step_s: int = 300, **settings: Any) -> SilentFeed:
    return SilentFeed(FeedConfig(**settings), RuleContext(step_s))


def without(*silent: str, nodes: bool = True) -> Rows:
    """Three teams with usage, one of them with a machine; in the silence some of it is missing."""

    def rows(at: int) -> list[Row]:
        quiet = at in SILENCE
        teams = [team for team in TEAMS if not (quiet and team in silent)]
        machine = [gpu("n1")] if nodes and not (quiet and "gpu" in silent) else []
        return [usage(f"k-{team}", team=team, cost=5.0 if team == "b" else 1.0) for team in teams] + machine

    return rows


def said(fleet: Fleet, of: SilentFeed, until: int, rows: Rows) -> list[tuple[int, Finding]]:
    return [(at, finding) for at, findings in fleet.run(of, until, rows) for finding in findings]


def named(fleet: Fleet, found: list[tuple[int, Finding]]) -> set[tuple[str, ...]]:
    return {tuple(fleet.registry.tags[finding.series].values()) for _, finding in found}


@pytest.mark.parametrize("step_s", [60, 300, 900])
def test_usage_that_is_missing_is_told_once_although_machines_report(step_s: int) -> None:
    fleet = Fleet(step_s)
    found = said(fleet, rule(step_s), SILENCE.stop + HOUR, without(*TEAMS))
    begin = SILENCE.start
    assert 0 < found[0][0] - begin - 1800 <= step_s
    # A digest line at first, a notice from an hour on, over as soon as data come back.
    tiers = {at: finding.tier for at, finding in found}
    assert [tiers[begin + 2700], tiers[begin + 2 * HOUR]] == ["digest", "notice"]
    assert found[-1][0] == SILENCE.stop
    assert len(found) == len(tiers)
    assert named(fleet, found) == {("b",)}
    assert {finding.kind for _, finding in found} == {"feed"}
    assert "all usage data are missing" in found[-1][1].words


def test_everything_missing_is_one_piece_of_news() -> None:
    rows = without(*TEAMS, "gpu")
    fleet = Fleet()
    found = said(fleet, rule(), SILENCE.stop + HOUR, lambda at: rows(at) or None)
    assert len(found) == len({at for at, _ in found})
    assert len(named(fleet, found)) == 1
    assert "usage and GPU metrics" in found[-1][1].words


def test_a_team_that_is_missing_is_a_digest_line() -> None:
    fleet = Fleet()
    found = said(fleet, rule(), SILENCE.stop + HOUR, without("c"))
    assert found[0][0] == SILENCE.start + 3 * HOUR + 300
    assert {finding.tier for _, finding in found} == {"digest"}
    assert named(fleet, found) == {("c",)}


def test_a_team_is_not_missed_in_its_first_week_nor_when_silences_are_its_habit() -> None:
    assert said(Fleet(start=T0 + 4 * DAY), rule(), SILENCE.stop, without("c")) == []
    rows = without("c")

    def nights(at: int) -> list[Row]:
        # Team c has a silence of three hours every night.
        return [row for row in rows(at) or () if row["tags"]["team"] != "c" or (at - T0) % DAY >= 3 * HOUR]

    assert said(Fleet(), rule(), SILENCE.stop, nights) == []


def test_machines_that_are_switched_off_at_night_are_no_feed() -> None:
    def rows(at: int) -> list[Row]:
        hour = (at - T0) % DAY / HOUR
        weekend = (at - T0) // DAY % 7 >= 5
        return [usage()] + ([gpu("dev")] if 9 <= hour < 19 and not weekend else [])

    assert said(Fleet(), rule(), T0 + 15 * DAY, rows) == []


def test_a_longer_silence_than_the_longest_before_is_needed() -> None:
    earlier = range(T0 + 5 * DAY, T0 + 5 * DAY + HOUR)
    rows = without(*TEAMS)
    found = said(Fleet(), rule(), SILENCE.stop, lambda at: [gpu("n1")] if at in earlier else rows(at))
    later = [at for at, _ in found if at > earlier.stop]
    # Three hours, less what was forgotten of the hour in five days.
    assert 2.5 * HOUR < later[0] - SILENCE.start < 3 * HOUR


def test_buckets_passed_over_count_as_silence() -> None:
    fleet, feeds = Fleet(), rule()
    rows = without(*TEAMS)
    said(fleet, feeds, SILENCE.start + 600, rows)
    fleet.now += 2 * HOUR
    (finding,) = feeds.close(fleet.view([gpu("n1")]))
    assert finding.tier == "notice"


def test_a_restart_and_a_changed_future_change_nothing() -> None:
    rows, end = without(*TEAMS), SILENCE.stop + HOUR
    whole = said(Fleet(900), rule(900), end, rows)
    assert whole
    for cut in (T0 + 3 * DAY, SILENCE.start + 900, SILENCE.start + 2 * HOUR):
        fleet, before, after = Fleet(900), rule(900), rule(900)
        found = said(fleet, before, cut, rows)
        assert found == [each for each in whole if each[0] <= cut]
        after.load(saved(before))
        assert found + said(fleet, after, end, rows) == whole


@pytest.mark.long
def test_a_model_that_is_switched_off_is_one_line_where_models_raise_no_alerts() -> None:
    """Scopes as the guide on limits has them: what is silent may be of a scope that nobody judges."""
    scopes = [
        {"name": "key", "group_by": ["team", "project", "api_key", "env"], "also_by": ["job"]},
        {"name": "team", "group_by": ["team"], "sources": ["usage", "gpu"], "detect": False},
        {"name": "model", "group_by": ["model"], "detect": False},
    ]
    step_s = 1800
    pipeline = Pipeline(DetectorSettings.model_validate({"bucket_s": step_s, "scopes": scopes}))
    firing: dict[str, Alert] = {}
    for at in range(T0, T0 + 8 * DAY + 18 * HOUR, step_s):
        calls = [
            UsageRecord(
                id=f"{model}/{at}",
                charge_period_start=at,
                received_at=at + 2,
                effective_cost=0.5,
                requests=10,
                tags={"team": "search", "project": "p", "api_key": key, "model": model, "env": "prod"},
                source="s",
            )
            for model, key in (("new", "k1"), ("old", "k2"))
            if model == "new" or at < T0 + 8 * DAY + 6 * HOUR
        ]
        pipeline.feed(encode_lines(calls), USAGE)
        pipeline.tick(at + step_s + 31)
        firing |= {alert.alert_id: alert for alert in pipeline.alerts}
    (alert,) = firing.values()
    assert (alert.kind, alert.tier, alert.tags) == ("feed", "digest", {"model": "old"})
