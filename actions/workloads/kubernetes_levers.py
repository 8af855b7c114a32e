"""The kinds of Kubernetes objects Curb can hold back: where they are, which field it sets, and to what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from curb.actions.target import TargetRate, Verb

#: Annotation by which an object says how many replicas shaving must leave it.
_LEAST = "curb.dev/min-replicas"
#: A Job with this label is started and stopped by Kueue, which would resume it at once.
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
_ENDED = frozenset({"Complete", "Failed", "FailureTarget", "SuccessCriteriaMet", "Finished"})


class Lever(NamedTuple):
    """One kind of object. `unset` is what the API server takes a missing field for."""

    api: str
    kind: str
    field: str
    unset: Any
    verb: Verb | None
    warning: str = ""
    namespaced: bool = True
    #: Where the field is written, when a right to a part of the object is enough.
    subresource: str = ""

    @property
    def group(self) -> str:
        return self.api.split("/")[2]


#: By resource name. A lever with a verb is used for that verb only; without one, for both.
LEVERS: dict[str, Lever] = {
    "jobs": Lever(
        "/apis/batch/v1",
        "Job",
        "suspend",
        False,
        "pause",
        "Its running pods end now and start from the beginning when it is resumed, unless they keep checkpoints.",
    ),
    "cronjobs": Lever("/apis/batch/v1", "CronJob", "suspend", False, "pause", "Runs that fall due meanwhile are lost."),
    "deployments": Lever("/apis/apps/v1", "Deployment", "replicas", 1, None, subresource="scale"),
    "statefulsets": Lever("/apis/apps/v1", "StatefulSet", "replicas", 1, None, subresource="scale"),
    "horizontalpodautoscalers": Lever("/apis/autoscaling/v2", "HorizontalPodAutoscaler", "maxReplicas", None, "shave"),
    "workloads": Lever(
        "/apis/kueue.x-k8s.io/v1beta1",
        "Workload",
        "active",
        True,
        "pause",
        "Its running pods end now; it queues again when it is resumed.",
    ),
    "localqueues": Lever(
        "/apis/kueue.x-k8s.io/v1beta1", "LocalQueue", "stopPolicy", "None", "pause", "What runs already runs on."
    ),
    "clusterqueues": Lever(
        "/apis/kueue.x-k8s.io/v1beta1",
        "ClusterQueue",
        "stopPolicy",
        "None",
        "pause",
        "It serves every team that queues there; what runs already runs on.",
        namespaced=False,
    ),
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
    ownerReferences: list[OwnerReference] = []


class _Target(msgspec.Struct):
    kind: str = ""
    name: str = ""


class _Retention(msgspec.Struct):
    whenScaled: str = "Retain"


class _Spec(msgspec.Struct):
    suspend: bool | None = None
    replicas: int | None = None
    minReplicas: int | None = None
    maxReplicas: int | None = None
    active: bool | None = None
    stopPolicy: str | None = None
    persistentVolumeClaimRetentionPolicy: _Retention = msgspec.field(default_factory=_Retention)
    scaleTargetRef: _Target = msgspec.field(default_factory=_Target)


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []


class Object(msgspec.Struct):
    """What Curb looks at of an object; everything else, such as its pods' environment, is not decoded."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


decoder = msgspec.json.Decoder(Object)


def value_of(lever: Lever, found: Object) -> Any:
    """The field as it is in force."""
    value = getattr(found.spec, lever.field)
    return lever.unset if value is None else value


def is_running(lever: Lever, found: Object) -> bool:
    """Whether it can spend: not ended, not going away, not held back already."""
    ended = any(each.type in _ENDED and each.status == "True" for each in found.status.conditions)
    value = value_of(lever, found)
    held: Any = {"suspend": True, "active": False, "replicas": 0}.get(lever.field)
    if lever.field == "stopPolicy":
        held = value if value != "None" else "Hold"
    return not ended and not found.metadata.deletionTimestamp and value != held


def wanted_value(lever: Lever, found: Object, rate: TargetRate, min_replicas: int) -> Any:
    """What the field would be set to; never above what it is, and the same whatever it was lowered to before."""
    value = value_of(lever, found)
    if lever.field == "suspend":
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
    if owner is not None and owner.kind != "CronJob":
        return f"{owner.kind} {owner.name} decides on it"
    if found.spec.persistentVolumeClaimRetentionPolicy.whenScaled == "Delete":
        return "scaling it down deletes its volumes"
    if lever.kind == "Job" and _KUEUE_QUEUE in meta.labels:
        return "Kueue starts and stops it: use its Workload"
    if scaler := autoscaled.get((meta.namespace, lever.kind, meta.name)):
        return f"HorizontalPodAutoscaler {scaler} decides on its replicas"
    return ""
