"""What an API server of Kubernetes answers to Curb: lists, changes, and refusals of every kind."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from msgspec.structs import replace

from curb.actions.target import TargetRate
from curb.actions.workloads.kubernetes import Kubernetes
from curb.connectors.gpus.kubernetes_api import KubernetesApi, KubernetesSettings
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Plan
from tests.answers import Exchange, Stories
from tests.fakes.alerts import NORMAL, an_alert
from tests.real.capture.recorder import Recorder
from tests.real.kubernetes_cluster import LABELS, OBJECTS, POD, Cluster, RefusedError, a_cluster
from tests.real.kubernetes_world import until

SEARCH = an_alert(tags={"team": "search"})
PAUSE = TargetRate("pause")
_ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic{}"


async def capture(directory: Path) -> tuple[str, Stories]:
    """From the API server that CURB_TEST_KUBERNETES names."""
    async with a_cluster() as cluster, aiohttp.ClientSession() as http:
        recorder = Recorder(cluster.url, cluster.tls)
        recorder.words[cluster.namespace] = "answers"
        version = (await cluster.ask("GET", "/version"))["gitVersion"].removeprefix("v")
        async with recorder.serve() as url:
            await _prepare(cluster)
            try:
                await _stories(cluster, recorder, http, url, directory)
            finally:
                await cluster.ask("DELETE", f"/api/v1/nodes/{cluster.namespace}")
    return f"kube-apiserver {version}", recorder.done()


async def _prepare(cluster: Cluster) -> None:
    """One object of each kind, that its controller has looked at, and a pod on a node."""
    for path in OBJECTS:
        await cluster.make(path.rpartition("/")[2])
    await cluster.ask("POST", "/api/v1/nodes", {"metadata": {"name": cluster.namespace, "labels": {"pool": "gpu"}}})
    owner = await cluster.get("cronjobs")  # whose controller does not look at pods
    owned = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": owner["metadata"]["uid"]}
    meta = {"name": "reader", "labels": LABELS, "ownerReferences": [owned | {"controller": True}]}
    body = {"metadata": meta, "spec": POD["spec"] | {"nodeName": cluster.namespace}}
    await cluster.ask("POST", f"/api/v1/namespaces/{cluster.namespace}/pods", body)
    await until(partial(_is_settled, cluster))


async def _is_settled(cluster: Cluster) -> bool:
    """What a controller adds to each kind of object is there."""
    added = {
        "jobs": ("active", "ready", "uncountedTerminatedPods"),
        "deployments": ("conditions", "unavailableReplicas"),
        "statefulsets": ("collisionCount", "currentRevision"),
        "horizontalpodautoscalers": ("conditions",),
    }
    found = {resource: (await cluster.get(resource))["status"] for resource in added}
    return all(key in found[resource] for resource, every in added.items() for key in every)


async def _stories(
    cluster: Cluster, recorder: Recorder, http: aiohttp.ClientSession, url: str, directory: Path
) -> None:
    clock, story, where = WallClock(), recorder.story, {"url": url}
    action = cluster.action(http, clock, cluster=where)
    plans = await story("list", partial(action.plan, SEARCH, PAUSE))
    job, deployment = (next(p for p in plans if f"/{each}/" in p.target) for each in ("jobs", "deployments"))
    await story("hold_job", partial(action.apply, job), tries=9)
    await _until_status(cluster, "jobs", lambda status: "conditions" in status and not status.get("active"))
    await story("resume_job", partial(action.undo, job, None), tries=9)
    await story("scale_down", partial(action.apply, deployment), tries=9)
    await _until_status(cluster, "deployments", lambda status: "replicas" not in status)
    await story("scale_up", partial(action.undo, deployment, None), tries=9)
    await _until_status(cluster, "jobs", lambda status: bool(status.get("active")))
    await _refused_changes(action, job, recorder)
    await story("gone", partial(action.read, replace(job, target=job.target.replace("/train", "/gone"))))
    workflows = cluster.action(http, clock, cluster=where, objects=["workflows"])
    await story("no_such_version", partial(workflows.plan, SEARCH, PAUSE), PermanentError)
    pods = KubernetesApi(KubernetesSettings(url=url, account=cluster.account), http, clock)
    await story("pods", pods.refresh)
    _without_others(recorder.stories["pods"], cluster.namespace)
    account = cluster.copy_of_account(directory)
    stranger = cluster.action(http, clock, account, cluster=where, objects=["jobs"])
    (account / "token").write_text("x.y.z")
    await story("unauthorized", partial(stranger.plan, SEARCH, PAUSE), PermanentError)
    (account / "token").write_text(await _token_of_nobody(cluster))
    await story("forbidden", partial(stranger.plan, SEARCH, PAUSE), PermanentError)
    async with _denied(cluster):
        await story("denied", partial(action.apply, job), PermanentError)


async def _until_status(cluster: Cluster, resource: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """The controller has followed, so that the next answer has the same keys every time."""

    async def look() -> bool:
        return is_so((await cluster.get(resource))["status"])

    await until(look)


async def _refused_changes(action: Kubernetes, job: Plan, recorder: Recorder) -> None:
    """Somebody was faster, it is another object by now, and a value that the server finds wrong."""
    seen = await action.read(job)
    assert seen is not None
    write = partial(action.write, job, job.after)
    await recorder.story("conflict", partial(write, seen._replace(version="1")), TransientError)
    other = seen._replace(identity="00000000-0000-4000-8000-000000000000")
    await recorder.story("another_object", partial(write, other), PermanentError)
    shaves = await action.plan(SEARCH, NORMAL)
    scaler = next(plan for plan in shaves if "/horizontalpodautoscalers/" in plan.target)
    seen = await action.read(scaler)
    assert seen is not None
    await recorder.story("invalid", partial(action.write, scaler, {"maxReplicas": 0}, seen), PermanentError)


def _without_others(exchanges: list[Exchange], namespace: str) -> None:
    """What else is in the cluster is nobody's business."""
    for each in exchanges:
        each.body["items"] = [item for item in each.body["items"] if _is_own(item["metadata"], namespace)]


