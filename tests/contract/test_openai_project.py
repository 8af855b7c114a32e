"""OpenAI projects: which models are limited, the spend limit, and what OpenAI cannot be given back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers.openai_project import Config, OpenaiProject
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.openai_admin import OpenaiAdmin, OpenaiProjectBench

BLOCK = TargetRate("block")


@asynccontextmanager
async def acting(**changes: Any) -> AsyncIterator[tuple[OpenaiAdmin, OpenaiProject]]:
    bench = OpenaiProjectBench()
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        keys: dict[str, Any] = {"tpm": None, "spend_limit_usd": None}
        config = Config.model_validate(bench.config(address) | {"timeout_s": 30} | keys | changes)
        yield bench.fake, config.build(ActionContext(ManualClock(), http))


def about(project: str = "proj_a", **tags: str) -> Alert:
    return an_alert(tags={"project": project, **tags})


@pytest.mark.parametrize(
    ("tags", "models", "limited"),
    [
        ({}, ["*"], {"gpt-4o", "gpt-4o-mini"}),
        ({}, ["gpt-4o-*"], {"gpt-4o-mini"}),
        ({"model": UNTAGGED}, ["gpt-4o"], {"gpt-4o"}),
        ({"model": "gpt-4o"}, ["*"], {"gpt-4o"}),
        ({"model": "gpt-4o-2024-08-06"}, ["nothing"], {"gpt-4o"}),
        ({"model": "gpt-4o-mini-2024-07-18"}, ["*"], {"gpt-4o-mini"}),
        ({"model": "tiny"}, ["*"], set()),
        ({"model": "tts-1"}, ["*"], set()),
    ],
)
async def test_the_models_that_are_limited(tags: dict[str, str], models: list[str], limited: set[str]) -> None:
    async with acting(models=models) as (_, action):
        plans = await action.plan(about(**tags), NORMAL)
        assert {field for plan in plans for field in plan.after} == {
            f"rl-{model}.max_requests_per_1_minute" for model in limited
        }


@pytest.mark.parametrize("model", ["gpt-4o-audio-preview", "gpt", "claude"])
async def test_a_model_without_a_rate_limit_is_told_and_no_other_is_touched(model: str) -> None:
    async with acting() as (_, action):
        with pytest.raises(PermanentError, match=f"no rate limit for {model}"):
            await action.plan(about(model=model), NORMAL)


async def test_a_plan_holds_all_models_of_a_project() -> None:
    async with acting(tpm=2_000_000) as (fake, action):
        (plan,) = await action.plan(about(), NORMAL)
        assert plan.target == "openai/proj_a/rate_limits"
        assert plan.before == {
            "rl-gpt-4o.max_requests_per_1_minute": 500,
            "rl-gpt-4o-mini.max_requests_per_1_minute": 5000,
        }
        await action.apply(plan)
        assert fake.sent == [{"max_requests_per_1_minute": 20}] * 2


async def test_one_model_that_somebody_changed_does_not_hold_up_the_others() -> None:
    async with acting() as (fake, action):
        (plan,) = await action.plan(about(), NORMAL)
        await action.apply(plan)
        limits = {each["model"]: each for each in fake.projects["proj_a"]["limits"]}
        limits["gpt-4o"]["max_requests_per_1_minute"] = 77
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found == {"rl-gpt-4o.max_requests_per_1_minute": 77}
        assert limits["gpt-4o-mini"]["max_requests_per_1_minute"] == 5000


async def test_all_pages_of_rate_limits_are_read() -> None:
    async with acting() as (fake, action):
        fake.page_size = 1
        (plan,) = await action.plan(about(), NORMAL)
        assert len(plan.after) == 2


@pytest.mark.parametrize(
    ("found", "usd", "cents"), [(None, 25.5, 2550), (3000, 25.5, 2550), (2550, 25.5, None), (100, 25.5, None)]
)
async def test_the_spend_limit_is_lowered_and_never_raised(found: int | None, usd: float, cents: int | None) -> None:
    async with acting(spend_limit_usd=usd, models=["tiny"]) as (fake, action):
        fake.projects["proj_a"]["spend"] = found
        plans = await action.plan(about(), NORMAL)
        assert [plan.after for plan in plans] == ([] if cents is None else [{"threshold_amount": cents}])


@pytest.mark.parametrize("found", [None, 900_000])
async def test_a_blocked_project_is_what_it_was_afterwards(found: int | None) -> None:
    async with acting() as (fake, action):
        fake.projects["proj_a"]["spend"] = found
        (plan,) = await action.plan(about(), BLOCK)
        assert (plan.target, plan.before, plan.after) == (
            "openai/proj_a/spend_limit",
            {"threshold_amount": found},
            {"threshold_amount": 1},
        )
        assert "refuses every call" in plan.warning
        await action.apply(plan)
        effect = await action.verify(plan)
        assert (effect.in_force, effect.detail) == (True, "enforcement: enforcing")
        assert not await action.plan(about(), BLOCK)
        await action.undo(plan, None)
        await action.undo(plan, None)
        assert fake.projects["proj_a"].get("spend") == found


async def test_a_spend_limit_that_somebody_deleted_is_drift() -> None:
    async with acting() as (fake, action):
        (plan,) = await action.plan(about(), BLOCK)
        await action.apply(plan)
        del fake.projects["proj_a"]["spend"]
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found == {"threshold_amount": None}


async def test_a_project_that_was_deleted_is_drift() -> None:
    async with acting() as (fake, action):
        (plan,) = await action.plan(about(), NORMAL)
        fake.projects.clear()
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)


async def test_an_archived_project_is_left_alone() -> None:
    async with acting() as (fake, action):
        fake.projects["proj_a"]["status"] = "archived"
        assert not await action.plan(about(), NORMAL)
        assert not await action.plan(about(), BLOCK)


async def test_a_tag_may_be_mapped_to_a_project() -> None:
    async with acting(tag="team", projects={"search": "proj_b"}) as (fake, action):
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.target == "openai/proj_b/rate_limits"
        fake.called.clear()
        assert not await action.plan(an_alert(tags={"team": "ads"}), NORMAL)
        assert not fake.called


@pytest.mark.parametrize("tags", [{}, {"project": UNTAGGED}, {"project": OTHER}, {"team": "search"}])
async def test_nothing_is_asked_without_a_project(tags: dict[str, str]) -> None:
    async with acting() as (fake, action):
        assert not await action.plan(an_alert(tags=tags), NORMAL)
        assert not fake.called


async def test_a_key_without_the_right_to_write_changes_nothing() -> None:
    async with acting() as (fake, action):
        fake.allowed = {call for call in OpenaiProject.permissions if call.startswith("GET")}
        (plan,) = await action.plan(about(), NORMAL)
        with pytest.raises(PermanentError, match="HTTP 403"):
            await action.apply(plan)
        assert not (await action.verify(plan)).in_force
