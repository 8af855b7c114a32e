"""The shipped trace: the same requests every time, and a history that sums to exactly the requests."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest

from curb.demo.incident import TURNS_PER_CONTEXT, AgentLoop, LoopRun
from curb.demo.trace import DEFAULT_START, Trace

HOUR, DAY = 3600.0, 86400.0
FRIDAY = DEFAULT_START + 4 * DAY


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.load()


def test_same_seed_same_requests_in_any_order_of_reading(trace: Trace) -> None:
    fresh = Trace.load()
    part = list(fresh.requests_between(FRIDAY + 5 * HOUR, FRIDAY + 7 * HOUR))
    whole = trace.requests_between(FRIDAY, FRIDAY + 8 * HOUR)
    assert part == [r for r in whole if FRIDAY + 5 * HOUR <= r.at < FRIDAY + 7 * HOUR]
    assert len(part) > 1000


def test_another_seed_gives_other_requests_but_as_many() -> None:
    window = (FRIDAY + 6 * HOUR, FRIDAY + 12 * HOUR)
    one, two = (list(Trace.load(seed=seed).requests_between(*window)) for seed in (1, 2))
    assert len(one) == len(two)
    assert [r.at for r in one] != [r.at for r in two]


def test_requests_come_in_order_of_time_with_unique_ids(trace: Trace) -> None:
    requests = list(trace.requests_between(DEFAULT_START, DEFAULT_START + DAY))
    assert [r.at for r in requests] == sorted(r.at for r in requests)
    assert len({r.id for r in requests}) == len(requests)
    assert all(r.cost_usd == r.key.cost(r.input_tokens, r.output_tokens) for r in requests)


@pytest.mark.parametrize("step_s", [60, 300])
def test_history_sums_to_the_requests_per_key_and_step(trace: Trace, step_s: int) -> None:
    window = (FRIDAY + 2 * HOUR, FRIDAY + 13 * HOUR)
    expected: dict[tuple[str, float], list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
    for r in trace.requests_between(*window):
        sums = expected[r.key.api_key, r.at // step_s * step_s]
        for i, value in enumerate((1, r.input_tokens, r.output_tokens, r.cost_usd)):
            sums[i] += value
    lines = list(trace.history(*window, step_s=step_s))
    assert {(line["tags"]["api_key"], line["ts"]) for line in lines} == set(expected)
    for line in lines:
        requests, inputs, outputs, usd = expected[line["tags"]["api_key"], line["ts"]]
        assert (line["requests"], line["input_tokens"], line["output_tokens"]) == (requests, inputs, outputs)
        assert line["cost_usd"] == pytest.approx(usd, rel=1e-12)
    assert [line["ts"] for line in lines] == sorted(line["ts"] for line in lines)
    assert len({line["id"] for line in lines}) == len(lines)


def test_token_means_are_those_of_the_files(trace: Trace) -> None:
    key = trace.key("support-agent")
    inputs, outputs = trace.mean_tokens(key, FRIDAY + 12 * HOUR, FRIDAY + 18 * HOUR)
    sizes = trace._tokens[key.alias, 18]
    assert inputs == pytest.approx(sizes.input_mean, rel=0.1)
    assert outputs == pytest.approx(sizes.output_mean, rel=0.1)


def test_the_fleet_is_affordable_and_its_dollars_look_real(trace: Trace) -> None:
    afternoon = list(trace.requests_between(FRIDAY + 12 * HOUR, FRIDAY + 18 * HOUR))
    assert 40 <= len(afternoon) / 360 <= 120
    assert 3 <= sum(r.cost_usd for r in afternoon) / 6 <= 10
    assert 0.5 <= trace.usual_usd_per_hour(trace.key("support-agent"), FRIDAY + 12 * HOUR, FRIDAY + 18 * HOUR) <= 2


def test_loop_burns_its_factor_at_a_steady_cadence(trace: Trace) -> None:
    loop = AgentLoop("support-agent", FRIDAY + 14 * HOUR, FRIDAY + 15 * HOUR, factor=20)
    run, calls = LoopRun(trace, loop), []
    while run.next_at < float("inf"):
        calls.append(run.call())
        run.answer(True)
    usual = trace.usual_usd_per_hour(trace.key("support-agent"), loop.start - HOUR, loop.start)
    assert sum(c.cost_usd for c in calls) == pytest.approx(19 * usual, rel=0.02)
    gaps = [b.at - a.at for a, b in pairwise(calls)]
    assert max(gaps) < 1.25 * min(gaps)
    assert all(loop.start <= c.at < loop.end and c.loop for c in calls)
    context = [c.input_tokens for c in calls[:TURNS_PER_CONTEXT]]
    assert context == sorted(context)
    assert context[-1] > 2 * context[0]
    assert calls[TURNS_PER_CONTEXT].input_tokens == context[0]


def test_a_rejected_call_is_tried_again_with_the_same_context(trace: Trace) -> None:
    run = LoopRun(trace, AgentLoop("support-agent", FRIDAY + 14 * HOUR, FRIDAY + 15 * HOUR))
    first = run.call()
    run.answer(False)
    second = run.call()
    assert second.input_tokens == first.input_tokens
    assert second.at > first.at
    assert second.id != first.id


def test_loop_on_a_key_without_a_normal_level_is_refused(trace: Trace) -> None:
    with pytest.raises(KeyError):
        LoopRun(trace, AgentLoop("nobody", FRIDAY, FRIDAY + HOUR))
    with pytest.raises(ValueError, match="no normal level"):
        LoopRun(trace, AgentLoop("shop-describe", DEFAULT_START, DEFAULT_START + HOUR))


def test_missing_files_are_named(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match=r"keys\.csv is missing"):
        Trace.load(tmp_path)
