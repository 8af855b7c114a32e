"""What every kind of action promises, held against its fake over real HTTP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from actions.action import Action, Context, DriftError
from actions.kinds import ACTIONS
from stream.clock import ManualClock
from stream.errors import PermanentError, TransientError
from stream.records import Plan
from tests.fakes.alerts import T0

#: kind → "module:Bench": its fake, how to ask for plans, and how to look at its world.
BENCHES = {"litellm_limits": "tests.fakes.litellm_admin:LitellmBench"}
Setup = tuple[Any, Action]


def named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def test_every_kind_has_a_bench() -> None:
    assert set(BENCHES) == set(ACTIONS)


@pytest.fixture(params=sorted(ACTIONS))
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    bench = named(BENCHES[request.param])()
    config_class = named(ACTIONS[request.param])
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        config = config_class.model_validate(bench.config(address))
        action = config.build(Context(ManualClock(T0), http))
        yield bench, action
        await action.close()


async def planned(bench: Any, action: Action) -> list[Plan]:
    """One plan after the other: a bench's asks have targets of their own."""
    plans: list[Plan] = []
    for alert, aim in bench.asks:
        assert aim.verb in action.verbs
        found = await action.plan(alert, aim)
        assert found
        plans.extend(found)
    assert len({plan.target for plan in plans}) == len(plans)
    return plans


async def test_plan_changes_nothing_and_is_the_same_again(setup: Setup) -> None:
    bench, action = setup
    world = bench.world()
    assert await planned(bench, action) == await planned(bench, action)
    assert bench.world() == world


async def test_plans_hold_values_of_the_fields_they_change_and_never_raise_one(setup: Setup) -> None:
    for plan in await planned(*setup):
        assert plan.before.keys() == plan.after.keys()
        assert plan.before != plan.after
        for field, value in plan.after.items():
            assert plan.before[field] is None or value <= plan.before[field]


async def test_apply_twice_is_once_and_reads_back(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        assert not (await action.verify(plan)).in_force
        await action.apply(plan)
        once = bench.world()
        await action.apply(plan)
        assert bench.world() == once
        effect = await action.verify(plan)
        assert effect.in_force
        assert effect.values == plan.after


async def test_undo_restores_and_may_be_repeated(setup: Setup) -> None:
    bench, action = setup
    world = bench.world()
    for plan in await planned(bench, action):
        outcome = await action.apply(plan)
        await action.undo(plan, outcome)
        await action.undo(plan, None)
    assert bench.world() == world


async def test_undo_of_what_was_never_applied_changes_nothing(setup: Setup) -> None:
    bench, action = setup
    world = bench.world()
    for plan in await planned(bench, action):
        await action.undo(plan, None)
    assert bench.world() == world


async def test_a_change_by_hand_is_drift_and_left_alone(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        await action.apply(plan)
        bench.change_by_hand()
        world = bench.world()
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found
        assert bench.world() == world


async def test_an_applied_plan_leaves_nothing_more_to_plan(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        await action.apply(plan)
    for alert, aim in bench.asks:
        assert not await action.plan(alert, aim)


async def test_an_unknown_subject_is_a_permanent_error(setup: Setup) -> None:
    bench, action = setup
    with pytest.raises(PermanentError):
        await action.plan(bench.about_nothing_known(), bench.asks[0][1])


async def test_nothing_is_called_that_is_not_declared(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        await action.apply(plan)
        await action.verify(plan)
        await action.undo(plan, None)
    assert bench.called() == set(action.permissions)


@pytest.mark.parametrize("fault", ["429", "500", "slow", "reset"])
@pytest.mark.parametrize("verb", ["plan", "apply", "verify", "undo"])
async def test_faults_of_the_other_side_are_transient(setup: Setup, fault: str, verb: str) -> None:
    bench, action = setup
    plan = (await planned(bench, action))[0]
    if verb == "undo":
        await action.apply(plan)
    calls = {
        "plan": lambda: action.plan(*bench.asks[0]),
        "apply": lambda: action.apply(plan),
        "verify": lambda: action.verify(plan),
        "undo": lambda: action.undo(plan, None),
    }
    bench.faults.next.extend([fault] * 2)  # aiohttp repeats a GET once when a kept connection is reset
    with pytest.raises(TransientError) as caught:
        await calls[verb]()
    bench.faults.next.clear()
    assert caught.value.retry_after == (7.0 if fault == "429" else None)
    assert bench.secret not in str(caught.value)
    await calls[verb]()  # the same call works once the fault is over


async def test_an_undo_whose_answer_got_lost_can_be_repeated(setup: Setup) -> None:
    bench, action = setup
    world = bench.world()
    plan = (await planned(bench, action))[0]
    await action.apply(plan)
    bench.faults.after.extend(["reset", "reset"])
    with pytest.raises(TransientError):
        await action.undo(plan, None)
    bench.faults.after.clear()
    await action.undo(plan, None)
    assert bench.world() == world


@pytest.mark.parametrize("kind", sorted(ACTIONS))
def test_a_configuration_refuses_unknown_keys_and_hides_secrets(kind: str) -> None:
    bench = named(BENCHES[kind])()
    config_class = named(ACTIONS[kind])
    config = bench.config("http://127.0.0.1:1/")
    assert bench.secret not in repr(config_class.model_validate(config))
    with pytest.raises(ValidationError, match="colour"):
        config_class.model_validate(config | {"colour": "red"})
