"""Holds back non-critical work in a Kubernetes cluster: suspends jobs and queues, scales down, lowers autoscalers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple

import aiohttp
import msgspec
from pydantic import Field, field_validator, model_validator

from curb.actions.action import ActionContext, HoldsNothing
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
from curb.actions.workloads.kubernetes_versions import ServedVersions
from curb.actions.workloads.protocol import (
    UNMARKED,
    Found,
    Seen,
    WorkloadAction,
    WorkloadConfig,
    carries,
    says_critical,
    wanted_tags,
)
from curb.stream.clients.kubernetes import (
    KubernetesAccess,
    KubernetesClient,
    NoSuchResourceError,
)
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: Annotation by which an object says that Curb holds it: which action, why and until when.
HELD = "curb.dev/held-by"

Resource = Literal[
    "jobs",
    "cronjobs",
    "deployments",
    "statefulsets",
    "horizontalpodautoscalers",
    "workloads",
    "localqueues",
    "clusterqueues",
    "workflows",
    "cronworkflows",
    "rayjobs",
    "pytorchjobs",
    "scaledobjects",
    "scaledjobs",
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
        description="Which kinds of objects. A kind that the cluster does not have is passed over.",
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


class Kubernetes(HoldsNothing, WorkloadAction):
    """An action on `kubernetes/<API server>/<namespace>/<resource>/<name>`, one field of one object a plan."""

    permissions: ClassVar[tuple[str, ...]] = (
        *(
            permission
            for resource, lever in LEVERS.items()
            for permission in (
                f"list {resource}.{lever.group}",
                f"get {resource}.{lever.group}",
                f"patch {resource}{'/' if lever.subresource else ''}{lever.subresource}.{lever.group}",
            )
        ),
        "create events.",
    )
    verbs: ClassVar[frozenset[Verb]] = frozenset({"pause", "shave"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        super().__init__(config.name, config.at_most)
        self._config, self._clock = config, clock
        self._client = KubernetesClient(config.cluster, http, clock)
        self._versions = ServedVersions(self._client, clock)

    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        """One kind of object that cannot be listed does not keep the others from being held: it is named.

        PermanentError when none can be listed, or nothing is found and not all was looked at.
        """
        levers = [each for each in self._config.objects if LEVERS[each].verb in (None, rate.verb)]
        wanted = wanted_tags(self._config.labels, alert)
        namespaces = self._namespaces(alert)
        if not levers or namespaces is None or (wanted is None and self._config.labels):
            return None
        scaler: Resource = "horizontalpodautoscalers"
        asked = [*levers, *([scaler] if scaler in self._config.objects and scaler not in levers else [])]
        listed: dict[Resource, list[Object]] = {}
        away: dict[Resource, str] = {}
        for each in asked:
            try:
                listed[each] = [item async for item in self._objects(each, namespaces)]
            except PermanentError as error:
                away[each] = str(error)
        if not listed:
            raise PermanentError("; ".join(dict.fromkeys(away.values())))
        objects = {each: listed[each] for each in levers if each in listed}
        around = _Around(
            scalers(listed.get(scaler, []), rate),
            sum(is_running(LEVERS[each], item) for each, items in objects.items() for item in items),
            "; ".join(f"{each} were not looked at: {why}" for each, why in sorted(away.items())),
            scaler in away,
        )
        found = [
            self._found(resource, item, rate, around)
            for resource, items in objects.items()
            for item in items
            if carries(item.metadata.labels, wanted or {})
        ]
        if not found and away:
            raise PermanentError(f"nothing carries the tags of the alert; {around.away}")
        return found

    def _found(self, resource: Resource, item: Object, rate: TargetRate, around: _Around) -> Found:
        lever, meta = LEVERS[resource], item.metadata
        value, after = value_of(lever, item), wanted_value(lever, item, rate, self._config.min_replicas)
        changes = is_running(lever, item) and after != value
        refusal = "" if self._is_marked(item) else UNMARKED
        refusal = refusal or owner_refusal(lever, item, around.autoscaled)
        if lever.field == "replicas" and around.scalers_are_away:
            refusal = refusal or "whether an autoscaler decides on it cannot be read"
        return Found(
            f"kubernetes/{self._client.host}/{meta.namespace or '-'}/{resource}/{meta.name}",
            f"{lever.kind} {meta.namespace}/{meta.name}" if meta.namespace else f"{lever.kind} {meta.name}",
            {lever.field: value} if changes else {},
            {lever.field: after} if changes else {},
            refusal=refusal,
            warning=" ".join(each for each in (lever.warning, around.away and f"{around.away}.") if each),
            population=around.population,
            identity=meta.uid,
        )

    async def read(self, plan: Plan) -> Seen | None:
        resource, place = _place(plan)
        lever = LEVERS[resource]
        answer = await self._versions.ask(resource, "GET", place, also=(404,))
        if answer.status == 404:
            return None
        item = _decoded(answer.body, place)
        labels, meta = item.metadata.labels, item.metadata
        critical = says_critical(labels.get(self._config.mark_label))
        values = {lever.field: value_of(lever, item)}
        says_held = meta.annotations.get(HELD, "").split(" ")[0] == f"curb/{self._name}"
        return Seen(values, self._is_marked(item), meta.resourceVersion, meta.uid, critical, says_held)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        """With the version and the uid that were read: the API server refuses when somebody was faster, or when it is
        another object by now, and it is read again.
        """
        resource, place = _place(plan)
        lever = LEVERS[resource]
        holds = values == plan.after
        meta: dict[str, Any] = {"resourceVersion": seen.version} | ({"uid": seen.identity} if seen.identity else {})
        if not lever.subresource:
            meta["annotations"] = {HELD: f"curb/{self._name} {plan.note}".strip() if holds else None}
        patch: dict[str, Any] = {"metadata": meta}
        if lever.annotation:
            meta["annotations"][lever.annotation] = values[lever.field]
        else:
            patch["spec"] = _nested(values)
        path = f"{place}/{lever.subresource}" if lever.subresource else place
        answer = await self._versions.ask(resource, "PATCH", path, patch=patch, also=(404,))
        if answer.status == 404:
            raise TransientError(f"PATCH {path}: it went away just now")
        with contextlib.suppress(PermanentError, TransientError):  # it is a word to its owner and nothing depends on it
            await self._report(plan, lever, seen, holds)

    async def no_longer_held(self, plan: Plan, seen: Seen) -> None:
        resource, place = _place(plan)
        meta = {"resourceVersion": seen.version, "uid": seen.identity, "annotations": {HELD: None}}
        await self._versions.ask(resource, "PATCH", place, patch={"metadata": meta}, also=())

    async def _report(self, plan: Plan, lever: Lever, seen: Seen, holds: bool) -> None:
        """An Event at the object, which `kubectl describe` shows."""
        _, _, namespace, _, name = plan.target.split("/")
        if not lever.namespaced:
            return
        changes = ", ".join(f"{field} {plan.before[field]} → {value}" for field, value in plan.after.items())
        back = ", ".join(f"{field} back to {value}" for field, value in plan.before.items())
        at = datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {"apiVersion": f"{lever.group}/{lever.versions[0]}", "kind": lever.kind, "name": name}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name[:200]}.curb-", "namespace": namespace},
            "involvedObject": about | {"namespace": namespace, "uid": seen.identity},
            "reason": "HeldByCurb" if holds else "GivenBackByCurb",
            "message": f"{changes}; {plan.note}".removesuffix("; ") if holds else back,
            "type": "Warning" if holds else "Normal",
            "source": {"component": "curb"},
            "reportingComponent": "curb",
            "reportingInstance": self._name,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        await self._client.request("POST", f"/api/v1/namespaces/{namespace}/events", json=event)

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
        api = await self._versions.path(resource)
        paths = [f"{api}/{resource}"]
        if lever.namespaced:
            paths = [f"{api}/namespaces/{namespace}/{resource}" for namespace in namespaces]
        for path in paths:
            try:
                async for item in self._client.items(path):
                    yield _decoded(bytes(item), path)
            except NoSuchResourceError:
                self._versions.forget(resource)  # it is asked for again the next time
                raise

    def _is_marked(self, item: Object) -> bool:
        return item.metadata.labels.get(self._config.mark_label) == self._config.mark_value


class _Around(NamedTuple):
    """What is known of the cluster when objects are looked at one by one."""

    #: (namespace, kind, name) → its HorizontalPodAutoscaler.
    autoscaled: dict[tuple[str, str, str], str]
    population: int
    #: Which kinds could not be listed and why, for people; and whether autoscalers are among them.
    away: str
    scalers_are_away: bool


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"runPolicy.suspend": true} as {"runPolicy": {"suspend": true}}."""
    spec: dict[str, Any] = {}
    for field, value in values.items():
        *parents, name = field.split(".")
        inner = spec
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return spec


def _place(plan: Plan) -> tuple[str, str]:
    """The kind of a plan's object, and its path below the API."""
    _, _, namespace, resource, name = plan.target.split("/")
    within = f"namespaces/{namespace}/" if LEVERS[resource].namespaced else ""
    return resource, f"{within}{resource}/{name}"


def _decoded(body: bytes, path: str) -> Object:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransientError(f"GET {path}: the object is not readable") from error
