"""Holds back non-critical work in a Kubernetes cluster: suspends jobs and queues, scales down, lowers autoscalers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple

import aiohttp
import msgspec
from pydantic import Field, field_validator, model_validator
from yarl import URL

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.target import TargetRate, Verb
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
    KubernetesAnswer,
    KubernetesClient,
    NoSuchResourceError,
)
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: Annotation by which an object says how many replicas shaving must leave it.
_LEAST = "curb.dev/min-replicas"
#: A Job with this label is started and stopped by Kueue, which would resume it at once.
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
_ENDED = frozenset({"Complete", "Succeeded", "Failed", "FailureTarget", "SuccessCriteriaMet", "Finished", "Error"})
#: Annotation by which an object says that Curb holds it: which action, why and until when.
HELD = "curb.dev/held-by"
#: Seconds for which the served versions of an API are remembered. By hand: an upgrade of an operator takes minutes.
_VERSIONS_S = 600.0


class Lever(NamedTuple):
    """One kind of object. `unset` is what the API server takes a missing field for."""

    group: str
    #: Versions in which Curb knows the field, the newest first; the first that the cluster serves is asked.
    versions: tuple[str, ...]
    kind: str
    #: Below `spec`, with dots.
    field: str
    unset: Any
    verb: Verb | None
    warning: str = ""
    namespaced: bool = True
    #: Where the field is written, when a right to a part of the object is enough.
    subresource: str = ""


_BATCH, _APPS, _KUEUE = ("batch", ("v1",)), ("apps", ("v1",)), ("kueue.x-k8s.io", ("v1", "v1beta2", "v1beta1"))
_ARGO = ("argoproj.io", ("v1alpha1",))
_ENDS_PODS = "Its running pods end now and start from the beginning when it is resumed, unless they keep checkpoints."
#: By resource name. A lever with a verb is used for that verb only; without one, for both.
LEVERS: dict[str, Lever] = {
    "jobs": Lever(*_BATCH, "Job", "suspend", False, "pause", _ENDS_PODS),
    "cronjobs": Lever(*_BATCH, "CronJob", "suspend", False, "pause", "Runs that fall due meanwhile are lost."),
    "deployments": Lever(*_APPS, "Deployment", "replicas", 1, None, subresource="scale"),
    "statefulsets": Lever(*_APPS, "StatefulSet", "replicas", 1, None, subresource="scale"),
    "horizontalpodautoscalers": Lever(
        "autoscaling", ("v2", "v1"), "HorizontalPodAutoscaler", "maxReplicas", None, "shave"
    ),
    "workloads": Lever(
        *_KUEUE, "Workload", "active", True, "pause", "Its running pods end now; it queues again when it is resumed."
    ),
    "localqueues": Lever(*_KUEUE, "LocalQueue", "stopPolicy", "None", "pause", "What runs already runs on."),
    "clusterqueues": Lever(
        *_KUEUE,
        "ClusterQueue",
        "stopPolicy",
        "None",
        "pause",
        "It serves every team that queues there; what runs already runs on.",
        namespaced=False,
    ),
    "workflows": Lever(*_ARGO, "Workflow", "suspend", False, "pause", "Steps that run already run on."),
    "cronworkflows": Lever(*_ARGO, "CronWorkflow", "suspend", False, "pause", "Runs that fall due meanwhile are lost."),
    "rayjobs": Lever("ray.io", ("v1",), "RayJob", "suspend", False, "pause", _ENDS_PODS),
    "pytorchjobs": Lever("kubeflow.org", ("v1",), "PyTorchJob", "runPolicy.suspend", False, "pause", _ENDS_PODS),
}


class OwnerReference(msgspec.Struct):
    """Who an object belongs to."""

    kind: str = ""
    name: str = ""
    controller: bool = False


class _Meta(msgspec.Struct):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resourceVersion: str = ""
    deletionTimestamp: str = ""
    uid: str = ""
    ownerReferences: list[OwnerReference] = []


class _Target(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Retention(msgspec.Struct):
    whenScaled: str = "Retain"


class _RunPolicy(msgspec.Struct):
    suspend: bool | None = None


class _Spec(msgspec.Struct):
    suspend: bool | None = None
    replicas: int | None = None
    minReplicas: int | None = None
    maxReplicas: int | None = None
    active: bool | None = None
    stopPolicy: str | None = None
    persistentVolumeClaimRetentionPolicy: _Retention = msgspec.field(default_factory=_Retention)
    scaleTargetRef: _Target = msgspec.field(default_factory=_Target)
    runPolicy: _RunPolicy = msgspec.field(default_factory=_RunPolicy)


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []
    #: Of a Workflow, and of a RayJob.
    phase: str = ""
    jobDeploymentStatus: str = ""


class Object(msgspec.Struct):
    """What Curb looks at of an object; everything else, such as its pods' environment, is not decoded."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


