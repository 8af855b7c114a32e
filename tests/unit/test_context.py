"""Growing prompts: a step and a ramp are caught, ordinary variation and a somewhat longer prompt are not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytest

from curb.detector.rules.growing_prompts import Config as ContextConfig
from curb.detector.rules.growing_prompts import GrowingPrompts
from curb.detector.state.rule import Finding, RuleContext
from tests.fakes.views import DAY, HOUR, T0, Fleet, Row, saved, usage

STEP_S = 900
BEGIN = T0 + 7 * DAY + 9 * HOUR
Growth = Callable[[float], float]


def rule() -> GrowingPrompts:
    return GrowingPrompts(ContextConfig(), RuleContext(STEP_S))


def rows(start: int, growth: Growth = lambda _: 1.0, *, spread: float = 0.3, requests: int = 180) -> list[Row]:
    """A key of about $60 a day at a price per token; its prompts swing by the hour of the day and by chance."""
    rng = random.Random(start)
    hour_of_day = math.sin(2 * math.pi * (start - T0) / DAY)
    size = 2000 * math.exp(0.15 * hour_of_day + rng.gauss(0, spread)) * growth((start - BEGIN) / HOUR)
    return [usage(cost=requests * (size + 4 * 300) * 1e-6, requests=requests, input_tokens=requests * size,
                  output_tokens=requests * 300)]  # fmt: skip


def run(
    growth: Growth = lambda _: 1.0, *, spread: float = 0.3, requests: int = 180, until: int = BEGIN + 4 * DAY
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
    found = [hours for hours, _ in run(burst, spread=0.05, until=BEGIN + 12 * HOUR)]
    assert 1 <= found[0] <= 1.5
    assert found[-1] <= 1.5 + 1


def test_growth_for_less_than_ten_dollars_a_day_is_silent() -> None:
    assert run(step(4.0), requests=15) == []


def test_nothing_is_said_before_a_day_and_a_half_is_known() -> None:
    def growth(hours: float) -> float:
        return 4.0 if hours * HOUR + BEGIN > T0 + DAY else 1.0

    assert not [hours for hours, _ in run(growth, until=T0 + 36 * HOUR)]


def test_a_gap_teaches_nothing() -> None:
    fleet, subject = Fleet(STEP_S), rule()
    for _ in fleet.run(subject, T0 + 2 * DAY + STEP_S, rows):
        pass
    before = saved(subject)
    for _ in range(3):
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


JUMP = T0 + 3 * DAY + 12 * HOUR


class Key(NamedTuple):
    """A key with prompts of 2,000 tokens that grow at JUMP; requests an hour, and dollars for a million tokens."""

    grown: float = 4.0
    per_hour: float = 720.0
    usd_per_mtok: float = 1.0
    #: Hours before JUMP at which it began.
    since_hours: float = 84.0
    #: Hours after JUMP until which its prompts are large.
    until_hours: float = 99.0

    def rows(self, name: str, start: int, step_s: int) -> list[Row]:
        if start < JUMP - self.since_hours * HOUR:
            return []
        requests = self.per_hour * step_s / HOUR
        size = 2000 * (self.grown if JUMP <= start < JUMP + self.until_hours * HOUR else 1.0)
        usd = requests * (size + 4 * 300) * self.usd_per_mtok / 1e6
        return [usage(name, usd, requests=requests, input_tokens=requests * size, output_tokens=requests * 300)]


def found_of(keys: Mapping[str, Key], step_s: int, hours: float = 30) -> dict[str, list[tuple[int, Finding]]]:
    """What is found of each key, by minutes after JUMP."""
    fleet, subject = Fleet(step_s), GrowingPrompts(ContextConfig(), RuleContext(step_s))
    found: dict[str, list[tuple[int, Finding]]] = {}

    def rows(start: int) -> list[Row]:
        return [row for name, key in keys.items() for row in key.rows(name, start, step_s)]

    for at, findings in fleet.run(subject, int(JUMP + hours * HOUR), rows):
        for each in findings:
            found.setdefault(fleet.registry.tags[each.series]["api_key"], []).append(((at - JUMP) // 60, each))
    return found


@pytest.mark.parametrize("step_s", [300, 900])
def test_prompts_four_times_as_long_are_found_after_two_hours(step_s: int) -> None:
    # Over two hours they pass 2.2 times the median after 58 minutes, and must stay there for an hour.
    found = found_of({"k": Key()}, step_s)["k"]
    assert 115 <= found[0][0] <= 135
    assert [minutes for minutes, _ in found[1:4]] == [found[0][0] + each * step_s // 60 for each in (1, 2, 3)]
    minutes, last = found[-1]
    assert minutes == 1800
    # The envelope knows sizes to 22 %. 17,280 requests a day with 8,000 tokens where the 90th percentile is 2,389.
    assert last.words.startswith("8,000 input tokens per request, usually 2,21")
    dollars = float(last.words.rsplit("$", 1)[1].split()[0])
    assert dollars == pytest.approx(17280 * (8000 - 2389) / 1e6 * (1 - math.exp(-1800 / 720)), rel=0.01)
    assert last.score == pytest.approx(dollars / 10, rel=0.001)


@pytest.mark.parametrize("step_s", [300, 900])
def test_each_limit_alone_keeps_it_silent(step_s: int) -> None:
    found = found_of(
        {
            "2.5 times": Key(grown=2.5),
            "2.1 times": Key(grown=2.1),
            "for $11 a day": Key(per_hour=90.0),
            "for $9 a day": Key(per_hour=72.0),
            "11 an hour": Key(per_hour=11.0, usd_per_mtok=100.0),
            "9 an hour": Key(per_hour=9.0, usd_per_mtok=100.0),
            "known for 38 hours": Key(since_hours=38.0),
            "known for 30 hours": Key(since_hours=30.0),
        },
        step_s,
    )
    assert set(found) == {"2.5 times", "for $11 a day", "11 an hour", "known for 38 hours"}


def test_after_an_incident_its_prompts_no_longer_count() -> None:
    fleet, subject = Fleet(900), GrowingPrompts(ContextConfig(), RuleContext(900))

    def rows(start: int) -> list[Row]:
        return [*Key().rows("k", start, 900), *Key(grown=1.0).rows("other", start, 900)]

    heard = []
    for _, findings in fleet.run(subject, JUMP + 4 * HOUR, rows):
        heard = findings
    (finding,) = heard
    view = fleet.view(Key(until_hours=0.0).rows("k", fleet.now, 900))
    assert len(subject.close(view)) == 0  # the newest prompts are short again, the last two hours are not yet
    over = np.zeros(len(fleet.registry), np.bool_)
    over[finding.series] = True
    subject.forget(view, over)
    # Large again, it takes as long as the first time.
    again = []
    while fleet.now < JUMP + 8 * HOUR:
        if subject.close(fleet.view(Key().rows("k", fleet.now, 900))):
            again.append((fleet.now - view.bucket.end) // 60)
    assert again[0] == 120
