"""What every kind of action promises, held against its fake over real HTTP."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from curb.actions.action import Action, Context, DriftError
from curb.actions.kinds import ACTIONS
from curb.actions.policy.guards import raises_a_limit
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import T0

#: kind → "module:Bench": its fake, how to ask for plans, and how to look at its world. A kind that can be set up in
#: several ways has one for each, as kind/way.
BENCHES = {
    "litellm_limits": "tests.fakes.litellm_admin:LitellmBench",
    "litellm_limits/team": "tests.fakes.litellm_admin:LitellmTeamBench",
    "litellm_limits/user": "tests.fakes.litellm_admin:LitellmUserBench",
    "litellm_limits/customer": "tests.fakes.litellm_admin:LitellmCustomerBench",
    "envoy": "tests.fakes.envoy:EnvoyBench",
    "haproxy": "tests.fakes.haproxy:HaproxyBench",
    "kubernetes": "tests.fakes.kubernetes_objects:KubernetesBench",
    "ec2": "tests.fakes.ec2:Ec2Bench",
    "sagemaker": "tests.fakes.sagemaker:SagemakerBench",
    "aws_batch": "tests.fakes.aws_batch:BatchBench",
    "aws_lambda": "tests.fakes.aws_lambda:LambdaBench",
    "http": "tests.fakes.http_gateway:HttpBench",
    "aws_api_gateway": "tests.fakes.aws_api_gateway:ApiGatewayBench",
    "aws_api_gateway/stage": "tests.fakes.aws_api_gateway:StageBench",
    "aws_waf": "tests.fakes.aws_waf:WafBench",
    "aws_waf/existing": "tests.fakes.aws_waf:ExistingRuleBench",
    "aws_waf/address": "tests.fakes.aws_waf:PerAddressBench",
    "kong": "tests.fakes.kong:KongBench",
    "kong/service": "tests.fakes.kong:KongServiceBench",
    "kong/route": "tests.fakes.kong:KongRouteBench",
    "openai_project": "tests.fakes.openai_admin:OpenaiProjectBench",
}
Setup = tuple[Any, Action]


def named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def kind_of(bench: str) -> str:
    return bench.partition("/")[0]


def test_every_kind_has_a_bench() -> None:
    assert {kind_of(bench) for bench in BENCHES} == set(ACTIONS)


@pytest.fixture(params=sorted(BENCHES))
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    bench = named(BENCHES[request.param])()
    config_class = named(ACTIONS[kind_of(request.param)])
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        settings = bench.config(address)
        # A busy machine is no fault: only what is to time out does so soon.
        patient = {"timeout_s": 30} if "timeout_s" in settings else {}
        action, bench.hasty = (
            config_class.model_validate(each).build(Context(ManualClock(T0), http))
            for each in (settings | patient, settings)
        )
        yield bench, action
        await action.close()
        await bench.hasty.close()


async def planned(bench: Any, action: Action) -> list[Plan]:
    """One plan after the other: a bench's asks have targets of their own."""
    plans: list[Plan] = []
    for alert, rate in bench.asks:
        assert rate.verb in action.verbs
        found = await action.plan(alert, rate)
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
        assert not raises_a_limit(plan)


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
        world = world if plan.reversible else bench.world()
        await action.undo(plan, outcome)
        await action.undo(plan, None)
        assert bench.world() == world


async def test_undo_of_what_was_never_applied_changes_nothing(setup: Setup) -> None:
    bench, action = setup
    world = bench.world()
    for plan in await planned(bench, action):
        await action.undo(plan, None)
    assert bench.world() == world


async def test_what_cannot_be_brought_back_says_what_is_lost(setup: Setup) -> None:
    for plan in await planned(*setup):
        assert plan.reversible or plan.warning


async def test_a_change_by_hand_is_drift_and_left_alone(setup: Setup) -> None:
    bench, action = setup
    for plan in await planned(bench, action):
        if not plan.reversible:
            continue  # nobody brings back what it ended: there is nothing to compare
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
    for alert, rate in bench.asks:
        assert not await action.plan(alert, rate)


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
    calls: dict[str, Callable[[Action], Awaitable[Any]]] = {
        "plan": lambda by: by.plan(*bench.asks[0]),
        "apply": lambda by: by.apply(plan),
        "verify": lambda by: by.verify(plan),
        "undo": lambda by: by.undo(plan, None),
    }
    bench.faults.next.extend([fault] * 2)  # aiohttp repeats a GET once when a kept connection is reset
    with pytest.raises(TransientError) as caught:
        await calls[verb](bench.hasty if fault == "slow" else action)
    bench.faults.next.clear()
    assert caught.value.retry_after == (getattr(bench, "retry_after_s", 7.0) if fault == "429" else None)
    assert bench.secret not in str(caught.value)
    await calls[verb](action)  # the same call works once the fault is over


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


@pytest.mark.parametrize("kind", sorted(BENCHES))
def test_a_configuration_refuses_unknown_keys_and_hides_secrets(kind: str) -> None:
    bench = named(BENCHES[kind])()
    config_class = named(ACTIONS[kind_of(kind)])
    config = bench.config("http://127.0.0.1:1/")
    assert bench.secret not in repr(config_class.model_validate(config))
    with pytest.raises(ValidationError, match="colour"):
        config_class.model_validate(config | {"colour": "red"})
