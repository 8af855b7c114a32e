"""Teams, users and customers of LiteLLM over HTTP: which one is meant, and what is never touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext, DriftError
from curb.actions.calls.http import NotFoundError
from curb.actions.levers.litellm_limits import Config, LitellmLimits
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin

BLOCK = TargetRate("block")


@asynccontextmanager
async def action_on(fake: LitellmAdmin, subject: str, **changes: Any) -> AsyncIterator[LitellmLimits]:
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        config = {"kind": "litellm_limits", "name": "limits", "api_key": ADMIN_KEY, "subject": subject}
        config |= {"base_url": str(server.make_url("/")), **changes}
        yield Config.model_validate(config).build(ActionContext(ManualClock(), http))


def team(alias: str) -> dict[str, Any]:
    return {"team_alias": alias, "rpm_limit": None, "blocked": False}


async def test_the_alias_of_a_team_is_matched_whole_on_every_page() -> None:
    fake = LitellmAdmin(teams={f"t{n}": team(alias) for n, alias in enumerate(["search-b", "SEARCH", "search"])})
    async with action_on(fake, "team") as action:
        (plan,) = await action.plan(an_alert(tags={"team": "search"}), NORMAL)
        assert plan.target == "litellm/team/t2"
        assert plan.summary == "limit team search: rpm_limit none → 20"


async def test_two_teams_with_one_alias_are_told_apart_by_nobody() -> None:
    fake = LitellmAdmin(teams={"t1": team("search"), "t2": team("search")})
    async with action_on(fake, "team") as action:
        with pytest.raises(PermanentError, match="2 teams have the alias"):
            await action.plan(an_alert(tags={"team": "search"}), NORMAL)


async def test_a_user_that_was_deleted_is_not_made_anew() -> None:
    fake = LitellmAdmin(users={"ana": {"rpm_limit": None}})
    async with action_on(fake, "user") as action:
        (plan,) = await action.plan(an_alert(tags={"user": "ana"}), NORMAL)
        fake.users.clear()
        with pytest.raises(NotFoundError):
            await action.apply(plan)
        with pytest.raises(DriftError, match="the user no longer exists"):
            await action.undo(plan, None)
    assert not fake.users


async def test_a_user_is_blocked_by_a_limit_of_nothing_because_it_has_no_flag() -> None:
    fake = LitellmAdmin(users={"ana": {"rpm_limit": 50}})
    async with action_on(fake, "user") as action:
        (plan,) = await action.plan(an_alert(tags={"user": "ana"}), BLOCK)
        await action.apply(plan)
        assert fake.users == {"ana": {"rpm_limit": 0}}
        assert not await action.plan(an_alert(tags={"user": "ana"}), NORMAL)
        await action.undo(plan, None)
    assert fake.users == {"ana": {"rpm_limit": 50}}
    assert fake.updates == [("curb/limits", {"rpm_limit": 0}), ("curb/limits", {"rpm_limit": 50})]


async def test_a_customer_gets_back_the_models_it_had() -> None:
    fake = LitellmAdmin(customers={"c1": {"models": ["fast"], "blocked": False}})
    async with action_on(fake, "customer", tag="end_customer") as action:
        alert = an_alert(tags={"end_customer": "c1"})
        (plan,) = await action.plan(alert, BLOCK)
        await action.apply(plan)
        assert fake.customers["c1"] == {"models": ["curb-blocked"], "blocked": False}
        assert not await action.plan(alert, BLOCK)
        await action.undo(plan, None)
    assert fake.customers["c1"] == {"models": ["fast"], "blocked": False}


async def test_another_key_than_the_admins_is_an_error_that_does_not_show_it() -> None:
    fake = LitellmAdmin(keys={"k1": {"rpm_limit": None}})
    async with action_on(fake, "key", api_key="sk-wrong") as action:
        with pytest.raises(PermanentError, match="HTTP 401") as caught:
            await action.plan(an_alert(), NORMAL)
        assert "sk-wrong" not in str(caught.value)
