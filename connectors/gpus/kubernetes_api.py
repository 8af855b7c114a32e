"""Reads pods, namespaces and nodes from the Kubernetes API: three lists, read only.

Of a pod only names, labels, owner and node are decoded; its environment and arguments are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import aiohttp
import msgspec
from pydantic import Field

from curb.connectors.connector import Check
from curb.stream.clients.kubernetes import KubernetesAccess, KubernetesClient
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

#: A pod that ended is remembered for so long: metrics of it come later than its end.
_REMEMBERED_S = 3600.0


class KubernetesSettings(KubernetesAccess):
    """Where the API server is and how Curb shows who it is; it needs `list` on pods, namespaces and nodes."""

    refresh_s: float = Field(60.0, ge=5, le=3600, description="How old the lists may become.")


class Pod(NamedTuple):
    """What an owner is found by. `owner` is (kind, name) of what made the pod, or two empty texts."""

    labels: dict[str, str]
    node: str
    owner: tuple[str, str]


class Cluster(NamedTuple):
    """Pods by (namespace, name); labels of namespaces and nodes by name."""

    pods: dict[tuple[str, str], Pod]
    namespaces: dict[str, dict[str, str]]
    nodes: dict[str, dict[str, str]]

    def node_of_pod(self, name: str) -> str:
        """The node of the pod of this name in any namespace; empty if there is none, or more than one answer."""
        found = {pod.node for (_, pod_name), pod in self.pods.items() if pod_name == name}
        return found.pop() if len(found) == 1 else ""


#: Nothing is known.
NO_CLUSTER = Cluster({}, {}, {})


class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    ownerReferences: list[_Owner] = []


class _Spec(msgspec.Struct):
    nodeName: str = ""


class _Item(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decoder = msgspec.json.Decoder(_Item)


class KubernetesApi:
    """Keeps one picture of the cluster and renews it when asked and due."""

    def __init__(self, settings: KubernetesSettings, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._client = KubernetesClient(settings, http, clock)
        self._cluster = NO_CLUSTER
        self._seen: dict[tuple[str, str], float] = {}
        self._fresh_until = 0.0

    @property
    def cluster(self) -> Cluster:
        """The last picture, however old; empty before the first."""
        return self._cluster

    async def refresh(self) -> None:
        """Renew the picture if it is due. Raises TransientError or PermanentError; the old picture then stays."""
        now = self._clock.now()
        if now < self._fresh_until:
            return
        pods = {
            (item.metadata.namespace, item.metadata.name): _pod(item)
            async for item in self._list("/api/v1/pods", fieldSelector="spec.nodeName!=")
        }
        namespaces = {i.metadata.name: i.metadata.labels async for i in self._list("/api/v1/namespaces")}
        nodes = {i.metadata.name: i.metadata.labels async for i in self._list("/api/v1/nodes")}
        self._seen = {key: at for key, at in self._seen.items() if now - at <= _REMEMBERED_S} | dict.fromkeys(pods, now)
        ended = {key: pod for key, pod in self._cluster.pods.items() if key in self._seen and key not in pods}
        self._cluster = Cluster({**ended, **pods}, namespaces, nodes)
        self._fresh_until = now + self._settings.refresh_s

    async def check(self) -> list[Check]:
        """Whether each of the lists may be read."""
        checks = []
        for kind in ("pods", "namespaces", "nodes"):
            what = f"list {kind} of {self._settings.kubeconfig or self._settings.url}"
            try:
                await self._client.request("GET", f"/api/v1/{kind}", query={"limit": "1"})
                checks.append(Check(what, True))
            except (PermanentError, TransientError) as error:
                checks.append(Check(what, False, str(error), f"list {kind} (cluster role)"))
        return checks

    async def _list(self, path: str, **query: str) -> AsyncIterator[_Item]:
        async for item in self._client.items(path, **query):
            try:
                yield _decoder.decode(item)
            except msgspec.DecodeError as error:
                raise TransientError(f"GET {path}: the list is not readable") from error


def _pod(item: _Item) -> Pod:
    owner = next((each for each in item.metadata.ownerReferences if each.controller), _Owner())
    return Pod(item.metadata.labels, item.spec.nodeName, (owner.kind, owner.name))
