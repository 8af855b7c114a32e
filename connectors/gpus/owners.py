"""Pod → owner: its team, what runs it (Deployment, Job), and the tags a record of its GPU carries."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import Field

from curb.connectors.gpus.kubernetes_api import Cluster
from curb.connectors.gpus.samples import Holder
from curb.stream.settings import Settings

#: Tag value of what is paid for and held by nobody.
IDLE = "__idle__"
#: Kubernetes draws the ends of generated names from these letters, so that they make no words.
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]"
_DEPLOYMENT = re.compile(rf"^(.+)-{_RANDOM}{{5,10}}-{_RANDOM}{{5}}$")
_GENERATED = re.compile(rf"^(.+)-{_RANDOM}{{5}}$")
_NUMBERED = re.compile(r"^(.+)-\d+$")
_GROUP_LABELS = (
    "eks.amazonaws.com/nodegroup",
    "cloud.google.com/gke-nodepool",
    "karpenter.sh/nodepool",
    "kubernetes.azure.com/agentpool",
    "agentpool",
)
_INSTANCE_LABELS = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_REGION_LABELS = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")


class OwnerSettings(Settings):
    """How a pod's team is found: a label, then its namespace."""

    team_labels: tuple[str, ...] = Field(
        default=("team", "app.kubernetes.io/team"),
        description="Labels that name the team: of the metric, else of the pod, else of its namespace.",
    )
    team_by_namespace: dict[str, str] = Field(default={}, description="Namespace → team, where no label says it.")
    namespace_is_team: bool = Field(default=True, description="Where nothing else says it, the namespace is the team.")
    idle_team: str = Field(
        default=IDLE,
        min_length=1,
        description="Team that idle GPUs are counted to, such as the cluster's owners.",
    )


def owner_tags(holder: Holder, labels: Mapping[str, str], settings: OwnerSettings, cluster: Cluster) -> dict[str, str]:
    """Tags team (where known), owner, namespace, workload and job of a holder; `labels` are the metric's."""
    if not holder.pod:
        return {"owner": holder.job, "job": holder.job}
    pod = cluster.pods.get((holder.namespace, holder.pod))
    kind, workload = _workload(holder.pod, pod.labels if pod else {}, pod.owner if pod else ("", ""))
    tags = {"workload": workload, "owner": f"{holder.namespace}/{workload}" if holder.namespace else workload}
    if holder.namespace:
        tags["namespace"] = holder.namespace
    if kind == "Job":
        tags["job"] = workload
    team = (
        _labelled(labels, settings.team_labels)
        or _labelled(pod.labels if pod else {}, settings.team_labels)
        or _labelled(cluster.namespaces.get(holder.namespace, {}), settings.team_labels)
        or settings.team_by_namespace.get(holder.namespace, "")
        or (holder.namespace if settings.namespace_is_team else "")
    )
    return {**tags, "team": team} if team else tags


def _labelled(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first label that is there, as Kubernetes writes it or as exporters spell it (a_b, label_a_b)."""
    lower = {key.lower(): value for key, value in labels.items()}
    for name in names:
        plain = re.sub(r"[^a-z0-9_]", "_", name.lower())
        for spelling in (name.lower(), plain, f"label_{plain}", f"exported_{plain}"):
            if lower.get(spelling):
                return lower[spelling]
    return ""


def _workload(pod: str, labels: Mapping[str, str], owner: tuple[str, str]) -> tuple[str, str]:
    """(kind, name) of what runs the pod; without the API the name is what is left of the pod's."""
    kind, name = owner
    if kind == "ReplicaSet":
        suffix = labels.get("pod-template-hash")
        return "Deployment", name.removesuffix(f"-{suffix}") if suffix else name
    if kind:
        return kind, name
    for pattern in (_DEPLOYMENT, _GENERATED, _NUMBERED):
        if match := pattern.match(pod):
            return "", match[1]
    return "", pod


def node_facts(labels: Mapping[str, str]) -> dict[str, str]:
    """What a node's labels say of its `instance` type, `group` (node pool) and `region`; empty texts are left out."""
    facts = {
        "instance": next((labels[name] for name in _INSTANCE_LABELS if labels.get(name)), ""),
        "group": next((labels[name] for name in _GROUP_LABELS if labels.get(name)), ""),
        "region": next((labels[name] for name in _REGION_LABELS if labels.get(name)), ""),
    }
    return {key: value for key, value in facts.items() if value}
