"""Reads Kubernetes Jobs and CronJobs from a manifest: their GPUs, how long they may run, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from curb.config.file import CurbConfig
from curb.config.owners import known_tags
from curb.connectors.gpus.charges import GpuSettings
from curb.connectors.gpus.kubernetes_api import Cluster, Pod
from curb.connectors.gpus.owners import OwnerSettings, node_facts, owner_tags
from curb.connectors.gpus.samples import Holder

#: Resources that are whole GPUs.
_GPUS = ("nvidia.com/gpu", "amd.com/gpu")
#: Labels of nodes that name the model of a GPU.
_MODEL_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
_KINDS = ("Job", "CronJob")
#: Bytes that are read at most. By hand: far above any manifest, so that a wrong path is one line.
_MAX_BYTES = 4 * 1024 * 1024


class ManifestError(ValueError):
    """The file is no manifest with a Job; the text says why."""


class JobRequest(NamedTuple):
    """One Job, or one run of a CronJob."""

    name: str
    #: GPUs of all its pods together.
    gpus: float
    #: Its `activeDeadlineSeconds` in hours, None without one.
    hours: float | None
    tags: dict[str, str]
    gpu: str
    instance: str
    region: str


def read_jobs(path: Path, config: CurbConfig) -> list[JobRequest]:
    """The Jobs and CronJobs in a YAML or JSON file; other objects are left out. Raises ManifestError or OSError."""
    content = path.read_bytes()
    if len(content) > _MAX_BYTES:
        raise ManifestError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: not a manifest")
    try:
        documents = list(yaml.safe_load_all(content))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise ManifestError(f"{path} is not valid YAML{where}") from None
    found = [_job(each, config) for document in documents for each in _objects(document)]
    if not found:
        raise ManifestError(f"{path} holds no {' and no '.join(_KINDS)}")
    return found


def _objects(document: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(document, Mapping):
        return
    if document.get("kind") == "List":
        for each in _list(document, "items"):
            yield from _objects(each)
    elif document.get("kind") in _KINDS:
        yield document


def _job(given: Mapping[str, Any], config: CurbConfig) -> JobRequest:
    meta, spec = _map(given, "metadata"), _map(given, "spec")
    job_labels = _texts(_map(meta, "labels"))
    if given.get("kind") == "CronJob":
        template = _map(spec, "jobTemplate")
        job_labels |= _texts(_map(_map(template, "metadata"), "labels"))
        spec = _map(template, "spec")
    name = str(meta.get("name") or str(meta.get("generateName") or "job").rstrip("-"))
    pod = _map(spec, "template")
    pod_spec = _map(pod, "spec")
    labels = job_labels | _texts(_map(_map(pod, "metadata"), "labels"))
    selector = _texts(_map(pod_spec, "nodeSelector"))
    facts = node_facts(selector)
    parallel = _number(spec.get("parallelism"), 1.0, f"{name}: parallelism")
    if spec.get("completions") is not None:
        parallel = min(parallel, _number(spec["completions"], 1.0, f"{name}: completions"))
    deadline = spec.get("activeDeadlineSeconds", pod_spec.get("activeDeadlineSeconds"))
    return JobRequest(
        name=name,
        gpus=parallel * _pod_gpus(pod_spec, name),
        hours=None if deadline is None else _number(deadline, 0.0, f"{name}: activeDeadlineSeconds") / 3600,
        tags=_tags(name, str(meta.get("namespace") or ""), labels, config),
        gpu=next((selector[label] for label in _MODEL_LABELS if label in selector), ""),
        instance=facts.get("instance", ""),
        region=facts.get("region", ""),
    )


def _tags(name: str, namespace: str, labels: dict[str, str], config: CurbConfig) -> dict[str, str]:
    """As the records of its GPUs will carry them; labels that are tags of a scope too."""
    settings = next((each.owners for each in config.connectors if isinstance(each, GpuSettings)), OwnerSettings())
    pod = Pod(labels, "", ("Job", name))
    cluster = Cluster({(namespace, name): pod}, {}, {})
    of_scopes = {label: value for label, value in labels.items() if label in known_tags(config.detector)}
    return of_scopes | owner_tags(Holder(namespace, name), {}, settings, cluster)


def _pod_gpus(spec: Mapping[str, Any], name: str) -> float:
    """Those of all containers, or of an init container, whichever are more."""
    together = sum(_gpus(each, name) for each in _list(spec, "containers"))
    before = max((_gpus(each, name) for each in _list(spec, "initContainers")), default=0.0)
    return max(together, before)


def _gpus(container: Any, name: str) -> float:
    resources = _map(container, "resources")
    asked = {**_map(resources, "requests"), **_map(resources, "limits")}
    return sum(_number(asked[each], 0.0, f"{name}: {each}") for each in _GPUS if each in asked)


def _number(value: Any, otherwise: float, what: str) -> float:
    if value is None:
        return otherwise
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = -1.0
    if not 0 <= found < 1e9 or isinstance(value, bool):
        raise ManifestError(f"{what} is not a number of 0 or more")
    return found


def _map(given: Any, key: str) -> Mapping[str, Any]:
    found = given.get(key) if isinstance(given, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(given: Mapping[str, Any], key: str) -> list[Any]:
    found = given.get(key)
    return found if isinstance(found, list) else []


def _texts(given: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in given.items() if value is not None}
