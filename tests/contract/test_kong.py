"""Kong: which plugins are lowered or added, what each node counts, and what a person changed in between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError, GoneError
from curb.actions.levers.kong import Config, Kong
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.kong import KongBench, KongFake, KongRouteBench, KongServiceBench, plugin


@asynccontextmanager
async def acting(bench: KongBench, **changes: Any) -> AsyncIterator[tuple[KongFake, Kong]]:
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        config = Config.model_validate(bench.config(address) | {"timeout_s": 30} | changes)
        yield bench.fake, config.build(ActionContext(ManualClock(), http))


async def test_every_plugin_of_the_consumer_is_lowered() -> None:
    async with acting(KongBench()) as (_, action):
        plans = await action.plan(an_alert(), NORMAL)
        assert [(plan.target, plan.before, plan.after) for plan in plans] == [
            ("kong/consumers/c1/p1", {"minute": 600, "second": 100}, {"minute": 20, "second": 20}),
            ("kong/consumers/c1/p2", {"minute": None}, {"minute": 20}),
        ]
        assert plans[0].summary == "limit consumer search: minute 600 → 20, second 100 → 20"


async def test_only_the_limits_are_sent() -> None:
    async with acting(KongBench()) as (fake, action):
        plan = (await action.plan(an_alert(), NORMAL))[0]
        fake.plugins["p1"]["config"]["fault_tolerant"] = False
        await action.apply(plan)
        assert (
            fake.plugins["p1"]["config"]
            == plugin("p1", minute=20, second=20, hour=5000, fault_tolerant=False)["config"]
        )


async def test_an_added_plugin_allows_nothing_that_was_not_allowed() -> None:
    """A consumer's own plugin wins over that of the service: its hourly limit has to be in it."""
    async with acting(KongBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(tags={"team": "lab"}), NORMAL)
        assert (plan.before, plan.after) == ({"minute": None, "hour": None}, {"minute": 20, "hour": 950})
        await action.apply(plan)
        added = fake.plugins[plan.target.rpartition("/")[2]]
        assert added["consumer"] == {"id": "c3"}
        assert (added["config"]["limit_by"], added["config"]["policy"], added["tags"]) == (
            "consumer",
            "local",
            ["curb"],
        )


async def test_where_a_plugin_for_everything_allows_no_more_none_is_added() -> None:
    bench = KongBench()
    bench.fake.plugins = {"p9": plugin("p9", minute=15)}
    async with acting(bench) as (fake, action):
        assert not await action.plan(an_alert(), NORMAL)
        fake.plugins["p9"]["enabled"] = False
        (plan,) = await action.plan(an_alert(), NORMAL)
        assert plan.after == {"minute": 20}


async def test_what_each_node_counts_for_itself_is_divided() -> None:
    bench = KongBench()
    bench.fake.plugins["p9"] = plugin("p9", minute=100, day=1000, policy="cluster")
    async with acting(bench, nodes=3) as (_, action):
        local, cluster = await action.plan(an_alert(), NORMAL)
        (added,) = await action.plan(an_alert(tags={"team": "lab"}), NORMAL)
        assert (local.after["minute"], cluster.after["minute"]) == (7, 20)
        assert added.after == {"minute": 7, "hour": 333, "day": 333}
    async with acting(bench, nodes=3, policy="cluster") as (_, action):
        (added,) = await action.plan(an_alert(tags={"team": "lab"}), NORMAL)
        assert added.after == {"minute": 20, "hour": 950, "day": 1000}


async def test_all_pages_of_plugins_are_read() -> None:
    bench = KongBench()
    bench.fake.page_size = 1
    async with acting(bench) as (_, action):
        assert len(await action.plan(an_alert(), NORMAL)) == 2


async def test_a_plugin_that_is_switched_off_stays_off() -> None:
    bench = KongBench()
    bench.fake.plugins["p1"]["enabled"] = False
    async with acting(bench) as (_, action):
        with pytest.raises(PermanentError, match="switched off"):
            await action.plan(an_alert(), NORMAL)


