"""The driver: every request once and in time, what a limit does to the loop, and the same traffic without Curb."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from curb.actions.lifecycle.action_calls import no_plan
from curb.demo.gateway import Gateway
from curb.demo.incident import AgentLoop
from curb.demo.speeds import alone, soft_caps
from curb.demo.stage import set_stage
from curb.demo.trace import DEFAULT_START, Request, Trace, default_directory
from curb.demo.traffic import LimitChange, Tally, counterfactual, drive
from curb.stream.clock import ManualClock
from tests.fakes.alerts import an_entry

START = DEFAULT_START + 4 * 86400 + 14 * 3600
LOOP = AgentLoop("support-agent", START + 600, START + 1800, factor=18)
GENEROUS = {"support-agent": {"rpm_limit": 600}}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.load()


class Records:
    """Admits everything and remembers when it was asked."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock, self.seen = clock, list[tuple[float, Request]]()

    def admit(self, request: Request) -> bool:
        self.seen.append((self.clock.now(), request))
        return True


async def test_every_request_is_sent_once_in_order_and_in_time(trace: Trace) -> None:
    clock = ManualClock(START)
    gateway = Records(clock)
    task = asyncio.create_task(drive(trace, None, gateway, clock, start=START, end=START + 900, tick_s=5))
    await clock.advance(901)
    tally = await task
    assert [r for _, r in gateway.seen] == list(trace.requests_between(START, START + 900))
    assert all(0 <= sent - r.at <= 5.001 for sent, r in gateway.seen)
    assert tally.total().offered == tally.total().admitted == len(gateway.seen)


async def test_without_a_change_of_limits_the_drive_equals_the_counterfactual(trace: Trace) -> None:
    clock = ManualClock(START)
    gateway = Gateway(trace, clock, master_key="master", limits=GENEROUS)
    task = asyncio.create_task(drive(trace, LOOP, gateway, clock, start=START, end=START + 2400))
    await clock.advance(2401)
    driven, alone = await task, counterfactual(trace, LOOP, START, START + 2400, GENEROUS)
    assert driven.total() == alone.total()
    assert driven.usd_per_minute(40, "support-agent") == alone.usd_per_minute(40, "support-agent")
    assert alone.total().loop_usd == pytest.approx(sum(alone.usd_per_minute(40)) - _clients_usd(trace), rel=1e-9)


def test_changes_of_limits_hold_from_their_time_on(trace: Trace) -> None:
    key = trace.key(LOOP.key)
    free = counterfactual(trace, LOOP, START, START + 2400, GENEROUS)
    changes = [
        LimitChange(START + 900, key.api_key, {"rpm_limit": 0}),
        LimitChange(START + 1200, key.api_key, {"rpm_limit": None}),
    ]
    limited = counterfactual(trace, LOOP, START, START + 2400, GENEROUS, changes)
    assert limited.usd_per_minute(15, LOOP.key) == free.usd_per_minute(15, LOOP.key)
    assert limited.usd_per_minute(20, LOOP.key)[15:] == [0.0] * 5
    assert limited.usd_per_minute(40, LOOP.key)[20:] != [0.0] * 20


def test_the_loop_costs_less_under_a_ceiling_or_soft_caps_alone() -> None:
    stage = set_stage(default_directory())
    key = stage.trace.key(stage.loop.key)
    untouched = counterfactual(stage.trace, stage.loop, stage.live_start, stage.live_end, stage.limits)
    without_cap = alone(stage, None)
    highest = stage.trace.highest_minute(key, stage.history_start, stage.live_start)
    assert without_cap.ceiling_rpm == 2 * highest < stage.script.rpm_limit
    assert without_cap.as_data()["lost_with_soft_caps_usd"] is None
    plan = msgspec.structs.replace(no_plan("limit"), before={"rpm_limit": 600}, after={"rpm_limit": highest})
    cap = an_entry(at=stage.loop.start + 120, plan=plan, rung=0, lease_s=600.0)
    found = alone(stage, cap)
    assert found.with_soft_caps is not None
    assert 0 < found.with_ceiling.loop_usd < 0.8 * untouched.total(key.alias).loop_usd
    assert 0 < found.with_soft_caps.loop_usd < found.with_ceiling.loop_usd
    changes = soft_caps(stage, key.api_key, cap)
    assert [change.limits["rpm_limit"] for change in changes[:3]] == [highest, 600, highest]
    assert changes[2].at == stage.loop.start + 120 + 600 + 120


def _clients_usd(trace: Trace) -> float:
    return sum(r.cost_usd for r in trace.requests_between(START, START + 2400))


async def test_a_limit_holds_the_key_and_only_the_key_to_it(trace: Trace) -> None:
    clock = ManualClock(START)
    gateway = Gateway(trace, clock, master_key="master", limits=GENEROUS)
    tally = Tally(START)
    task = asyncio.create_task(drive(trace, LOOP, gateway, clock, start=START, end=START + 1800, tally=tally))
    await clock.advance(900)
    before = tally.total("support-agent").admitted
    gateway._limiter.update(trace.key("support-agent").api_key, {"rpm_limit": 8})
    await clock.advance(901)
    await task
    throttled = tally.total("support-agent").admitted - before
    assert 8 * 14 <= throttled <= 8 * 16
    assert tally.total("support-agent").rejected > 500
    assert tally.total().rejected == tally.total("support-agent").rejected
    assert tally.total().usd < counterfactual(trace, LOOP, START, START + 1800, GENEROUS).total().usd / 1.5


async def test_stop_ends_the_drive_early(trace: Trace) -> None:
    clock, stop = ManualClock(START), asyncio.Event()
    gateway = Records(clock)
    task = asyncio.create_task(drive(trace, None, gateway, clock, start=START, end=START + 900, stop=stop))
    await clock.advance(60)
    stop.set()
    await clock.advance(10)
    tally = await task
    assert 0 < tally.total().offered < 150


def test_tally_sums_per_minute_and_key(trace: Trace) -> None:
    tally = Tally(START)
    key = trace.key("support-agent")
    tally.add(Request("a", START + 59.9, key, 1, 1, 0.5), True)
    tally.add(Request("b", START + 60, key, 1, 1, 0.25, loop=True), True)
    tally.add(Request("c", START + 61, key, 1, 1, 9.0, loop=True), False)
    assert tally.usd_per_minute(3) == tally.usd_per_minute(3, "support-agent") == [0.5, 0.25, 0.0]
    assert tally.usd_per_minute(3, "ticket-triage") == [0, 0, 0]
    second: dict[str, Any] = vars(tally.minute(1, "support-agent"))
    assert second == {
        "offered": 2, "admitted": 1, "rejected": 1, "usd": 0.25, "loop_offered": 2, "loop_admitted": 1, "loop_usd": 0.25
    }  # fmt: skip
