"""Growing prompts: a step and a ramp are caught, ordinary variation and a somewhat longer prompt are not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from curb.detector.rules.growing_prompts import Config as ContextConfig
from curb.detector.rules.growing_prompts import Context
from curb.detector.state.rule import Finding, RuleContext
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

STEP_S = 300
BEGIN = T0 + 7 * DAY + 9 * HOUR
Growth = Callable[[float], float]


def rule() -> Context:
    return Context(ContextConfig(), RuleContext(STEP_S))


def rows(start: int, growth: Growth = lambda _: 1.0, *, spread: float = 0.3, requests: int = 60) -> list[Row]:
    """A key of about $60 a day at a price per token; its prompts swing by the hour of the day and by chance."""
    rng = random.Random(start)
    hour_of_day = math.sin(2 * math.pi * (start - T0) / DAY)
    size = 2000 * math.exp(0.15 * hour_of_day + rng.gauss(0, spread)) * growth((start - BEGIN) / HOUR)
    return [usage(cost=requests * (size + 4 * 300) * 1e-6, requests=requests, input_tokens=requests * size,
                  output_tokens=requests * 300)]  # fmt: skip


def run(
    growth: Growth = lambda _: 1.0, *, spread: float = 0.3, requests: int = 60, until: int = BEGIN + 4 * DAY
) -> list[tuple[float, Finding]]:
    """Findings by hours from BEGIN on."""
    given = Fleet(STEP_S).run(rule(), until, lambda start: rows(start, growth, spread=spread, requests=requests))
    return [((at - BEGIN) / HOUR, each) for at, findings in given for each in findings]


def step(factor: float) -> Growth:
    return lambda hours: factor if hours >= 0 else 1.0


def ramp(factor: float, over_hours: float) -> Growth:
    return lambda hours: factor ** min(1.0, max(0.0, hours / over_hours))


def test_a_step_is_found_within_hours_and_said_while_it_lasts() -> None:
    found = run(step(4.0))
    first, finding = found[0]
    assert 0 < first < 4
    assert (finding.kind, finding.tier, finding.channel, finding.lasting) == ("unit_cost", "notice", "context", True)
    assert "input tokens per request, usually 2," in finding.words
    assert {hours for hours, _ in found} >= {12.0, 24.0}


@pytest.mark.parametrize("over_hours", [24, 48])
def test_a_ramp_does_not_teach_the_envelope_it_exceeds(over_hours: float) -> None:
    first, _ = run(ramp(5.0, over_hours))[0]
    assert 0 < first < over_hours + 12


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
def test_ordinary_variation_is_silent(spread: float) -> None:
    assert run(spread=spread) == []


def test_prompts_half_as_long_again_are_a_matter_of_taste() -> None:
    assert run(step(1.5)) == []


def test_an_hour_of_longer_prompts_is_silent() -> None:
    assert run(lambda hours: 4.0 if 0 <= hours < 0.9 else 1.0) == []


def test_a_burst_that_is_over_is_not_said_for_as_long_as_its_window_remembers() -> None:
    burst: Growth = lambda hours: 25.0 if 0 <= hours < 1.5 else 1.0  # noqa: E731
    found = [hours for hours, _ in run(burst, until=BEGIN + 12 * HOUR)]
    assert 1 <= found[0] <= 1.5
    assert found[-1] <= 1.5 + 1


def test_growth_for_less_than_ten_dollars_a_day_is_silent() -> None:
    assert run(step(4.0), requests=5) == []


def test_nothing_is_said_before_a_day_and_a_half_is_known() -> None:
    def growth(hours: float) -> float:
        return 4.0 if hours * HOUR + BEGIN > T0 + DAY else 1.0

    assert not [hours for hours, _ in run(growth, until=T0 + 36 * HOUR)]


def test_a_gap_teaches_nothing() -> None:
    fleet, subject = Fleet(STEP_S), rule()
    for _ in fleet.run(subject, T0 + 2 * DAY + STEP_S, rows):
        pass
    before = saved(subject)
    for _ in range(6):
        assert subject.close(fleet.view((), gap=True)) == []
    after = saved(subject)
    assert [name for name in before if not np.array_equal(before[name], after[name])] == []


@pytest.mark.parametrize("cut", [T0 + 2 * DAY + 900, BEGIN + HOUR])
def test_state_goes_on_where_it_was_saved(cut: int) -> None:
    fleet, one, again = Fleet(STEP_S), rule(), rule()
    found = 0
    for _ in fleet.run(one, cut, lambda start: rows(start, step(4.0))):
        pass
    again.load(saved(one))
    while fleet.now < BEGIN + 6 * HOUR:
        view = fleet.view(rows(fleet.now, step(4.0)))
        findings = one.close(view)
        found += len(findings)
        assert again.close(view) == findings
    assert found
