"""Objects of a real Kubernetes API server, held back and given back; controllers and nodes are not needed.

Switch it on with `CURB_TEST_KUBERNETES=URL,DIRECTORY`: the address of an API server and a directory with a `token` that
may create namespaces, and `ca.crt` where the certificate is not a public one. A namespace is made and deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curb.actions.action import DriftError
from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes import Kubernetes
from curb.actions.workloads.protocol import Seen
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from tests.fakes.alerts import NORMAL, an_alert
from tests.real.kubernetes_cluster import LABELS, OBJECTS, Cluster, a_cluster

pytestmark = pytest.mark.real

PAUSE = TargetRate("pause")
SEARCH = an_alert(tags={"team": "search"})


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as made:
        for path in OBJECTS:
            await made.make(path.rpartition("/")[2])
        yield made


@pytest.fixture
async def action(cluster: Cluster) -> AsyncIterator[Kubernetes]:
    async with aiohttp.ClientSession() as http:
        yield cluster.action(http, WallClock())


async def until_it_works(call: Callable[[], Awaitable[Any]]) -> None:
    """As a runner does: a controller may write the object's status between reading and writing it."""
    tries = 0
    while True:
        try:
            await call()
            return
        except TransientError:
            tries += 1
            if tries == 50:
                raise
            await asyncio.sleep(0.2)


async def test_every_kind_of_object_is_held_and_given_back(cluster: Cluster, action: Kubernetes) -> None:
    before = {path: await cluster.spec(path, name) for path, (_, name, _) in OBJECTS.items()}
    plans = [*await action.plan(SEARCH, PAUSE), *await action.plan(SEARCH, NORMAL)]
    seen = {(plan.target.split("/")[3], *plan.after.items()) for plan in plans}
    assert seen == {
        ("jobs", ("suspend", True)),
        ("cronjobs", ("suspend", True)),
        ("deployments", ("replicas", 0)),
        ("deployments", ("replicas", 1)),
        ("statefulsets", ("replicas", 0)),
        ("statefulsets", ("replicas", 1)),
        ("horizontalpodautoscalers", ("maxReplicas", 2)),
    }
    for plan in plans:
        await until_it_works(partial(action.apply, plan))
        assert (await action.verify(plan)).in_force
        await until_it_works(partial(action.undo, plan, None))
        await action.undo(plan, None)
    assert {path: await cluster.spec(path, name) for path, (_, name, _) in OBJECTS.items()} == before


async def test_the_server_refuses_a_version_that_is_not_the_newest(cluster: Cluster, action: Kubernetes) -> None:
    for plan in await action.plan(SEARCH, PAUSE):
        seen = await action.read(plan)
        assert seen is not None
        await until_it_works(partial(action.apply, plan))
        with pytest.raises(TransientError, match="409"):
            await action.write(plan, plan.before, Seen(seen.values, True, seen.version))
        assert (await action.verify(plan)).in_force


async def test_an_object_that_is_deleted_is_drift(cluster: Cluster, action: Kubernetes) -> None:
    (plan,) = [plan for plan in await action.plan(SEARCH, PAUSE) if "/deployments/" in plan.target]
    await until_it_works(partial(action.apply, plan))
    await cluster.ask("DELETE", f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/embedder")
    with pytest.raises(DriftError, match="no longer exists"):
        await action.undo(plan, None)


async def test_another_object_of_the_same_name_is_left_alone(cluster: Cluster, action: Kubernetes) -> None:
    """Its owner makes it suspended and marks it critical: with the values that Curb set, and not Curb's."""
    (plan,) = [plan for plan in await action.plan(SEARCH, PAUSE) if "/jobs/" in plan.target]
    await until_it_works(partial(action.apply, plan))
    held = await cluster.get("jobs")
    assert held["metadata"]["annotations"]["curb.dev/held-by"] == "curb/work"
    await cluster.delete("jobs")
    await cluster.make("jobs", LABELS | {"curb.dev/criticality": "critical"}, suspend=True)
    made = await cluster.get("jobs")
    assert not (await action.verify(plan)).in_force
    with pytest.raises(DriftError, match="made again under the same name"):
        await action.undo(plan, None)
    # Had it become another one since it was read, the server would refuse.
    seen = await action.read(plan)
    assert seen is not None
    with pytest.raises((TransientError, PermanentError), match=r"HTTP (409|422): .*uid"):
        await action.write(plan, plan.before, seen._replace(identity=plan.identity))
    now = await cluster.get("jobs")
    assert (now["spec"]["suspend"], now["metadata"]["uid"]) == (True, made["metadata"]["uid"])


async def test_what_is_held_shows_an_event(cluster: Cluster, action: Kubernetes) -> None:
    for plan in await action.plan(SEARCH, PAUSE):
        await until_it_works(partial(action.apply, plan))
        await until_it_works(partial(action.undo, plan, None))
    events = (await cluster.ask("GET", f"/api/v1/namespaces/{cluster.namespace}/events"))["items"]
    by_curb = [(e["involvedObject"]["kind"], e["reason"]) for e in events if e["source"].get("component") == "curb"]
    kinds = ("CronJob", "Deployment", "Job", "StatefulSet")
    assert sorted(by_curb) == [(kind, reason) for kind in kinds for reason in ("GivenBackByCurb", "HeldByCurb")]
    for resource in ("jobs", "cronjobs"):
        assert "annotations" not in (await cluster.get(resource))["metadata"]


async def test_the_server_s_reason_for_a_refusal_is_passed_on(cluster: Cluster, tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        account = cluster.copy_of_account(tmp_path / "account")
        action = cluster.action(http, WallClock(), account)
        (account / "token").write_text("x.y.z")
        with pytest.raises(PermanentError, match="HTTP 401: Unauthorized"):
            await action.plan(SEARCH, PAUSE)
        workflows = cluster.action(http, WallClock(), objects=["workflows", "jobs"])
        (plan,) = await workflows.plan(SEARCH, PAUSE)
        assert "workflows were not looked at" in plan.warning
