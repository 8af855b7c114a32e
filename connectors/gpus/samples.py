"""Samples of DCGM metrics → what each GPU did and which pods held it, whatever exporter version named the labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: The metrics that are read: the fraction busy comes before the percent, which a MIG instance does not have.
BUSY, UTIL, MEMORY, POWER = (
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    "DCGM_FI_DEV_GPU_UTIL",
    "DCGM_FI_DEV_FB_USED",
    "DCGM_FI_DEV_POWER_USAGE",
)
METRICS = (BUSY, UTIL, MEMORY, POWER)
#: DCGM's "no value" (blank, not found, not supported, not permitted), for floats and 64-bit integers; for 32 bits.
_BLANK = 140_737_488_355_328.0
_BLANK_32 = frozenset({2147483632.0, 2147483633.0, 2147483634.0, 2147483635.0})
#: Also as "MIG 1g.10gb+me", "nvidia.com/mig-1g.10gb.me" and "1c.3g.40gb", a part of an instance that is paid whole.
_PROFILE = re.compile(r"(\d+)g\.(\d+)gb", re.IGNORECASE)
#: Pods and containers that measure GPUs; the container of the Helm chart is called just "exporter".
_EXPORTER = re.compile(r"\bdcgm\b|\b(?:gpu|nvidia)\b.*\bexporter\b")
_POD_LABELS = frozenset({"pod", "pod_name", "exported_pod"})
#: Words of the name → compute slices, memory slices and GB as profiles count them, where the name does not say them.
#: NVIDIA's MIG user guide, "Supported GPUs" and "Supported MIG Profiles". The first that fits counts.
_CUT = (
    (r"\bA30\b", 4, 4, 24),
    (r"\bRTX PRO 6000\b", 4, 4, 96),
    (r"\bRTX PRO 5000\b", 4, 4, 48),
    (r"\bRTX PRO 4500\b", 4, 4, 32),
    (r"\bA100X\b", 7, 8, 80),
    (r"\bA[18]00\b", 7, 8, 40),
    (r"\bGH200\b", 7, 8, 96),
    (r"\bH[18]00\b.*\bNVL\b", 7, 8, 94),
    (r"\bH[18]00\b", 7, 8, 80),
    (r"\bH200\b|\bH20 3E\b", 7, 8, 141),
    (r"\bH20\b", 7, 8, 96),
    (r"\bGB200\b", 7, 8, 186),
    (r"\bB200\b", 7, 8, 180),
    (r"\bG?B300\b", 7, 8, 269),
)
_GB = re.compile(r"\b(\d{2,3})GB?\b")
#: GB in a name from which they are not the GPU's: a "GH200 480GB" has them beside its CPU.
_NOT_GPU_GB = 300
#: Compute slices of an instance → its memory slices of 8, where the size of the GPU is not known or cannot be.
_MEMORY_SLICES = {1: 1, 2: 2, 3: 4, 4: 4, 7: 8}


class Sample(NamedTuple):
    """One value as the exporter wrote it."""

    name: str
    labels: Mapping[str, str]
    value: float


class Holder(NamedTuple):
    """Who has a GPU: a pod, or a job of a batch system (`pod` is then empty)."""

    namespace: str
    pod: str
    job: str = ""


@dataclass
class GpuPart:
    """A whole GPU, or one MIG instance of it."""

    profile: str = ""
    values: dict[str, float] = field(default_factory=dict)
    #: Holder → labels that came with it.
    holders: dict[Holder, Mapping[str, str]] = field(default_factory=dict)

    @property
    def utilization(self) -> float | None:
        """Percent, None when there is no value."""
        busy = self.values.get(BUSY)
        return 100.0 * busy if busy is not None else self.values.get(UTIL)

    @property
    def memory_gib(self) -> float | None:
        mib = self.values.get(MEMORY)
        return None if mib is None else mib / 1024


@dataclass
class Gpu:
    """One GPU at one moment. `parts` is by MIG instance; "" is the GPU as a whole."""

    node: str
    device: str
    model: str
    labels: Mapping[str, str]
    parts: dict[str, GpuPart] = field(default_factory=dict)


class GpuShare(NamedTuple):
    """A part of one GPU that one holder, or nobody, has. The shares of a GPU add up to 1."""

    gpu: Gpu
    mig: str
    holder: Holder | None
    labels: Mapping[str, str]
    fraction: float
    utilization: float | None
    memory_gib: float | None
    power_w: float | None


def value_of(name: str, value: float) -> float | None:
    """The value, or None where DCGM had none, and for what cannot be: NaN, below 0, more than everything."""
    if not math.isfinite(value) or value < 0 or value >= _BLANK or value in _BLANK_32:
        return None
    most = {BUSY: 1.0, UTIL: 100.0}.get(name)
    return value if most is None or value <= most * 1.05 else None


def names_pods(samples: Iterable[Sample]) -> bool:
    """Whether the source knows pods at all: then a GPU without one is held by nobody."""
    return any(not _POD_LABELS.isdisjoint(sample.labels) for sample in samples)


def gather(samples: Iterable[Sample]) -> dict[str, Gpu]:
    """The GPUs by their id. A sample without one (no UUID, no index) is left out.

    A GPU whose every value is blank is there all the same: it is paid for.
    """
    samples = list(samples)
    # Prometheus renames the exporter's labels when its own target has the same; `pod` is then the exporter itself.
    exported = any("exported_pod" in s.labels or "exported_namespace" in s.labels for s in samples)
    gpus: dict[str, Gpu] = {}
    for sample in samples:
        labels = {key.lower(): value for key, value in sample.labels.items()}
        node = node_of(labels)
        index = labels.get("gpu", "")
        device = labels.get("uuid") or (f"{node}/{index}" if index else "")
        if not device:
            continue
        gpu = gpus.setdefault(device, Gpu(node, device, labels.get("modelname", ""), labels))
        gpu.model = gpu.model or labels.get("modelname", "")
        part = gpu.parts.setdefault(labels.get("gpu_i_id", ""), GpuPart(labels.get("gpu_i_profile", "")))
        value = value_of(sample.name, sample.value)
        if value is not None:
            part.values.setdefault(sample.name, value)
        holder = _holder(labels, exported)
        if holder is not None:
            part.holders.setdefault(holder, labels)
    return gpus


def node_of(labels: Mapping[str, str]) -> str:
    """The machine, by labels in lower case: what scrape configurations add, then what the exporter says."""
    for name in ("node", "kubernetes_node", "nodename", "hostname"):
        if labels.get(name):
            return labels[name]
    host, _, port = labels.get("instance", "").rpartition(":")
    return host if port.isdigit() else labels.get("instance", "")


def _holder(labels: Mapping[str, str], exported: bool) -> Holder | None:
    names = ("exported_pod",) if exported else ("pod", "pod_name")
    spaces = ("exported_namespace",) if exported else ("namespace", "pod_namespace")
    pod = next((labels[name] for name in names if labels.get(name)), "")
    if pod and not _is_exporter(pod, labels, exported):
        return Holder(next((labels[name] for name in spaces if labels.get(name)), ""), pod)
    job = labels.get("hpc_job", "")
    return Holder("", "", job) if job else None


def _is_exporter(pod: str, labels: Mapping[str, str], exported: bool) -> bool:
    """Whether a pod only measures: without its node's name an exporter gives its own as that of the host."""
    container = labels.get("exported_container" if exported else "container", "")
    named = _EXPORTER.search(pod) or _EXPORTER.search(container)
    return bool(named) or container == "exporter" or labels.get("hostname") == pod


