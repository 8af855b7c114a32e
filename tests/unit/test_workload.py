"""Holding back one object, field by field, and what each kind of Kubernetes object is set to."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest

from curb.actions.action import DriftError
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.kubernetes_levers import LEVERS, decoder, is_running, owner_refusal, value_of, wanted_value
from curb.actions.workloads.protocol import Found, Seen, WorkloadAction, wanted_tags
from curb.stream.errors import PermanentError
from curb.stream.records.spend import Alert, Plan
from tests.fakes.alerts import NORMAL, an_alert

PAUSE = TargetRate("pause")


class Machines(WorkloadAction):
    """Objects in memory; writes of a field in `broken` are refused."""

    permissions: ClassVar[tuple[str, ...]] = ()
    verbs: ClassVar[frozenset[Verb]] = frozenset({"pause"})

    def __init__(self, found: list[Found] | None, **world: Any) -> None:
        super().__init__("x", 2)
        self.found, self.world, self.broken = found, world, ""

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        return self.found

    async def read(self, plan: Plan) -> Seen | None:
        return Seen({field: self.world[field] for field in plan.after}, True) if self.world else None

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        for field, value in values.items():
            if field == self.broken and value == plan.after[field]:
                raise PermanentError("not allowed")
            self.world[field] = value

    async def close(self) -> None:
        """Nothing is held."""


def found(target: str, **changes: Any) -> Found:
    return Found(target, f"machine {target}", {"size": 4}, {"size": 1})._replace(**changes)


async def test_plans_come_in_order_and_no_more_than_at_most() -> None:
    plans = await Machines([found("c"), found("a"), found("b")]).plan(an_alert(), PAUSE)
    assert [plan.target for plan in plans] == ["a", "b"]
    assert plans[0].summary == "machine a: size 4 → 1"


async def test_what_is_left_alone_is_named_by_reason_and_counted() -> None:
    refused = [found(str(number), refusal="not marked") for number in range(5)]
    (plan,) = await Machines([found("a", warning="Careful."), *refused]).plan(an_alert(), PAUSE)
    assert plan.warning == "Careful. Left alone: machine 0, machine 1, machine 2 and 2 more (not marked)."


async def test_nothing_there_nothing_allowed_and_nothing_to_do_are_told_apart() -> None:
    with pytest.raises(PermanentError, match="nothing carries the tags"):
        await Machines([]).plan(an_alert(), PAUSE)
    with pytest.raises(PermanentError, match=r"nothing may be touched: machine a \(not marked\)"):
        await Machines([found("a", refusal="not marked")]).plan(an_alert(), PAUSE)
    assert await Machines([found("a", before={}, after={})]).plan(an_alert(), PAUSE) == []
    assert await Machines(None).plan(an_alert(), PAUSE) == ()


PLAN = Plan(action="x", target="a", summary="", before={"size": 4, "max": 9}, after={"size": 1, "max": 2})


async def test_undo_restores_what_is_still_curbs_and_tells_of_the_rest() -> None:
    action = Machines([], size=1, max=7)
    with pytest.raises(DriftError) as caught:
        await action.undo(PLAN, None)
    assert caught.value.found == {"max": 7}
    assert action.world == {"size": 4, "max": 7}


async def test_apply_does_all_or_nothing() -> None:
    action = Machines([], size=4, max=9)
    action.broken = "max"
    with pytest.raises(PermanentError, match="not allowed"):
        await action.apply(PLAN)
    assert action.world == {"size": 4, "max": 9}


async def test_apply_goes_on_where_it_was_interrupted() -> None:
    action = Machines([], size=1, max=9)
    await action.apply(PLAN)
    assert action.world == PLAN.after
    assert (await action.verify(PLAN)).in_force


async def test_what_cannot_be_brought_back_is_not_touched_by_undo() -> None:
    plan = msgspec.structs.replace(PLAN, reversible=False, warning="It is lost.")
    action = Machines([], size=4, max=9)
    assert (await action.apply(plan)).detail == "It is lost."
    await action.undo(plan, None)
    assert action.world == PLAN.after


async def test_what_is_gone() -> None:
    action = Machines([])
    assert not (await action.verify(PLAN)).in_force
    with pytest.raises(PermanentError, match="a no longer exists"):
        await action.apply(PLAN)
    with pytest.raises(DriftError) as caught:
        await action.undo(PLAN, None)
    assert caught.value.found == {"size": None, "max": None}


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"team": "a", "job": "b", "model": "c"}, {"Team": "a", "app": "b"}),
        ({"team": "a"}, {"Team": "a"}),
        ({"model": "c"}, None),
        ({"team": "a", "job": "__untagged__"}, None),
        ({"team": "a", "job": "__other__"}, None),
    ],
)
def test_which_tags_an_object_must_carry(tags: dict[str, str], wanted: dict[str, str] | None) -> None:
    assert wanted_tags({"team": "Team", "job": "app"}, an_alert(tags=tags)) == wanted


# --- kubernetes ---------------------------------------------------------------------------------------------------


def decoded(spec: dict[str, Any], **more: Any) -> Any:
    meta = {"name": "x", "namespace": "ml"} | more.pop("metadata", {})
    return decoder.decode(msgspec.json.encode({"metadata": meta, "spec": spec, **more}))


@pytest.mark.parametrize(
    ("resource", "spec", "rate", "before", "after"),
    [
        ("jobs", {}, PAUSE, False, True),
        ("cronjobs", {"suspend": False}, PAUSE, False, True),
        ("deployments", {}, PAUSE, 1, 0),
        ("deployments", {"replicas": 9}, NORMAL, 9, 2),
        ("deployments", {"replicas": 1}, NORMAL, 1, 1),
        ("statefulsets", {"replicas": 5}, PAUSE, 5, 0),
        ("horizontalpodautoscalers", {"maxReplicas": 20}, NORMAL, 20, 2),
        ("horizontalpodautoscalers", {"maxReplicas": 20, "minReplicas": 6}, NORMAL, 20, 6),
        ("horizontalpodautoscalers", {"maxReplicas": 1, "minReplicas": 1}, NORMAL, 1, 1),
        ("workloads", {}, PAUSE, True, False),
        ("localqueues", {}, PAUSE, "None", "Hold"),
        ("clusterqueues", {"stopPolicy": "None"}, PAUSE, "None", "Hold"),
    ],
)
def test_what_a_field_is_set_to(resource: str, spec: dict[str, Any], rate: TargetRate, before: Any, after: Any) -> None:
    lever, item = LEVERS[resource], decoded(spec)
    assert value_of(lever, item) == before
    assert wanted_value(lever, item, rate, 2) == after


@pytest.mark.parametrize("own", ["many", "-1", "", "٣"])
def test_an_annotation_that_is_no_number_says_nothing(own: str) -> None:
    item = decoded({"replicas": 9}, metadata={"annotations": {"curb.dev/min-replicas": own}})
    assert wanted_value(LEVERS["deployments"], item, NORMAL, 2) == 2


@pytest.mark.parametrize(
    ("resource", "spec", "more"),
    [
        ("jobs", {"suspend": True}, {}),
        ("jobs", {}, {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}),
        ("jobs", {}, {"metadata": {"deletionTimestamp": "2025-06-15T00:00:00Z"}}),
        ("deployments", {"replicas": 0}, {}),
        ("workloads", {"active": False}, {}),
        ("workloads", {}, {"status": {"conditions": [{"type": "Finished", "status": "True"}]}}),
        ("localqueues", {"stopPolicy": "HoldAndDrain"}, {}),
    ],
)
def test_what_is_held_or_over_does_not_run(resource: str, spec: dict[str, Any], more: dict[str, Any]) -> None:
    assert not is_running(LEVERS[resource], decoded(spec, **more))
    assert is_running(LEVERS[resource], decoded({}))


def test_a_workload_always_belongs_to_a_job() -> None:
    owners = {"ownerReferences": [{"kind": "Job", "name": "train", "controller": True}]}
    assert owner_refusal(LEVERS["workloads"], decoded({}, metadata=owners), {}) == ""
    assert owner_refusal(LEVERS["jobs"], decoded({}, metadata=owners), {}) == "Job train decides on it"
