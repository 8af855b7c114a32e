"""Missing usage: calls that look free are reported within the hour, with an estimate; what was always so is not."""

from __future__ import annotations

import re

import msgspec
import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.rules.caps import Config as Caps
from curb.detector.rules.caps import DayOneCaps
from curb.detector.rules.missing_usage import Config, MissingUsage
from curb.detector.settings import DetectorSettings
from curb.detector.state.rule import Finding, RuleContext
from curb.stream.records.spend import Alert, UsageRecord
from curb.testing.rules import Fleet, Row, usage

MINUTES = pytest.mark.parametrize("step_s", [60, 300])


def metered(key: str, a_minute: float, step_s: int, usd: float = 0.01) -> Row:
    requests = a_minute * step_s / 60
    return usage(key, requests * usd, requests=requests, input_tokens=1000.0 * requests)


def blind(key: str, a_minute: float, step_s: int) -> Row:
    requests = a_minute * step_s / 60
    return usage(key, 0.0, requests=requests, unmetered=requests)


def first(step_s: int, before: list[Row], after: list[Row], days: float = 2.0) -> tuple[float, Finding] | None:
    """Minutes until the first finding after `days` of `before`, within three hours of `after`."""
    fleet = Fleet(step_s=step_s)
    rule, begins = MissingUsage(Config(), RuleContext(step_s)), int(fleet.now + 86400 * days)
    for _, found in fleet.run(rule, begins, lambda start: before):
        assert not found
    for start, found in fleet.run(rule, begins + 3 * 3600, lambda start: after):
        if found:
            return (start + step_s - begins) / 60, found[0]
    return None


@MINUTES
def test_ten_times_the_calls_without_usage_are_reported_within_the_hour(step_s: int) -> None:
    before = [metered("a", 4, step_s), metered("b", 3, step_s)]
    found = first(step_s, before, [blind("a", 40, step_s), metered("b", 3, step_s)])
    assert found is not None
    minutes, finding = found
    assert minutes <= 15
    assert (finding.kind, finding.tier) == ("feed", "notice")
    assert "of its successful requests to m report neither tokens nor a cost, usually 0%" in finding.words
    assert "an estimate" in finding.words


@MINUTES
def test_the_estimate_is_the_calls_at_the_usual_dollars_per_request(step_s: int) -> None:
    fleet = Fleet(step_s=step_s)
    rule = MissingUsage(Config(), RuleContext(step_s))
    before, after = [metered("a", 4, step_s)], [blind("a", 40, step_s)]
    begins = int(fleet.now + 2 * 86400)
    list(fleet.run(rule, begins, lambda start: before))
    ends = [found[0] for _, found in fleet.run(rule, begins + 4 * 3600, lambda start: after) if found]
    # 40 a minute at a cent each: $24 an hour, counted from the first finding on.
    assert ends[-1].excess_usd is not None
    assert f"${ends[-1].excess_usd:,.2f} so far (an estimate)" in ends[-1].words
    assert 0.01 * 40 * 60 * 3.7 <= ends[-1].excess_usd <= 0.01 * 40 * 60 * 4 + 1e-6


@MINUTES
def test_a_part_of_the_calls_is_enough(step_s: int) -> None:
    both = [metered("a", 4, step_s), blind("a", 4, step_s)]
    assert first(step_s, [metered("a", 4, step_s)], both) is not None


@MINUTES
def test_a_new_key_is_compared_with_its_neighbours(step_s: int) -> None:
    before = [metered("b", 30, step_s)]
    found = first(step_s, before, [*before, blind("new", 20, step_s)])
    assert found is not None


@MINUTES
def test_what_was_always_without_usage_is_not_reported(step_s: int) -> None:
    before = [metered("a", 4, step_s), blind("a", 4, step_s), metered("b", 3, step_s)]
    assert first(step_s, before, [metered("a", 8, step_s), blind("a", 9, step_s), metered("b", 3, step_s)]) is None


@MINUTES
def test_cheap_or_few_calls_are_not_reported(step_s: int) -> None:
    assert first(step_s, [metered("a", 4, step_s, usd=1e-6)], [blind("a", 4, step_s)]) is None
    assert first(step_s, [metered("a", 4, step_s)], [blind("a", 0.5, step_s)]) is None


def test_failed_requests_are_not_missing_usage() -> None:
    failed = usage("a", 0.0, requests=100.0, errors=100.0)
    assert first(300, [metered("a", 4, 300)], [failed]) is None


def test_the_model_is_named() -> None:
    fleet = Fleet(step_s=300)
    rule, before = MissingUsage(Config(), RuleContext(300)), [metered("a", 4, 300)]
    begins = int(fleet.now + 86400)
    list(fleet.run(rule, begins, lambda start: before))
    (first, *_) = [
        found[0] for _, found in fleet.run(rule, begins + 3600, lambda start: [blind("a", 40, 300)]) if found
    ]
    assert "of its successful requests to m report neither" in first.words


