"""What Curb knows of each kind of object in a Kubernetes cluster: which field holds it back, and to what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from curb.actions.target import TargetRate, Verb

#: Annotation by which an object says how many replicas shaving must leave it.
_LEAST = "curb.dev/min-replicas"
#: A Job with this label is started and stopped by Kueue, which would resume it at once.
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
#: Annotations by which somebody pauses what KEDA scales: at so many replicas, or as it is.
_PAUSED_AT, _PAUSED = "autoscaling.keda.sh/paused-replicas", "autoscaling.keda.sh/paused"
_ENDED = frozenset({"Complete", "Succeeded", "Failed", "FailureTarget", "SuccessCriteriaMet", "Finished", "Error"})


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
    #: The annotation that stands for the field, and what it says of an object that is held.
    annotation: str = ""
    says: str = ""


_BATCH, _APPS, _KUEUE = ("batch", ("v1",)), ("apps", ("v1",)), ("kueue.x-k8s.io", ("v1", "v1beta2", "v1beta1"))
_ARGO = ("argoproj.io", ("v1alpha1",))
_KEDA = ("keda.sh", ("v1alpha1",))
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
    "scaledobjects": Lever(
        *_KEDA,
        "ScaledObject",
        "paused-replicas",
        None,
        "pause",
        "KEDA scales its target to 0, and by its triggers again when it is given back.",
        annotation=_PAUSED_AT,
        says="0",
    ),
    "scaledjobs": Lever(
        *_KEDA,
        "ScaledJob",
        "paused",
        None,
        "pause",
        "KEDA starts no more jobs; those that run already run on.",
        annotation=_PAUSED,
        says="true",
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
    if lever.annotation:
        return found.metadata.annotations.get(lever.annotation, lever.unset)
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
    if lever.annotation:
        paused = found.metadata.annotations.keys() & {_PAUSED_AT, _PAUSED}
        return not found.metadata.deletionTimestamp and not paused
    held: Any = {"suspend": True, "active": False, "replicas": 0}.get(lever.field.rpartition(".")[2])
    if lever.field == "stopPolicy":
        held = value if value != "None" else "Hold"
    return not ended and not found.metadata.deletionTimestamp and value != held


def wanted_value(lever: Lever, found: Object, rate: TargetRate, min_replicas: int) -> Any:
    """What the field would be set to; never above what it is, and the same whatever it was lowered to before."""
    value = value_of(lever, found)
    if lever.annotation:
        return lever.says
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
