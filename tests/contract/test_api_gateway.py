"""API Gateway: whose usage plan is throttled, keys that are blocked, stages without a throttle, what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers.aws_api_gateway import ApiGateway, Config
from curb.actions.target import TargetRate
from curb.stream.clients.aws import AwsRefusal
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.aws_api_gateway import METHOD, ApiGatewayBench, ApiGatewayFake, StageBench

BLOCK = TargetRate("block")


@asynccontextmanager
async def acting(bench: ApiGatewayBench, **changes: Any) -> AsyncIterator[tuple[ApiGatewayFake, ApiGateway]]:
    async with bench.serve() as address:
        config = Config.model_validate(bench.config(address) | {"timeout_s": 30} | changes)
        action = config.build(ActionContext(ManualClock(), cast(aiohttp.ClientSession, None)))
        yield bench.fake, action
        await action.close()


async def test_every_throttle_above_the_rate_is_lowered_and_no_other() -> None:
    async with acting(ApiGatewayBench()) as (_, action):
        (plan,) = await action.plan(an_alert(tags={"api_key": "k3"}), NORMAL)
        chat = "/apiStages/a1b2:prod/throttle//chat/POST/rateLimit"
        assert plan.target == "apigateway/usageplans/p3"
        assert plan.before == {"/throttle/burstLimit": 900, chat: 5.0}
        assert plan.after == {"/throttle/burstLimit": 20, chat: 0.3334}


async def test_the_quota_is_lowered_where_asked_and_a_warning_says_what_that_means() -> None:
    async with acting(ApiGatewayBench()) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.after["/quota/limit"] == 20 * 30 * 1440
        assert "count against the quota" in plan.warning
    async with acting(ApiGatewayBench(), quota=False) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.after == {"/throttle/rateLimit": 0.3334, "/throttle/burstLimit": 20}
        assert not plan.warning
        assert plan.summary == "shave gold: /throttle/rateLimit 10 → 0.3334, /throttle/burstLimit 200 → 20"


async def test_a_usage_plan_that_others_share_is_left_alone() -> None:
    bench = ApiGatewayBench()
    bench.fake.members["p1"] = ["k1", "k2", "k3"]
    bench.fake.page_size = 1
    async with acting(bench) as (_, action):
        with pytest.raises(PermanentError, match="p1 has 3 keys"):
            await action.plan(an_alert(), NORMAL)
    async with acting(bench, max_keys=3) as (_, action):
        assert len(await action.plan(an_alert(), NORMAL)) == 1


async def test_every_usage_plan_of_a_key_is_throttled() -> None:
    bench = ApiGatewayBench()
    bench.fake.members["p2"] = ["k1"]
    bench.fake.page_size = 1
    async with acting(bench) as (_, action):
        plans = await action.plan(an_alert(), NORMAL)
        assert [plan.target for plan in plans] == ["apigateway/usageplans/p1", "apigateway/usageplans/p2"]


async def test_a_tag_that_holds_no_key_may_be_mapped_to_a_usage_plan() -> None:
    async with acting(ApiGatewayBench(), tag="team", usage_plans={"search": "p2"}) as (_, action):
        (shave,) = await action.plan(an_alert(), NORMAL)
        (block,) = await action.plan(an_alert(), BLOCK)
        assert (shave.target, block.target) == ("apigateway/usageplans/p2", "apigateway/apikeys/k2")
        assert not await action.plan(an_alert(tags={"team": "ads"}), NORMAL)


@pytest.mark.parametrize("tags", [{}, {"api_key": UNTAGGED}, {"api_key": OTHER}])
async def test_nothing_is_asked_without_a_key(tags: dict[str, str]) -> None:
    async with acting(ApiGatewayBench()) as (fake, action):
        assert not await action.plan(an_alert(tags=tags), NORMAL)
        assert not fake.used


async def test_a_blocked_key_is_enabled_again() -> None:
    async with acting(ApiGatewayBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), BLOCK)
        assert (plan.before, plan.after) == ({"/enabled": True}, {"/enabled": False})
        await action.apply(plan)
        assert fake.keys["k1"]["enabled"] is False
        assert (await action.verify(plan)).in_force
        assert not await action.plan(an_alert(), BLOCK)
        await action.undo(plan, None)
        assert fake.keys["k1"]["enabled"] is True


async def test_a_stage_without_a_throttle_has_none_afterwards() -> None:
    bench = StageBench()
    bench.fake.stages["a1b2/prod"]["methodSettings"] = {}
    async with acting(bench) as (fake, action):
        (plan,) = await action.plan(an_alert(tags={}), NORMAL)
        assert plan.after == {"/*/*/throttling/rateLimit": 0.3334, "/*/*/throttling/burstLimit": 20}
        await action.apply(plan)
        fake.stages["a1b2/prod"]["methodSettings"]["*/*"]["metricsEnabled"] = True
        await action.undo(plan, None)
        left = METHOD | {"metricsEnabled": True, "throttlingRateLimit": -1.0, "throttlingBurstLimit": -1}
        assert fake.stages["a1b2/prod"]["methodSettings"] == {"*/*": left}
        await action.apply(plan)
        fake.stages["a1b2/prod"]["methodSettings"]["*/*"]["metricsEnabled"] = False
        await action.undo(plan, None)
        assert fake.stages["a1b2/prod"]["methodSettings"] == {}


async def test_a_stage_that_is_not_throttled_is_given_back_so() -> None:
    bench = StageBench()
    bench.fake.stages["a1b2/prod"]["methodSettings"] = settings = {
        "*/*": METHOD | {"throttlingRateLimit": -1.0, "throttlingBurstLimit": -1}
    }
    before = {method: dict(own) for method, own in settings.items()}
    async with acting(bench) as (fake, action):
        (plan,) = await action.plan(an_alert(), BLOCK)
        await action.apply(plan)
        assert fake.stages["a1b2/prod"]["methodSettings"]["*/*"]["throttlingRateLimit"] == 0
        await action.undo(plan, None)
        assert fake.stages["a1b2/prod"]["methodSettings"] == before


async def test_what_was_deleted_meanwhile_is_drift() -> None:
    async with acting(ApiGatewayBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        fake.plans.clear()
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


async def test_without_the_permission_nothing_is_changed() -> None:
    bench = ApiGatewayBench()
    bench.fake.allowed = {"apigateway:GET"}
    async with acting(bench) as (_, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        world = bench.world()
        with pytest.raises(AwsRefusal, match="apigateway:PATCH"):
            await action.apply(plan)
        assert bench.world() == world
        bench.fake.allowed = set()
        with pytest.raises(AwsRefusal, match="apigateway:GET"):
            await action.undo(plan, None)
