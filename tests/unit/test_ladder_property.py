"""Whatever happens, in whatever order: no plan is above the original, and in the end the original is back."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from curb.stream.errors import PermanentError, TransientError
from tests.fakes.actions_house import later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.policy_gate import PolicyHouse, id_of, ladder

ROLES: dict[str, Any] = {"anybody": {"people": ["fred"]}}
RUNGS = (
    {"do": "shave_to_normal", "lease_minutes": 30, "verify_within_minutes": 5},
    {"do": "shave_to_normal", "headroom": 3, "lease_minutes": 30, "verify_within_minutes": 5},
    {"do": "block", "lease_minutes": 20, "verify_within_minutes": 5, "cool_down_minutes": 3},
)
MODES = st.sampled_from(["auto", "approve", "shadow"])
STEPS = st.one_of(
    st.tuples(st.just("burn"), st.sampled_from([0.0, 14.0, 60.0, 240.0, 900.0])),
    st.tuples(st.just("wait"), st.sampled_from([61, 301, 601])),
    st.tuples(st.just("wait"), st.sampled_from([61, 301, 601, 1900])),
    st.tuples(st.just("approve"), st.sampled_from(["fred", "eve"])),
    st.tuples(st.just("deny"), st.just("fred")),
    st.tuples(st.just("undo"), st.just("ana")),
    st.tuples(st.just("halt"), st.booleans()),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("gateway"), st.sampled_from(["down", "refuses", "works", "deaf"])),
)


async def carry_out(house: PolicyHouse, what: str, value: Any, revision: int, usd_per_hour: float) -> None:
    now = house.clock.now()
    open_id = next((entry.action_id for entry in reversed(house.ledger())), id_of("k1"))
    if what in ("wait", "burn"):
        if what == "wait":
            await house.clock.advance(value)
        rates = {"usd_per_hour": usd_per_hour, "requests_per_minute": usd_per_hour / 0.6}
        await house.say(later(revision, house.clock.now() - T0, tags=tags_of(house), **rates))
        for _ in range(3):
            await house.wait(2)
    elif what in ("approve", "deny", "undo"):
        await house.say(command_message(what, now, id=f"c{revision}", by=value, action_id=open_id))
    elif what == "halt":
        await house.say(command_message("halt" if value else "resume", now, id=f"c{revision}"))
    elif what == "restart":
        await house.restart()
    else:
        fault = {"down": TransientError("down"), "refuses": PermanentError("HTTP 403")}.get(value)

        async def hook(point: str) -> None:
            if fault is not None and point != "before undo":
                raise fault

        house.policy_gate.hook, house.policy_gate.deaf = hook, value == "deaf"


def tags_of(house: PolicyHouse) -> dict[str, str]:
    return {"api_key": "+".join(house.policy_gate.keys)}


async def story(
    modes: list[str], keys: int, original: int | None, steps: list[tuple[str, Any]]
) -> tuple[PolicyHouse, dict[str, dict[str, Any]]]:
    names = [f"k{number}" for number in range(1, keys + 1)]
    rungs = [rung | {"mode": mode} for rung, mode in zip(RUNGS, modes, strict=True)]
    house = PolicyHouse(ladder(*rungs, approvers=ROLES), *names, rpm=original)
    was = {name: dict(values) for name, values in house.policy_gate.keys.items()}
    await house.runner.open()
    await house.say(alert_message(an_alert(tags=tags_of(house))))
    burn = 240.0
    for revision, (what, value) in enumerate(steps, 2):
        burn = value if what == "burn" else burn
        await carry_out(house, what, value, revision, burn)
    await carry_out(house, "gateway", "works", 900, burn)
    await house.say(later(1000, house.clock.now() - T0, status="resolved", resolved_at=house.clock.now()))
    for _ in range(10):
        await house.wait(1000)
    return house, was


@settings(max_examples=60, deadline=None)
@given(
    st.lists(MODES, min_size=3, max_size=3),
    st.integers(1, 3),
    st.sampled_from([None, 500, 30, 15]),
    st.lists(STEPS, min_size=6, max_size=20),
)
def test_plans_never_exceed_the_original_and_undo_restores_it(
    modes: list[str], keys: int, original: int | None, steps: list[tuple[str, Any]]
) -> None:
    house, was = asyncio.run(story(modes, keys, original, steps))
    assert house.policy_gate.keys == was
    ledger = house.ledger()
    for entry in ledger:
        if entry.state in ("planned", "applied"):
            name = entry.plan.target.removeprefix("gate/")
            assert all(was[name][field] == value for field, value in entry.plan.before.items())
            rate = entry.plan.after.get("rpm")
            assert rate is None or original is None or rate < original
            assert rate is None or rate <= 60  # three times the normal level, whatever the burn was by then
        assert entry.saved_usd is None or entry.saved_usd >= 0
    newest = {entry.action_id: entry.state for entry in ledger}
    assert not set(newest.values()) & {"planned", "applied", "effective", "ineffective", "proposed"}
    by_alert = [(entry.action_id, entry.state) for entry in ledger if entry.state == "planned"]
    assert len(by_alert) == len(set(by_alert))