def _is_own(meta: dict[str, Any], namespace: str) -> bool:
    return namespace in (meta["name"], meta.get("namespace"))


async def _token_of_nobody(cluster: Cluster) -> str:
    """Of an account without any right."""
    accounts = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts"
    await cluster.ask("POST", accounts, {"metadata": {"name": "nobody"}})
    made = await cluster.ask("POST", f"{accounts}/nobody/token", {"spec": {"expirationSeconds": 3600}})
    return str(made["status"]["token"])


@contextlib.asynccontextmanager
async def _denied(cluster: Cluster) -> AsyncIterator[None]:
    """A policy of the cluster lets nobody change a job in the namespace; once it is in force."""
    name = cluster.namespace
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["jobs"]}
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}
    policy = {
        "matchConstraints": {"resourceRules": [rule]} | where,
        "validations": [{"expression": "false", "message": "nothing changes before the quarter is closed"}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    for kind, spec in (("ies", policy), ("ybindings", binding)):
        await cluster.ask("POST", _ADMISSION.format(kind), {"metadata": {"name": name}, "spec": spec})
    try:
        await until(partial(_is_denied, cluster))
        yield
    finally:
        for kind in ("ybindings", "ies"):
            await cluster.ask("DELETE", f"{_ADMISSION.format(kind)}/{name}")


async def _is_denied(cluster: Cluster) -> bool:
    try:
        patch = {"metadata": {"labels": {"a": "b"}}}
        await cluster.ask("PATCH", f"{cluster.path('jobs')}/{cluster.name('jobs')}?dryRun=All", patch)
    except RefusedError:
        return True
    return False
