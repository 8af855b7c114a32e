"""The Envoy action over its fake: what the file says and what Envoy holds may differ, and others write the file too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError
from curb.actions.levers.envoy import Config, Envoy
from curb.actions.target import TargetRate
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.envoy import ROUTES, EnvoyBench

BLOCK = TargetRate("block")


class Setup(EnvoyBench):
    """A bench whose action is built; `plan` asks for the one plan of a key."""

    action: Envoy

    async def plan(self, key: str = "k2", rate: TargetRate = NORMAL) -> Plan:
        (plan,) = await self.action.plan(an_alert(tags={"api_key": key}), rate)
        return plan

    def put(self, text: str) -> None:
        written = self.path.with_suffix(".new")
        written.write_text(text, encoding="utf-8")
        written.replace(self.path)


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    bench = Setup()
    async with bench.serve() as address, aiohttp.ClientSession() as http:
        config = Config.model_validate(bench.config(address))
        bench.action = config.build(ActionContext(ManualClock(), http))
        yield bench


async def test_plans_say_what_changes_and_hold_no_key(setup: Setup) -> None:
    shave, lower, block = await setup.plan(), await setup.plan("k1"), await setup.plan("k2", BLOCK)
    assert shave.summary == "limit k2: requests per minute none → 20 at models"
    assert lower.summary == "limit k1: requests per minute 600 → 20 at models"
    assert block.summary == "block k2: 403 at models"
    assert [plan.target for plan in (shave, lower, block)] == ["envoy/edge/k2", "envoy/edge/k1", "envoy/edge/k2"]
    assert setup.secret not in repr((shave, lower, block))


async def test_the_limit_of_all_subjects_counts_as_the_one_found(setup: Setup) -> None:
    every = "- {entries: [{key: api_key}], token_bucket: {max_tokens: 9, tokens_per_fill: 19, fill_interval: 60s}}"
    setup.put(ROUTES.replace("          - entries: [{key", f"          {every}\n          - entries: [{{key", 1))
    assert not await setup.action.plan(an_alert(tags={"api_key": "k2"}), NORMAL)
    low = TargetRate("shave", requests_per_minute=7.0)
    assert (await setup.plan("k2", low)).summary == "limit k2: requests per minute 19 → 7 at models"


async def test_a_blocked_subject_is_left_alone(setup: Setup) -> None:
    await setup.action.apply(await setup.plan("k2", BLOCK))
    for rate in (NORMAL, BLOCK):
        assert not await setup.action.plan(an_alert(tags={"api_key": "k2"}), rate)


async def test_a_limit_is_in_force_only_when_envoy_took_it(setup: Setup) -> None:
    plan = await setup.plan()
    setup.fake.frozen = True
    await setup.action.apply(plan)
    effect = await setup.action.verify(plan)
    assert (effect.in_force, effect.values) == (False, plan.after)
    assert effect.detail == "Envoy has not taken what the file says"
    with pytest.raises(TransientError, match="does not hold"):
        await setup.plan("k2", BLOCK)
    setup.fake.frozen = False
    assert (await setup.action.verify(plan)).in_force


async def test_undo_is_over_only_when_envoy_took_it(setup: Setup) -> None:
    plan = await setup.plan()
    await setup.action.apply(plan)
    assert (await setup.action.verify(plan)).in_force
    setup.fake.frozen = True
    with pytest.raises(TransientError, match="does not hold"):
        await setup.action.undo(plan, None)
    assert setup.path.read_text() == ROUTES
    setup.fake.frozen = False
    await setup.action.undo(plan, None)


async def test_what_others_wrote_meanwhile_stays(setup: Setup) -> None:
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.put(setup.path.read_text().replace("# everything", "# all of it").replace("max_tokens: 5", "max_tokens: 6"))
    await setup.action.undo(plan, None)
    assert setup.path.read_text() == ROUTES.replace("# everything", "# all of it").replace(
        "max_tokens: 5", "max_tokens: 6"
    )


async def test_a_limit_that_was_changed_before_it_is_applied_is_not_overwritten(setup: Setup) -> None:
    plan = await setup.plan("k1")
    setup.put(ROUTES.replace("max_tokens:  600", "max_tokens:  500"))
    with pytest.raises(PermanentError, match="changed since it was planned"):
        await setup.action.apply(plan)


async def test_a_limit_that_somebody_removed_needs_no_undo(setup: Setup) -> None:
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.put(ROUTES)
    await setup.action.undo(plan, None)
    assert setup.path.read_text() == ROUTES


async def test_drift_says_what_was_found(setup: Setup) -> None:
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.change_by_hand()
    with pytest.raises(DriftError) as caught:
        await setup.action.undo(plan, None)
    found: dict[str, Any] = caught.value.found
    assert found == {"token_bucket": '{"max_tokens": 9, "tokens_per_fill": 1, "fill_interval": "3s"}'}


async def test_refused_requests_are_counted_while_there_is_one_limit_only(setup: Setup) -> None:
    start = ROUTES.index("        descriptors:")
    setup.put(ROUTES[:start] + "        descriptors: []\n")
    plan = await setup.plan()
    await setup.action.apply(plan)
    setup.fake.refused += 5
    assert (await setup.action.verify(plan)).rejected == 5
    await setup.action.apply(await setup.plan("k1"))
    assert (await setup.action.verify(plan)).rejected is None