@MINUTES
def test_the_words_of_the_alert_follow_the_estimate(step_s: int) -> None:
    pipeline = Pipeline(DetectorSettings(bucket_s=step_s))
    alerts, begins = list[Alert](), 1_750_032_000
    for at in range(begins, begins + 27 * 3600, step_s):
        missing = at >= begins + 24 * 3600
        requests = (40 if missing else 4) * step_s // 60
        record = UsageRecord(
            id=str(at),
            charge_period_start=float(at),
            received_at=float(at + step_s),
            effective_cost=0.0 if missing else 0.01 * requests,
            tags={"team": "a", "project": "p", "api_key": "k", "model": "m"},
            source="gateway",
            requests=requests,
            input_tokens=0 if missing else 1000 * requests,
        )
        pipeline.feed([msgspec.json.encode(record)])
        pipeline.tick(at + step_s + 30.0)
        alerts += [alert for alert in pipeline.alerts if alert.channel == "missing_usage"]
    # Three hours of 40 calls a minute at a cent each, less what came before the alert.
    (so_far,) = re.findall(r"\$([\d.]+) so far \(an estimate\)", alerts[-1].explanation)
    assert 0.01 * 40 * 60 * 2 <= float(so_far) <= 0.01 * 40 * 60 * 3 + 1e-6
    assert len(alerts) <= 24  # a fifth more each time, not every five minutes


@MINUTES
def test_calls_that_come_late_and_without_usage_are_reported_when_they_are_known(step_s: int) -> None:
    """They have no dollars by which a window could be corrected."""
    pipeline = Pipeline(DetectorSettings(bucket_s=step_s))
    begins, late_s = 1_750_032_000, 2400

    def feed(at: int, requests: int, received_at: int, tokens: int) -> None:
        record = UsageRecord(
            id=f"{at}-{requests}",
            charge_period_start=float(at),
            received_at=float(received_at),
            effective_cost=0.01 * requests if tokens else 0.0,
            tags={"team": "a", "project": "p", "api_key": "k", "model": "m"},
            source="gateway",
            requests=requests,
            input_tokens=tokens,
        )
        pipeline.feed([msgspec.json.encode(record)])

    for at in range(begins, begins + 24 * 3600, step_s):
        feed(at, 4 * step_s // 60, at + step_s, 1000)
        pipeline.tick(at + step_s + 30.0)
        assert not pipeline.alerts
    end = begins + 24 * 3600
    for at in range(end - late_s, end, step_s):
        feed(at, 41 * step_s // 60, end, 0)
    pipeline.tick(end + step_s + 30.0)
    (alert,) = pipeline.alerts
    assert alert.channel == "missing_usage"


def test_the_estimate_counts_for_the_cap_of_a_young_key() -> None:
    fleet = Fleet(step_s=300)
    rule, cap = MissingUsage(Config(), RuleContext(300)), DayOneCaps(Caps(usd_per_hour=30.0), RuleContext(300))
    begins, said = int(fleet.now + 86400), []
    while fleet.now < begins + 2 * 3600:
        rows = [metered("a", 4, 300), *([blind("a", 60, 300)] if fleet.now >= begins else [])]
        view = fleet.view(rows)
        rule.close(view)
        said += cap.close(view)
    # 60 calls a minute at a cent each are $36 an hour, beside the $2.40 that came with usage.
    assert said
    assert "are an estimate for calls without usage), over the cap of" in said[-1].words


def test_the_estimate_counts_for_hard_caps_of_a_key_and_its_team_and_for_no_other_budget() -> None:
    """A key of $2.40 an hour whose calls come without usage after a day, ten times as many."""
    budgets = [
        {"name": name, "scope": scope, "amount_usd": 80.0, "period": "month", "thresholds": [100], "hard": hard}
        for name, scope, hard in (("key", "key", True), ("team", "team", True), ("soft", "key", False))
    ]
    pipeline = Pipeline(DetectorSettings.model_validate({"bucket_s": 900, "budgets": budgets}))
    alerts, begins = list[Alert](), 1_750_032_000
    for at in range(begins, begins + 30 * 3600, 900):
        metered_then = at < begins + 24 * 3600
        record = UsageRecord(
            id=str(at),
            charge_period_start=float(at),
            received_at=float(at + 900),
            effective_cost=0.6 if metered_then else 0.0,
            tags={"team": "a", "project": "p", "api_key": "k", "model": "m"},
            source="gateway",
            requests=60 if metered_then else 600,
            input_tokens=60_000 if metered_then else 0,
        )
        pipeline.feed([msgspec.json.encode(record)])
        pipeline.tick(at + 900.0)
        alerts += pipeline.alerts
    crossed = {each.budget.name: each for each in reversed(alerts) if each.budget and each.channel == "budget/100"}
    assert crossed.keys() == {"key", "team"}
    for alert in crossed.values():
        assert alert.budget is not None
        assert alert.budget.spent_usd == pytest.approx(57.6) == alert.actual_usd
        assert 80.0 - 57.6 <= alert.budget.estimated_usd <= 80.0 - 57.6 + 12.0
        assert "(an estimate; they count for this hard cap)" in alert.explanation
    missing = [each for each in alerts if each.channel.startswith("missing_usage")]
    assert len({each.alert_id for each in missing}) == 1
    assert "an estimate" in missing[0].explanation
