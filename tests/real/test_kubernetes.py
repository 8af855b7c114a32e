"""Objects of a real Kubernetes API server, held back and given back; controllers and nodes are not needed.

Switch it on with `CURB_TEST_KUBERNETES=URL,DIRECTORY`: the address of an API server and a directory with a `token` that
may create namespaces, and `ca.crt` where the certificate is not a public one. A namespace is made and deleted.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curb.actions.action import ActionContext, DriftError
from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes import Config, Kubernetes
from curb.actions.workloads.protocol import Seen
from curb.stream.clock import WallClock
from curb.stream.errors import TransientError
from tests.fakes.alerts import NORMAL, an_alert
from tests.require import require

pytestmark = pytest.mark.real

PAUSE = TargetRate("pause")
SEARCH = an_alert(tags={"team": "search"})
LABELS = {"team": "search", "curb.dev/criticality": "non-critical"}
POD = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "registry.invalid/none"}]}}
SELECTOR = {"selector": {"matchLabels": {"a": "b"}}}
TEMPLATE = {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": POD["spec"]["containers"]}}}
TARGET = {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "elsewhere"}}
OBJECTS = {
    "/apis/batch/v1/{}/jobs": ("Job", "train", {"template": POD}),
    "/apis/batch/v1/{}/cronjobs": (
        "CronJob", "nightly", {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": POD}}}
    ),
    "/apis/apps/v1/{}/deployments": ("Deployment", "embedder", {"replicas": 3, **SELECTOR, **TEMPLATE}),
    "/apis/apps/v1/{}/statefulsets": (
        "StatefulSet", "crawler", {"replicas": 2, "serviceName": "x", **SELECTOR, **TEMPLATE}
    ),
    "/apis/autoscaling/v2/{}/horizontalpodautoscalers": (
        "HorizontalPodAutoscaler", "web", {"minReplicas": 2, "maxReplicas": 9, **TARGET}
    ),
}  # fmt: skip


class Cluster:
    """An API server, and a namespace in it."""

    def __init__(self, url: str, account: Path, http: aiohttp.ClientSession) -> None:
        self.url, self.account, self._http = url, account, http
        self.namespace = f"curb-test-{uuid.uuid4().hex[:8]}"

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        authority = self.account / "ca.crt"
        tls = ssl.create_default_context(cafile=str(authority)) if authority.exists() else True
        token = (self.account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.request(method, self.url + path, json=body, headers=headers, ssl=tls) as answer:
            found = await answer.json()
            assert answer.status < 300, found
            return found

    async def spec(self, path: str, name: str) -> Any:
        return (await self.ask("GET", f"{path.format(f'namespaces/{self.namespace}')}/{name}"))["spec"]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    given = os.environ.get("CURB_TEST_KUBERNETES", "")
    url, _, directory = given.partition(",")
    if not directory:
        require(
            "kubernetes", "set CURB_TEST_KUBERNETES=URL,DIRECTORY (an API server; a directory with token and ca.crt)"
        )
    async with aiohttp.ClientSession() as http:
        made = Cluster(url.rstrip("/"), Path(directory), http)
        await made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        for path, (kind, name, spec) in OBJECTS.items():
            body = {"apiVersion": "/".join(path.split("/")[2:4]), "kind": kind, "spec": spec}
            meta = {"name": name, "labels": LABELS}
            await made.ask("POST", path.format(f"namespaces/{made.namespace}"), body | {"metadata": meta})
        yield made
        await made.ask("DELETE", f"/api/v1/namespaces/{made.namespace}")


@pytest.fixture
async def action(cluster: Cluster) -> AsyncIterator[Kubernetes]:
    where = {"url": cluster.url, "account": str(cluster.account)}
    config = {"kind": "kubernetes", "name": "work", "cluster": where, "namespaces": [cluster.namespace]}
    async with aiohttp.ClientSession() as http:
        yield Config.model_validate(config | {"labels": {"team": "team"}}).build(ActionContext(WallClock(), http))


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