decoder = msgspec.json.Decoder(Object)


def value_of(lever: Lever, found: Object) -> Any:
    """The field as it is in force."""
    value: Any = found.spec
    for part in lever.field.split("."):
        value = getattr(value, part)
    return lever.unset if value is None else value


def is_running(lever: Lever, found: Object) -> bool:
    """Whether it can spend: not ended, not going away, not held back already."""
    status = found.status
    ended = any(each.type in _ENDED and each.status == "True" for each in status.conditions)
    ended = ended or status.phase in _ENDED or status.jobDeploymentStatus in _ENDED
    value = value_of(lever, found)
    held: Any = {"suspend": True, "active": False, "replicas": 0}.get(lever.field.rpartition(".")[2])
    if lever.field == "stopPolicy":
        held = value if value != "None" else "Hold"
    return not ended and not found.metadata.deletionTimestamp and value != held


def wanted_value(lever: Lever, found: Object, rate: TargetRate, min_replicas: int) -> Any:
    """What the field would be set to; never above what it is, and the same whatever it was lowered to before."""
    value = value_of(lever, found)
    if lever.field.rpartition(".")[2] == "suspend":
        return True
    if lever.field == "active":
        return False
    if lever.field == "stopPolicy":
        return "Hold"
    own = found.metadata.annotations.get(_LEAST, "")
    floor = int(own) if own.isascii() and own.isdigit() else min_replicas
    if lever.field == "maxReplicas":
        return min(value, max(1, floor, found.spec.minReplicas or 1))
    return 0 if rate.verb == "pause" else min(value, floor)


def owner_of(found: Object) -> OwnerReference | None:
    """What made it and keeps it as it wants it."""
    return next((each for each in found.metadata.ownerReferences if each.controller), None)


def scalers(autoscalers: Iterable[Object], rate: TargetRate) -> dict[tuple[str, str, str], str]:
    """(namespace, kind, name) → the autoscaler that would undo what Curb does to its replicas.

    An autoscaler rests while there are no replicas, so it does not mind a pause; what made it, such as KEDA, does.
    """
    return {
        (item.metadata.namespace, item.spec.scaleTargetRef.kind, item.spec.scaleTargetRef.name): item.metadata.name
        for item in autoscalers
        if rate.verb == "shave" or owner_of(item) is not None
    }


