"""A real Kubernetes API server, and a namespace in it that is made and deleted; no node is needed."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from curb.actions.action import ActionContext
from curb.actions.workloads.kubernetes import Config, Kubernetes
from curb.stream.clock import Clock
from tests.require import require

HOW = "set CURB_TEST_KUBERNETES=URL,DIRECTORY (an API server; a directory with token and ca.crt)"
LABELS = {"team": "search", "curb.dev/criticality": "non-critical"}
#: With what nobody should look at.
_CONTAINER = {"name": "c", "image": "registry.invalid/none", "env": [{"name": "PASSWORD", "value": "hunter2"}]}
POD = {"spec": {"restartPolicy": "Never", "containers": [_CONTAINER]}}
SELECTOR = {"selector": {"matchLabels": {"a": "b"}}}
TEMPLATE = {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [_CONTAINER]}}}
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
#: What clusters with an operator have as well.
OPERATED = {
    "/apis/kueue.x-k8s.io/v1beta2/{}/workloads": (
        "Workload", "job-train", {"queueName": "spare", "podSets": [{"name": "main", "count": 1, "template": POD}]}
    ),
}  # fmt: skip
_KINDS = {path.rpartition("/")[2]: (path, *value) for path, value in (OBJECTS | OPERATED).items()}


class RefusedError(AssertionError):
    """The API server does not do it."""


class Cluster:
    """An API server, and a namespace in it."""

    def __init__(self, url: str, account: Path, http: aiohttp.ClientSession) -> None:
        self.url, self.account, self._http = url, account, http
        authority = account / "ca.crt"
        self.tls = ssl.create_default_context(cafile=str(authority)) if authority.exists() else True
        #: Resource → the version in which these tests ask for it, where it is not the usual one.
        self.versions: dict[str, str] = {}
        self.namespace = f"curb-test-{uuid.uuid4().hex[:8]}"

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        token = (self.account / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
        async with self._http.request(method, self.url + path, json=body, headers=headers, ssl=self.tls) as answer:
            if answer.status >= 300:
                raise RefusedError(await answer.text())
            return await answer.json()

    async def spec(self, path: str, name: str) -> Any:
        return (await self.ask("GET", f"{path.format(f'namespaces/{self.namespace}')}/{name}"))["spec"]

    def path(self, resource: str, namespace: str = "") -> str:
        """Of the objects of a kind, in the namespace."""
        path = _KINDS[resource][0].format(f"namespaces/{namespace or self.namespace}")
        parts = path.split("/")
        parts[3] = self.versions.get(resource, parts[3])
        return "/".join(parts)

    def name(self, resource: str) -> str:
        return _KINDS[resource][2]

    async def make(
        self, resource: str, labels: dict[str, str] | None = None, *, name: str = "", namespace: str = "", **spec: Any
    ) -> Any:
        _, kind, usual, given = _KINDS[resource]
        path = self.path(resource, namespace)
        body = {"apiVersion": "/".join(path.split("/")[2:4]), "kind": kind, "spec": given | spec}
        return await self.ask("POST", path, body | {"metadata": {"name": name or usual, "labels": labels or LABELS}})

    async def change(self, resource: str, patch: Any) -> Any:
        return await self.ask("PATCH", f"{self.path(resource)}/{self.name(resource)}", patch)

    async def get(self, resource: str, *, name: str = "", namespace: str = "") -> Any:
        """None when it is gone."""
        items = (await self.ask("GET", self.path(resource, namespace)))["items"]
        return next((each for each in items if each["metadata"]["name"] == (name or self.name(resource))), None)

    async def delete(self, resource: str) -> None:
        """Until it is gone."""
        place = f"{self.path(resource)}/{self.name(resource)}"
        await self.ask("DELETE", f"{place}?propagationPolicy=Background")
        while await self.get(resource) is not None:
            await asyncio.sleep(0.05)

    def copy_of_account(self, directory: Path) -> Path:
        """A directory whose token a test may make bad."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("token", "ca.crt"):
            if (self.account / name).exists():
                shutil.copy(self.account / name, directory / name)
        return directory

    def action(self, http: aiohttp.ClientSession, clock: Clock, account: Path | None = None, **more: Any) -> Kubernetes:
        where = {"url": self.url, "account": str(account or self.account)} | more.pop("cluster", {})
        config = {"kind": "kubernetes", "name": "work", "cluster": where, "namespaces": [self.namespace]}
        return Config.model_validate(config | {"labels": {"team": "team"}} | more).build(ActionContext(clock, http))


@asynccontextmanager
async def a_cluster() -> AsyncIterator[Cluster]:
    """With an empty namespace."""
    url, _, directory = os.environ.get("CURB_TEST_KUBERNETES", "").partition(",")
    if not directory:
        require("kubernetes", HOW)
    async with aiohttp.ClientSession() as http:
        made = Cluster(url.rstrip("/"), Path(directory), http)
        await made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
        yield made
        await made.ask("DELETE", f"/api/v1/namespaces/{made.namespace}")
