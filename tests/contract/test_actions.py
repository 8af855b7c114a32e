"""What every kind of action promises, held against its fake over real HTTP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from actions.action import Action, Context, DriftError
from actions.kinds import ACTIONS
from stream.clock import ManualClock
from stream.errors import PermanentError, TransientError
from stream.records import Alert, Plan
from tests.fakes.alerts import T0, an_alert
from tests.fakes.faults import Faults
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin


class LitellmBench:
    """LiteLLM's admin API with one key that has a higher limit and one that has none."""

    def __init__(self) -> None:
        self.fake = LitellmAdmin({"k1": {"rpm_limit": 600, "metadata": {"owner": "ana"}}, "k2": {"rpm_limit": None}})
        self.faults: Faults = self.fake.faults
        self.alerts = [an_alert(), an_alert(tags={"api_key": "k2"})]
        self.app = self.fake.app

    def config(self, base_url: str) -> dict[str, Any]:
        return {
            "kind": "litellm_limits",
            "name": "limits",
            "base_url": base_url,
            "api_key": ADMIN_KEY,
            "timeout_s": 0.2,
        }

    def world(self) -> Any:
        return {key: dict(values) for key, values in self.fake.keys.items()}

    def change_by_hand(self) -> None:
        for values in self.fake.keys.values():
            values["rpm_limit"] = 33

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"api_key": "nobody"})


BENCHES = {"litellm_limits": LitellmBench}
Setup = tuple[Any, Action]


def test_every_kind_has_a_bench() -> None:
    assert set(BENCHES) == set(ACTIONS)


@pytest.fixture(params=sorted(ACTIONS))
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    bench = BENCHES[request.param]()
    module, _, name = ACTIONS[request.param].partition(":")
    config_class = getattr(importlib.import_module(module), name)
    async with TestServer(bench.app()) as server, aiohttp.ClientSession() as http:
        config = config_class.model_validate(bench.config(str(server.make_url("/"))))
        action = config.build(Context(ManualClock(T0), http))
        yield bench, action
        await action.close()


async def planned(bench: Any, action: Action) -> list[Plan]:
    plans = [plan for alert in bench.alerts if (plan := await action.plan(alert)) is not None]
    assert len(plans) == len(bench.alerts)
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
    for alert in bench.alerts:
        assert await action.plan(alert) is None


async def test_an_unknown_subject_is_a_permanent_error(setup: Setup) -> None:
    bench, action = setup
    with pytest.raises(PermanentError):
        await action.plan(bench.about_nothing_known())


async def test_nothing_is_called_that_is_not_declared(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        await action.apply(plan)
        await action.verify(plan)
        await action.undo(plan, None)
    assert set(bench.faults.seen) == set(action.permissions)


@pytest.mark.parametrize("fault", ["429", "500", "slow", "reset"])
@pytest.mark.parametrize("verb", ["plan", "apply", "verify", "undo"])
async def test_faults_of_the_other_side_are_transient(setup: Setup, fault: str, verb: str) -> None:
    bench, action = setup
    plan = (await planned(bench, action))[0]
    if verb == "undo":
        await action.apply(plan)
    calls = {
        "plan": lambda: action.plan(bench.alerts[0]),
        "apply": lambda: action.apply(plan),
        "verify": lambda: action.verify(plan),
        "undo": lambda: action.undo(plan, None),
    }
    bench.faults.next.extend([fault] * 2)  # aiohttp repeats a GET once when a kept connection is reset
    with pytest.raises(TransientError) as caught:
        await calls[verb]()
    bench.faults.next.clear()
    assert caught.value.retry_after == (7.0 if fault == "429" else None)
    assert ADMIN_KEY not in str(caught.value)
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
    bench = BENCHES[kind]()
    module, _, name = ACTIONS[kind].partition(":")
    config_class = getattr(importlib.import_module(module), name)
    config = bench.config("http://127.0.0.1:1/")
    assert ADMIN_KEY not in repr(config_class.model_validate(config))
    with pytest.raises(ValidationError, match="colour"):
        config_class.model_validate(config | {"colour": "red"})