def mig_share(profile: str, model: str) -> float:
    """The share of a GPU that a MIG profile such as 3g.40gb takes from others: of compute or of memory, the larger.

    An unknown profile is one compute slice.
    """
    name = re.sub(r"[-_]", " ", model.upper().partition(" MIG ")[0])
    compute, memory, size_gb = next((cut for words, *cut in _CUT if re.search(words, name)), (7, 8, 0))
    if (said := _GB.search(name)) and int(said[1]) < _NOT_GPU_GB:
        size_gb = int(said[1])
    match = _PROFILE.search(profile)
    if match is None:
        return 1.0 / compute
    slices, gb = int(match[1]), int(match[2])
    parts = round(memory * gb / size_gb) if size_gb else 0
    if not 0 < parts <= memory:
        parts = _MEMORY_SLICES.get(slices, 0) if memory == 8 else slices
    return min(1.0, max(slices / compute, parts / memory))


def shares_of(gpu: Gpu) -> list[GpuShare]:
    """Who has which share of the GPU; what nobody has is a share without holder."""
    instances = {mig: part for mig, part in gpu.parts.items() if mig}
    if not instances:
        return _split(gpu, "", gpu.parts[""], 1.0, gpu.parts[""].values.get(POWER))
    fractions = {mig: mig_share(part.profile, gpu.model) for mig, part in instances.items()}
    over = max(1.0, sum(fractions.values()))
    power = gpu.parts[""].values.get(POWER) if "" in gpu.parts else None
    if power is None:  # each instance repeats the power of the whole GPU
        power = max((part.values[POWER] for part in instances.values() if POWER in part.values), default=None)
    found = []
    for mig, part in sorted(instances.items()):
        fraction = fractions[mig] / over
        found += _split(gpu, mig, part, fraction, None if power is None else power * fraction)
    rest = 1.0 - sum(share.fraction for share in found)
    if rest > 1e-9:
        found.append(GpuShare(gpu, "rest", None, gpu.labels, rest, 0.0, 0.0, None))
    return found


def _split(gpu: Gpu, mig: str, part: GpuPart, fraction: float, power: float | None) -> list[GpuShare]:
    """Pods that share a GPU (time slicing, MPS) each repeat its totals: they are counted once and split evenly."""
    holders: dict[Holder | None, Mapping[str, str]] = dict(part.holders.items())
    holders = holders or {None: gpu.labels}
    count, memory = len(holders), part.memory_gib
    return [
        GpuShare(
            gpu,
            mig,
            holder,
            labels,
            fraction / count,
            part.utilization,
            None if memory is None else memory / count,
            None if power is None else power / count,
        )
        for holder, labels in sorted(holders.items(), key=lambda each: each[0] or Holder("", ""))
    ]
