"""Actions on running work touch what is marked and nothing else, whatever happens between plan and apply."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

import pytest
from msgspec import structs

from curb.actions.action import DriftError
from curb.actions.kinds import ACTIONS
from curb.actions.workloads.aws_workload import AwsWorkloadConfig
from curb.actions.workloads.protocol import Seen, WorkloadAction
from curb.stream.errors import PermanentError
from curb.testing.actions import planned
from tests.contract.test_actions import bench_of
from tests.fakes.alerts import an_alert
from tests.fakes.aws_cloud import policy_of_the_page
from tests.fakes.kubernetes_objects import rules_of_the_page

AWS_KINDS = ["aws_batch", "aws_lambda", "ec2", "sagemaker"]
KINDS = [*AWS_KINDS, "kubernetes"]
SEARCH = an_alert(tags={"team": "search"})
every_kind = pytest.mark.parametrize("kind", KINDS)


# --- every kind ---------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("mark", [None, "", "critical", "Non-Critical"])
async def test_what_is_not_marked_is_never_planned(kind: str, mark: str | None, open_action: Any) -> None:
    bench = bench_of(kind)()
    action = await open_action(bench)
    bench.mark_all(mark)
    world = bench.world()
    for alert, rate in bench.cases:
        with pytest.raises(PermanentError, match=r"nothing may be touched: .*not marked non-critical"):
            await action.plan(alert, rate)
    assert bench.world() == world


@every_kind
async def test_a_mark_that_was_taken_off_after_the_plan_is_heeded(kind: str, open_action: Any) -> None:
    bench = bench_of(kind)()
    action = await open_action(bench)
    plans = await planned(bench, action)
    bench.mark_all("critical")
    world = bench.world()
    for plan in plans:
        with pytest.raises(PermanentError, match="not marked non-critical any more"):
            await action.apply(plan)
    assert bench.world() == world


@every_kind
async def test_an_undo_starts_nothing_that_is_marked_critical_by_now(kind: str, open_action: Any) -> None:
    """And gives back what only lost its mark, where it is known to be the same object."""
    bench = bench_of(kind)()
    action = await open_action(bench)
    for plan in await planned(bench, action):
        if not action.restores(plan) or not plan.reversible:
            continue
        await action.apply(plan)
        bench.mark_all("critical")
        world = bench.world()
        with pytest.raises(DriftError, match="marked critical now"):
            await action.undo(plan, None)
        assert bench.world() == world
        bench.mark_all(None)
        world = bench.world()
        with pytest.raises(DriftError, match="may be another of that name"):
            await action.undo(structs.replace(plan, identity=""), None)
        assert bench.world() == world
        bench.mark_all("non-critical")
        await action.undo(plan, None)


@every_kind
async def test_what_was_changed_or_deleted_after_the_plan_is_left_alone(kind: str, open_action: Any) -> None:
    bench = bench_of(kind)()
    action = await open_action(bench)
    for plan in await planned(bench, action):
        if not plan.reversible:
            continue
        await action.apply(plan)
        bench.change_by_hand()
        world = bench.world()
        with pytest.raises(PermanentError, match=r"left alone|no longer exists"):
            await action.apply(plan)
        assert bench.world() == world


@every_kind
async def test_a_plan_says_what_it_is_marked_as_and_how_many_run_there(kind: str, open_action: Any) -> None:
    bench = bench_of(kind)()
    for plan in await planned(bench, await open_action(bench)):
        assert plan.criticality == "non_critical"
        assert plan.population is not None
        assert plan.population >= 1


@every_kind
@pytest.mark.parametrize("tags", [{}, {"model": "gpt"}, {"team": "__untagged__"}, {"team": "__other__"}, {"team": ""}])
async def test_an_alert_without_the_tags_means_nothing(kind: str, tags: dict[str, str], open_action: Any) -> None:
    bench = bench_of(kind)()
    action = await open_action(bench)
    assert await action.plan(an_alert(tags=tags), bench.cases[0][1]) == ()


@every_kind
async def test_at_most_so_many_are_planned(kind: str, open_action: Any) -> None:
    bench = bench_of(kind)()
    action = await open_action(bench, at_most=1)
    assert len(await action.plan(*bench.cases[0])) == 1


@pytest.mark.parametrize("kind", AWS_KINDS)
def test_the_policy_of_the_page_allows_what_is_declared_and_no_more(kind: str) -> None:
    looking, holding = policy_of_the_page(kind)["Statement"]
    action = resolve_name(ACTIONS[kind].replace(":Config", f":{class_of(kind)}"))
    assert sorted(looking["Action"] + holding["Action"]) == sorted(action.permissions)
    assert "Condition" not in looking
    assert all(name.split(":")[1].startswith(("Describe", "List", "Get")) for name in looking["Action"])
    config = ACTIONS.config(kind)
    mark = {config.model_fields["mark_key"].default: config.model_fields["mark_value"].default}
    assert holding["Condition"]["StringEquals"] == {f"aws:ResourceTag/{key}": value for key, value in mark.items()}


def class_of(kind: str) -> str:
    return "".join(word.capitalize() for word in kind.split("_"))


def test_the_roles_of_the_page_allow_what_is_declared_and_no_more() -> None:
    assert rules_of_the_page() == set(resolve_name("curb.actions.workloads.kubernetes:Kubernetes").permissions)


@pytest.mark.parametrize("kind", AWS_KINDS)
async def test_the_policy_refuses_what_is_not_marked_whatever_curb_does(kind: str, open_action: Any) -> None:
    bench = bench_of(kind)()
    action: WorkloadAction = await open_action(bench)
    plans = await planned(bench, action)
    bench.mark_all(None)
    world = bench.world()
    for plan in plans:
        seen = await action.read(plan)
        assert seen is not None
        with pytest.raises(PermanentError, match="AccessDenied"):
            await action.write(plan, plan.after, Seen(seen.values, True, seen.version))
    assert bench.world() == world


@pytest.mark.parametrize("kind", AWS_KINDS)
def test_tags_that_tell_the_objects_must_be_given(kind: str) -> None:
    config: type[AwsWorkloadConfig] = ACTIONS.config(kind)
    with pytest.raises(ValueError, match="tags"):
        config.model_validate({"kind": kind, "name": "x", "tags": {}})
