"""LiteLLM's lever over HTTP plans below what is enforced: own limits, tier, team, membership, user, organisation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers.litellm_limits import Config, LitellmLimits
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import T0, an_alert
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin

BLOCK, SHAVE = TargetRate("block"), TargetRate("shave", requests_per_minute=6.0)
KEY: dict[str, Any] = {"rpm_limit": None, "max_budget": None, "spend": 0.0, "blocked": None, "status": "active"}


@asynccontextmanager
async def action_on(fake: LitellmAdmin, **changes: Any) -> AsyncIterator[LitellmLimits]:
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        config = {"kind": "litellm_limits", "name": "limits", "api_key": ADMIN_KEY}
        config |= {"base_url": str(server.make_url("/")), **changes}
        yield Config.model_validate(config).build(ActionContext(ManualClock(T0), http))


async def plans(fake: LitellmAdmin, rate: TargetRate = SHAVE, **changes: Any) -> list[Plan]:
    """What the action plans for key k1, or for the first subject of another kind."""
    subject = changes.get("subject", "key")
    tags = {"key": {"api_key": "k1"}, "team": {"team": "t1"}, "user": {"user": "ana"}}[subject]
    async with action_on(fake, **changes) as action:
        return list(await action.plan(an_alert(tags=tags), rate))


def tier(**limits: Any) -> dict[str, Any]:
    return {"budget_id": "tier-x", "litellm_budget_table": {"budget_id": "tier-x", **limits}}


@pytest.mark.parametrize(("in_tier", "set_to"), [(2, None), (6, None), (7, 6), (600, 6), (None, 6)])
async def test_a_limit_of_the_budget_tier_is_never_raised(in_tier: int | None, set_to: int | None) -> None:
    found = await plans(LitellmAdmin(keys={"k1": KEY | tier(rpm_limit=in_tier, max_budget=50)}))
    assert [plan.after for plan in found] == ([] if set_to is None else [{"rpm_limit": set_to}])


async def test_the_limit_of_the_tier_is_shown_and_holds_again_after_undo() -> None:
    fake = LitellmAdmin(keys={"k1": KEY | tier(rpm_limit=60)})
    async with action_on(fake) as action:
        (plan,) = await action.plan(an_alert(tags={"api_key": "k1"}), SHAVE)
        assert plan.summary == "limit key k1: rpm_limit 60 → 6"
        await action.apply(plan)
        await action.undo(plan, None)
    assert fake.keys["k1"] == KEY | tier(rpm_limit=60)


async def test_an_own_limit_replaces_that_of_the_tier() -> None:
    (plan,) = await plans(LitellmAdmin(keys={"k1": KEY | {"rpm_limit": 30} | tier(rpm_limit=2)}))
    assert (plan.before, plan.after) == ({"rpm_limit": 30}, {"rpm_limit": 6})


SPENT: list[dict[str, Any]] = [
    KEY | {"spend": 5.0, "max_budget": 5.0},
    KEY | {"spend": 0.1} | tier(max_budget=0.00001),
    KEY | {"budget_limits": [{"budget_duration": "1d", "max_budget": 1.0}]}
    | {"budget_limits_usage": {"1d": {"current_spend": 1.5}}},
]  # fmt: skip


@pytest.mark.parametrize("rate", [SHAVE, BLOCK])
@pytest.mark.parametrize("row", SPENT)
async def test_a_spent_budget_stays_spent(row: dict[str, Any], rate: TargetRate) -> None:
    assert await plans(LitellmAdmin(keys={"k1": row}), rate, allow_usd=1.0) == []


async def test_a_budget_of_the_tier_is_only_lowered() -> None:
    row = KEY | {"rpm_limit": 1, "spend": 2.0}
    assert await plans(LitellmAdmin(keys={"k1": row | tier(max_budget=2.5)}), allow_usd=1.0) == []
    (plan,) = await plans(LitellmAdmin(keys={"k1": row | tier(max_budget=50)}), allow_usd=1.0)
    assert (plan.before, plan.after) == ({"max_budget": None}, {"max_budget": 3.0})
    assert await plans(LitellmAdmin(keys={"k1": row | tier(max_budget=50, soft_budget=3)}), allow_usd=1.0) == []


@pytest.mark.parametrize(("expires_s", "open_again"), [(60, True), (-60, False)])
async def test_an_increase_for_a_time_counts_while_it_lasts(expires_s: float, open_again: bool) -> None:
    until = datetime.fromtimestamp(T0 + expires_s, UTC).replace(tzinfo=None).isoformat()
    more = {"temp_budget_increase": 10, "temp_budget_expiry": until}
    row = KEY | {"spend": 5.0, "max_budget": 5.0, "metadata": more}
    found = await plans(LitellmAdmin(keys={"k1": row}), allow_usd=1.0)
    assert [plan.after for plan in found] == ([{"rpm_limit": 6}] if open_again else [])


async def test_a_key_that_is_slowed_down_over_its_budget_is_not_refused() -> None:
    row = KEY | {"spend": 5.0, "max_budget": 5.0, "metadata": {"throttle_on_budget_exceeded": True}}
    (plan,) = await plans(LitellmAdmin(keys={"k1": row}), allow_usd=1.0)
    assert plan.after == {"rpm_limit": 6}


def world(**above: dict[str, Any]) -> LitellmAdmin:
    """Key k1 of ana in team t1 of organisation o1."""
    fake = LitellmAdmin(
        keys={"k1": KEY | {"team_id": "t1", "user_id": "ana"}},
        teams={"t1": {"team_alias": "t1", "organization_id": "o1", "spend": 0.0, **above.get("team", {})}},
        users={"ana": {"spend": 0.0, **above.get("user", {})}},
        organizations={"o1": {"spend": 0.0, **above.get("organization", {})}},
    )
    fake.memberships["t1"] = [
        {"user_id": "ben", **tier(rpm_limit=1)},
        {"user_id": "ana", "spend": 0.0, **above.get("member", {})},
    ]
    return fake


@pytest.mark.parametrize(
    ("level", "row"),
    [
        ("team", {"rpm_limit": 5}),
        ("team", {"blocked": True}),
        ("team", {"spend": 3.0, "max_budget": 3.0}),
        ("user", {"rpm_limit": 6}),
        ("user", {"rpm_limit": 0}),
        ("member", tier(rpm_limit=4)),
        ("member", {"spend": 4.0} | tier(max_budget=3)),
        ("organization", tier(rpm_limit=2)),
        ("organization", {"spend": 9.0} | tier(max_budget=9)),
    ],
)
async def test_a_key_is_left_alone_where_what_is_above_holds_it_lower(level: str, row: dict[str, Any]) -> None:
    assert await plans(world(**{level: row})) == []


async def test_what_is_above_and_leaves_more_changes_nothing() -> None:
    fake = world(
        team={"rpm_limit": 50, "max_budget": 3.0},
        user={"rpm_limit": 40, "spend": 9.0, "max_budget": 9.0},  # binds keys without a team
        organization=tier(rpm_limit=30),
    )
    (plan,) = await plans(fake)
    assert (plan.before, plan.after) == ({"rpm_limit": None}, {"rpm_limit": 6})
    assert plan.summary == "limit key k1: rpm_limit 30 → 6"


async def test_the_budget_of_a_user_binds_keys_without_a_team() -> None:
    fake = world(user={"spend": 9.0, "max_budget": 9.0})
    fake.keys["k1"]["team_id"] = None
    assert await plans(fake) == []


async def test_an_organisation_that_may_not_be_read_keeps_nothing_from_being_planned() -> None:
    fake = world()
    fake.organizations.clear()  # the free edition refuses, or it is gone
    (plan,) = await plans(fake)
    assert plan.after == {"rpm_limit": 6}


async def test_a_team_that_cannot_be_read_now_is_tried_again() -> None:
    fake = world()
    async with action_on(fake) as action:
        fake.faults.next.extend(["ok", "500"])
        with pytest.raises(TransientError):
            await action.plan(an_alert(tags={"api_key": "k1"}), SHAVE)


async def test_a_team_is_held_by_its_organisation() -> None:
    assert await plans(world(organization=tier(rpm_limit=2)), subject="team") == []
    assert len(await plans(world(organization=tier(rpm_limit=20)), subject="team")) == 1


async def test_a_deleted_key_is_gone_and_its_lease_can_end() -> None:
    fake = LitellmAdmin(keys={"k1": dict(KEY)})
    async with action_on(fake) as action:
        alert = an_alert(tags={"api_key": "k1"})
        (plan,) = await action.plan(alert, SHAVE)
        await action.apply(plan)
        fake.deleted["k1"] = fake.keys.pop("k1") | {"status": "deleted"}  # with Curb's value in it
        assert not (await action.verify(plan)).in_force
        with pytest.raises(DriftError, match="the key no longer exists"):
            await action.undo(plan, None)
        assert await action.plan(alert, SHAVE) == ()


async def test_a_key_that_is_deleted_between_reading_and_giving_back_is_gone_too() -> None:
    fake = LitellmAdmin(keys={"k1": dict(KEY)})
    async with action_on(fake) as action:
        (plan,) = await action.plan(an_alert(tags={"api_key": "k1"}), SHAVE)
        await action.apply(plan)
        fake.deleted["k1"] = fake.keys.pop("k1")
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(plan, None)