async def test_a_plugin_switched_off_meanwhile_is_not_in_force() -> None:
    async with acting(KongBench()) as (fake, action):
        plan = (await action.plan(an_alert(), NORMAL))[0]
        await action.apply(plan)
        fake.plugins["p1"]["enabled"] = False
        effect = await action.verify(plan)
        assert (effect.in_force, effect.detail) == (False, "the plugin is switched off")


async def test_a_limit_that_kong_would_not_take_beside_a_new_one_is_left_alone() -> None:
    async with acting(KongBench()) as (fake, action):
        plan = (await action.plan(an_alert(), NORMAL))[0]
        await action.apply(plan)
        fake.plugins["p1"]["config"]["minute"] = 50  # 100 a second would be more than that
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found == {"minute": 50, "second": 20}
        fake.plugins["p1"]["config"]["minute"] = 500
        with pytest.raises(DriftError) as caught:
            await action.undo(plan, None)
        assert caught.value.found == {"minute": 500}
        assert fake.plugins["p1"]["config"]["second"] == 100


async def test_an_added_plugin_with_another_limit_in_it_is_kept() -> None:
    async with acting(KongBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(tags={"team": "lab"}), NORMAL)
        await action.apply(plan)
        added = fake.plugins[plan.target.rpartition("/")[2]]
        added["config"]["day"] = 2000
        await action.undo(plan, None)
        left = fake.plugins[added["id"]]["config"]
        assert (left["minute"], left["hour"], left["day"]) == (None, None, 2000)


async def test_a_plugin_that_was_deleted() -> None:
    async with acting(KongBench()) as (fake, action):
        existing = (await action.plan(an_alert(), NORMAL))[0]
        (added,) = await action.plan(an_alert(tags={"team": "lab"}), NORMAL)
        await action.apply(added)
        fake.plugins.clear()
        await action.undo(added, None)
        assert not (await action.verify(existing)).in_force
        with pytest.raises(GoneError):
            await action.apply(existing)
        with pytest.raises(DriftError, match="no longer exists"):
            await action.undo(existing, None)


async def test_a_service_that_counts_each_consumer_says_so() -> None:
    async with acting(KongServiceBench()) as (_, action):
        (plan,) = await action.plan(an_alert(tags={"team": "chat"}), NORMAL)
        assert plan.warning == "The plugin counts by consumer, each by itself."


async def test_a_route_takes_over_the_limits_of_its_service() -> None:
    async with acting(KongRouteBench()) as (fake, action):
        (plan,) = await action.plan(an_alert(tags={"team": "stream"}), NORMAL)
        assert plan.after == {"minute": 20, "hour": 950}
        await action.apply(plan)
        added = fake.plugins[plan.target.rpartition("/")[2]]
        assert (added["route"], added["config"]["limit_by"]) == ({"id": "r1"}, "service")


@pytest.mark.parametrize("tags", [{}, {"team": UNTAGGED}, {"team": OTHER}, {"project": "search"}])
async def test_nothing_is_asked_without_the_tag(tags: dict[str, str]) -> None:
    async with acting(KongBench()) as (fake, action):
        assert not await action.plan(an_alert(tags=tags), NORMAL)
        assert not fake.called


async def test_a_name_cannot_lead_elsewhere() -> None:
    async with acting(KongBench()) as (fake, action):
        with pytest.raises(PermanentError, match="HTTP 404"):
            await action.plan(an_alert(tags={"team": "../plugins?size=1"}), NORMAL)
        with pytest.raises(PermanentError, match="cannot stand"):
            await action.plan(an_alert(tags={"team": ".."}), NORMAL)
        assert fake.called == {"GET /{consumers,services,routes}/{name}"}


async def test_a_token_kong_does_not_know() -> None:
    async with acting(KongBench(), admin_token="wrong") as (_, action):
        with pytest.raises(PermanentError, match="HTTP 401"):
            await action.plan(an_alert(), NORMAL)


async def test_what_is_no_admin_api_is_told() -> None:
    async with acting(KongBench()) as (_, action):
        action._base += "/plugins?size=1&x="
        with pytest.raises(PermanentError, match="is base_url the Admin API"):
            await action.plan(an_alert(), NORMAL)
