"""Kinds of operators on a real API server, with the schemas of their own definitions; the operators do not run.

Each is asked for in every version in which the server has it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
import pytest

from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes_levers import LEVERS, Lever
from curb.stream.clock import WallClock
from tests.fakes.alerts import an_alert
from tests.real.kubernetes_cluster import LABELS, POD, Cluster, RefusedError, a_cluster
from tests.real.kubernetes_world import until
from tests.real.test_kubernetes import until_it_works
from tests.require import require

pytestmark = pytest.mark.real

_POD = {"spec": {"restartPolicy": "Never", "containers": [{"name": "pytorch", "image": "registry.invalid/none"}]}}
_RAY = {"headGroupSpec": {"rayStartParams": {}, "template": POD}}
_TRIGGERS = [{"type": "cron", "metadata": {"timezone": "UTC", "start": "0 6 * * *", "end": "0 20 * * *"}}]
#: Resource → the least that its operator takes.
SPECS: dict[str, dict[str, Any]] = {
    "workloads": {"queueName": "spare", "podSets": [{"name": "main", "count": 1, "template": POD}]},
    "localqueues": {"clusterQueue": "spare"},
    "clusterqueues": {},
    "rayjobs": {"entrypoint": "python tune.py", "rayClusterSpec": _RAY},
    "scaledobjects": {"scaleTargetRef": {"name": "consumer"}, "triggers": _TRIGGERS},
    "scaledjobs": {"jobTargetRef": {"template": POD}, "triggers": _TRIGGERS},
    "pytorchjobs": {"runPolicy": {}, "pytorchReplicaSpecs": {"Master": {"replicas": 1, "template": _POD}}},
}
#: No release of Kueue serves v1 yet.
_CASES = [
    (each, v) for each in SPECS for v in LEVERS[each].versions if (LEVERS[each].group, v) != ("kueue.x-k8s.io", "v1")
]


async def is_served(cluster: Cluster, resource: str, version: str) -> bool:
    try:
        listed = await cluster.ask("GET", f"/apis/{LEVERS[resource].group}/{version}")
    except RefusedError:
        return False
    return resource in [each["name"] for each in listed["resources"]]


def value_of(lever: Lever, found: Any) -> Any:
    """Of the field, or of the annotation that stands for it."""
    if lever.annotation:
        return found["metadata"].get("annotations", {}).get(lever.annotation)
    for each in ["spec", *lever.field.split(".")]:
        found = {} if found is None else found.get(each)
    return found


async def made(cluster: Cluster, resource: str, lever: Lever, version: str) -> str:
    """The path of a new object."""
    within = f"namespaces/{cluster.namespace}/" if lever.namespaced else ""
    path = f"/apis/{lever.group}/{version}/{within}{resource}"
    body = {"apiVersion": f"{lever.group}/{version}", "kind": lever.kind, "spec": SPECS[resource]}
    await cluster.ask("POST", path, body | {"metadata": {"name": cluster.namespace, "labels": LABELS}})
    return f"{path}/{cluster.namespace}"


@pytest.mark.parametrize(("resource", "version"), _CASES)
async def test_an_operator_s_object_is_held_and_given_back(resource: str, version: str) -> None:
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        lever = LEVERS[resource]
        if not await is_served(cluster, resource, version):
            require("kubernetes", f"the API server has no {resource} in {lever.group}/{version}: install the operator")
        path = await made(cluster, resource, lever, version)
        before = await cluster.ask("GET", path)
        action = cluster.action(http, WallClock(), objects=[resource])
        (plan,) = await action.plan(an_alert(tags={"team": "search"}), TargetRate("pause"))
        await until_it_works(partial(action.apply, plan))
        assert (await action.verify(plan)).in_force
        held = await cluster.ask("GET", path)
        assert held["metadata"]["annotations"]["curb.dev/held-by"] == "curb/work"
        assert value_of(lever, held) == plan.after[lever.field]
        await until_it_works(partial(action.undo, plan, None))
        after = await cluster.ask("GET", path)
        assert value_of(lever, after) == plan.before[lever.field] == (value_of(lever, before) or lever.unset)
        assert "annotations" not in after["metadata"]
        await cluster.ask("DELETE", path)


async def test_an_operator_that_is_upgraded_kind_by_kind() -> None:
    """Workloads are no longer served in the version in which they were held, and queues are."""
    from tests.real.test_kubernetes_stories import is_ours, serve

    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        if not await is_ours(cluster):
            require("kubernetes", "the API server has no Kueue that tests may change: run `make real`")
        action = cluster.action(http, WallClock(), objects=["workloads"])
        for held_in, given_back_in in (("v1beta1", "v1beta2"), ("v1beta2", "v1beta1")):
            try:
                await serve(cluster, held_in)
                path = await made(cluster, "workloads", LEVERS["workloads"], held_in)
                plans: list[Any] = []

                async def is_planned(plans: list[Any] = plans) -> bool:
                    plans[:] = await action.plan(an_alert(tags={"team": "search"}), TargetRate("pause"))
                    return len(plans) == 1

                await until(is_planned)
                await until_it_works(partial(action.apply, plans[0]))
                await serve(cluster, given_back_in)
                await until_it_works(partial(action.undo, plans[0], None))
                other = path.replace(held_in, given_back_in)
                assert (await cluster.ask("GET", other))["spec"]["active"] is True
                await cluster.ask("DELETE", other)
            finally:
                await serve(cluster, "v1beta1", "v1beta2")
