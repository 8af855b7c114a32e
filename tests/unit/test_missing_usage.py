"""Missing usage: calls that look free are reported within the hour, with an estimate; what was always so is not."""

from __future__ import annotations

import pytest

from curb.detector.rules.missing_usage import Config, MissingUsage
from curb.detector.state.rule import Finding, RuleContext
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
    assert "of its successful requests report neither tokens nor a cost, usually 0%" in finding.words
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