def owner_refusal(lever: Lever, found: Object, autoscaled: dict[tuple[str, str, str], str]) -> str:
    """Why it is another's to change. `autoscaled`: (namespace, kind, name) → its HorizontalPodAutoscaler."""
    meta = found.metadata
    if lever.kind == "Workload":  # always belongs to the job it stands for, which follows it
        return ""
    owner = owner_of(found)
    if owner is not None and owner.kind not in ("CronJob", "CronWorkflow"):
        return f"{owner.kind} {owner.name} decides on it"
    if found.spec.persistentVolumeClaimRetentionPolicy.whenScaled == "Delete":
        return "scaling it down deletes its volumes"
    if lever.kind in ("Job", "RayJob", "PyTorchJob") and _KUEUE_QUEUE in meta.labels:
        return "Kueue starts and stops it: use its Workload"
    if scaler := autoscaled.get((meta.namespace, lever.kind, meta.name)):
        return f"HorizontalPodAutoscaler {scaler} decides on its replicas"
    return ""


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
        self._host = URL(config.cluster.url).host

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
            f"kubernetes/{self._host}/{meta.namespace or '-'}/{resource}/{meta.name}",
            f"{lever.kind} {meta.namespace}/{meta.name}" if meta.namespace else f"{lever.kind} {meta.name}",
            {lever.field: value} if changes else {},
            {lever.field: after} if changes else {},
            refusal=refusal,
            warning=" ".join(each for each in (lever.warning, around.away and f"{around.away}.") if each),
            population=around.population,
            identity=meta.uid,
        )

    async def read(self, plan: Plan) -> Seen | None:
        lever, place = _place(plan)
        answer = await self._versions.ask(lever, "GET", place, also=(404,))
        if answer.status == 404:
            return None
        item = _decoded(answer.body, place)
        labels, meta = item.metadata.labels, item.metadata
        critical = says_critical(labels.get(self._config.mark_label))
        values = {lever.field: value_of(lever, item)}
        return Seen(values, self._is_marked(item), meta.resourceVersion, meta.uid, critical)

    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        """With the version and the uid that were read: the API server refuses when somebody was faster, or when it is
        another object by now, and it is read again.
        """
        lever, place = _place(plan)
        holds = values == plan.after
        meta: dict[str, Any] = {"resourceVersion": seen.version} | ({"uid": seen.identity} if seen.identity else {})
        if not lever.subresource:
            meta["annotations"] = {HELD: f"curb/{self._name} {plan.note}".strip() if holds else None}
        patch = {"metadata": meta, "spec": _nested(values)}
        path = f"{place}/{lever.subresource}" if lever.subresource else place
        answer = await self._versions.ask(lever, "PATCH", path, patch=patch, also=(404,))
        if answer.status == 404:
            raise TransientError(f"PATCH {path}: it went away just now")
        with contextlib.suppress(PermanentError, TransientError):  # it is a word to its owner and nothing depends on it
            await self._report(plan, lever, seen, holds)

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
        api = await self._versions.path(lever)
        paths = [f"{api}/{resource}"]
        if lever.namespaced:
            paths = [f"{api}/namespaces/{namespace}/{resource}" for namespace in namespaces]
        for path in paths:
            try:
                async for item in self._client.items(path):
                    yield _decoded(bytes(item), path)
            except NoSuchResourceError:
                self._versions.forget(lever)  # it is asked for again the next time
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


class _Version(msgspec.Struct):
    version: str = ""


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class ServedVersions:
    """Which version of an API is asked: the newest that Curb knows and the server serves, found out now and then."""

    def __init__(self, client: KubernetesClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        #: API group → the version, and until when it is remembered on the steady clock.
        self._known: dict[str, tuple[str, float]] = {}

    async def path(self, lever: Lever) -> str:
        """Such as /apis/batch/v1. PermanentError when the server serves none of the versions."""
        if len(lever.versions) == 1:
            return f"/apis/{lever.group}/{lever.versions[0]}"
        version, until = self._known.get(lever.group, ("", 0.0))
        if not version or self._clock.steady() >= until:
            version = await self._served(lever)
            self._known[lever.group] = (version, self._clock.steady() + _VERSIONS_S)
        return f"/apis/{lever.group}/{version}"

    def forget(self, lever: Lever) -> None:
        self._known.pop(lever.group, None)

    async def ask(
        self, lever: Lever, method: str, place: str, *, patch: Mapping[str, Any] | None = None, also: tuple[int, ...]
    ) -> KubernetesAnswer:
        """A request below the API of a lever; once more when the version that was known is served no longer."""
        path = await self.path(lever)
        try:
            return await self._client.request(method, f"{path}/{place}", patch=patch, also=also)
        except NoSuchResourceError:
            self.forget(lever)
            if (other := await self.path(lever)) == path:
                raise
            return await self._client.request(method, f"{other}/{place}", patch=patch, also=also)

    async def _served(self, lever: Lever) -> str:
        answer = await self._client.request("GET", f"/apis/{lever.group}")
        try:
            served = {each.version for each in msgspec.json.decode(answer.body, type=_Group).versions}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise TransientError(f"GET /apis/{lever.group}: the answer is not readable") from error
        found = next((version for version in lever.versions if version in served), "")
        if not found:
            known, there = ", ".join(lever.versions), ", ".join(sorted(served)) or "none"
            raise NoSuchResourceError(f"the cluster serves {lever.group} as {there}, and Curb knows {known}")
        return found


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


def _place(plan: Plan) -> tuple[Lever, str]:
    """The lever, and the path of a plan's object below the lever's API."""
    _, _, namespace, resource, name = plan.target.split("/")
    lever = LEVERS[resource]
    within = f"namespaces/{namespace}/" if lever.namespaced else ""
    return lever, f"{within}{resource}/{name}"


def _decoded(body: bytes, path: str) -> Object:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TransientError(f"GET {path}: the object is not readable") from error
