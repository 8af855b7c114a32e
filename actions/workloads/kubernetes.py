"""Holds back non-critical work in a Kubernetes cluster: suspends jobs and queues, scales down, lowers autoscalers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, Literal

import aiohttp
import msgspec
from pydantic import Field, field_validator, model_validator
from yarl import URL

from curb.actions.action import ActionContext
from curb.actions.target import TargetRate, Verb
from curb.actions.workloads.kubernetes_levers import (
    LEVERS,
    Lever,
    Object,
    decoder,
    is_running,
    owner_refusal,
    scalers,
    value_of,
    wanted_value,
)
from curb.actions.workloads.protocol import (
    UNMARKED,
    Found,
    Seen,
    WorkloadAction,
    WorkloadConfig,
    carries,
    wanted_tags,
)
from curb.stream.clients.kubernetes import KubernetesAccess, KubernetesClient
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

Resource = Literal[
    "jobs",
    "cronjobs",
    "deployments",
    "statefulsets",
    "horizontalpodautoscalers",
    "workloads",
    "localqueues",
    "clusterqueues",
]


class Config(WorkloadConfig):
    """Suspends, scales down or caps objects whose labels say that they are the alert's and not critical."""

    kind: Literal["kubernetes"]
    cluster: KubernetesAccess = Field(default=KubernetesAccess(), description="The API server.")
    namespaces: tuple[str, ...] = Field(
        min_length=1, description="Where objects may be touched. Curb's own and `kube-*` never are."
    )
    labels: dict[str, str] = Field(
        default={}, description="Tag of the alert to the label that carries its value; all must fit."
    )
    namespace_tag: str = Field(
        default="", description="Tag of the alert that holds the namespace, which must be one of `namespaces`."
    )
    mark_label: str = Field(default="curb.dev/criticality", description="Label that marks work that may be stopped.")
    mark_value: str = Field(default="non-critical", min_length=1, description="What it says then.")
    objects: tuple[Resource, ...] = Field(
        default=("jobs", "cronjobs", "deployments", "statefulsets", "horizontalpodautoscalers"),
        min_length=1,
        description="Which kinds of objects. The last three of Kueue need it in the cluster.",
    )
    min_replicas: int = Field(default=1, ge=0, description="Shaving leaves so many replicas.")

    @field_validator("namespaces")
    @classmethod
    def _not_the_system(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for namespace in value:
            if namespace.startswith("kube-") or not namespace:
                raise ValueError(f"namespaces: {namespace!r} is the cluster's own, Curb never touches it")
        return value

    @model_validator(mode="after")
    def _selects(self) -> Config:
        if not self.labels and not self.namespace_tag:
            raise ValueError("labels or namespace_tag: say how an alert's tags select objects")
        return self

    def build(self, context: ActionContext) -> Kubernetes:
        return Kubernetes(self, context.http, context.clock)


class Kubernetes(WorkloadAction):
    """An action on `kubernetes/<API server>/<namespace>/<resource>/<name>`, one field of one object a plan."""

    permissions: ClassVar[tuple[str, ...]] = tuple(
        permission
        for resource, lever in LEVERS.items()
        for permission in (
            f"list {resource}.{lever.group}",
            f"get {resource}.{lever.group}",
            f"patch {resource}{'/' if lever.subresource else ''}{lever.subresource}.{lever.group}",
        )
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"pause", "shave"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config = config
        self._client = KubernetesClient(config.cluster, http, clock)
        self._host = URL(config.cluster.url).host

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        levers = [each for each in self._config.objects if LEVERS[each].verb in (None, rate.verb)]
        wanted = wanted_tags(self._config.labels, alert)
        namespaces = self._namespaces(alert)
        if not levers or namespaces is None or (wanted is None and self._config.labels):
            return None
        objects = {each: [item async for item in self._objects(each, namespaces)] for each in levers}
        autoscaled = scalers(await self._autoscalers(objects, namespaces), rate)
        population = sum(is_running(LEVERS[each], item) for each, items in objects.items() for item in items)
        return [
            self._found(resource, item, rate, autoscaled, population)
            for resource, items in objects.items()
            for item in items
            if carries(item.metadata.labels, wanted or {})
        ]

    def _found(
        self,
        resource: Resource,
        item: Object,
        rate: TargetRate,
        autoscaled: dict[tuple[str, str, str], str],
        population: int,
    ) -> Found:
        lever, meta = LEVERS[resource], item.metadata
        value, after = value_of(lever, item), wanted_value(lever, item, rate, self._config.min_replicas)
        changes = is_running(lever, item) and after != value
        refusal = "" if self._is_marked(item) else UNMARKED
        return Found(
            f"kubernetes/{self._host}/{meta.namespace or '-'}/{resource}/{meta.name}",
            f"{lever.kind} {meta.namespace}/{meta.name}" if meta.namespace else f"{lever.kind} {meta.name}",
            {lever.field: value} if changes else {},
            {lever.field: after} if changes else {},
            refusal=refusal or owner_refusal(lever, item, autoscaled),
            warning=lever.warning,
            population=population,
        )

    async def _autoscalers(self, objects: dict[Resource, list[Object]], namespaces: list[str]) -> list[Object]:
        """Those that were read already, or are to be looked at."""
        resource: Resource = "horizontalpodautoscalers"
        if resource in objects or resource not in self._config.objects:
            return objects.get(resource, [])
        return [item async for item in self._objects(resource, namespaces)]

    async def read(self, plan: Plan) -> Seen | None:
        lever, path = _place(plan)
        answer = await self._client.request("GET", path, also=(404,))
        if answer.status == 404:
            return None
        item = _decoded(answer.body, path)
        return Seen({lever.field: value_of(lever, item)}, self._is_marked(item), item.metadata.resourceVersion)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        """With the version that was read: when somebody was faster the API server refuses, and it is read again."""
        lever, path = _place(plan)
        path += f"/{lever.subresource}" if lever.subresource else ""
        patch = {"metadata": {"resourceVersion": seen.version}, "spec": values}
        answer = await self._client.request("PATCH", path, patch=patch, also=(404,))
        if answer.status == 404:
            raise TransientError(f"PATCH {path}: it went away just now")

    async def close(self) -> None:
        """Nothing is held: the HTTP session belongs to the caller."""

    def _namespaces(self, alert: Alert) -> list[str] | None:
        """Where to look; None when the alert does not say where although it should."""
        own = self._own_namespace()
        allowed = [each for each in self._config.namespaces if each != own]
        tag = self._config.namespace_tag
        if not tag or (tag not in alert.tags and self._config.labels):
            return allowed
        value = alert.tags.get(tag, "")
        return None if value in ("", UNTAGGED, OTHER) else [each for each in allowed if each == value]

    def _own_namespace(self) -> str:
        try:
            return (self._config.cluster.account / "namespace").read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):  # not inside the cluster: nothing of Curb runs there
            return ""

    async def _objects(self, resource: Resource, namespaces: list[str]) -> AsyncIterator[Object]:
        lever = LEVERS[resource]
        paths = [f"{lever.api}/{resource}"]
        if lever.namespaced:
            paths = [f"{lever.api}/namespaces/{namespace}/{resource}" for namespace in namespaces]
        for path in paths:
            async for item in self._client.items(path):
                yield _decoded(bytes(item), path)

    def _is_marked(self, item: Object) -> bool:
        return item.metadata.labels.get(self._config.mark_label) == self._config.mark_value


def _place(plan: Plan) -> tuple[Lever, str]:
    """The lever and the path of a plan's object."""
    _, _, namespace, resource, name = plan.target.split("/")
    lever = LEVERS[resource]
    within = f"namespaces/{namespace}/" if lever.namespaced else ""
    return lever, f"{lever.api}/{within}{resource}/{name}"


def _decoded(body: bytes, path: str) -> Object:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransientError(f"GET {path}: the object is not readable") from error
