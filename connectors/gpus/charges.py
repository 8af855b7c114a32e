"""Shares of GPUs over an interval → records that say who owes what; the shares of a node add up to its price."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Set
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, NamedTuple

import aiohttp
from pydantic import Field, model_validator

from curb.connectors.connector import Check, ConnectorConfig
from curb.connectors.gpus.kubernetes_api import NO_CLUSTER, Cluster, KubernetesApi, KubernetesSettings
from curb.connectors.gpus.owners import IDLE, OwnerSettings, node_facts, owner_tags
from curb.connectors.gpus.samples import Gpu, GpuShare, Holder, Sample, gather, names_pods, shares_of
from curb.connectors.pricing.gpus import GpuPriceOverride, GpuPrices
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import GpuRecord
from curb.stream.settings import Settings

logger = logging.getLogger(__name__)
#: Longer intervals are cut into pieces of at most this, so that buckets get what fell into them.
_PIECE_S = 60.0
#: Above this a GPU that no pod holds works for somebody whose name got lost.
_BUSY_PCT = 5.0


class NodeSettings(Settings):
    """What the metrics do not say of machines: instance type, group, tags."""

    match: str = Field(min_length=1, description="Name of the node; `*` and `?` stand for any text and any letter.")
    instance: str = Field("", description="Instance type, such as p5.48xlarge; prices the whole node.")
    group: str = Field("", description="Machines that scale together, such as a node pool.")
    region: str = Field("", description="Region, where prices differ.")
    tags: dict[str, str] = Field(default={}, description="Tags of records of this node that do not carry them.")
    always_on: bool = Field(
        default=False,
        description="It is paid for whether its exporter reports or not: while that is silent it costs as idle, with "
        "`prometheus`. Needs the node's whole name and `instance`. Nodes of `kubernetes` are always such.",
    )

    @model_validator(mode="after")
    def _is_one_node(self) -> NodeSettings:
        if self.always_on and (set(self.match) & set("*?[") or not self.instance):
            raise ValueError("always_on needs the whole name of one node in `match`, and its `instance`")
        return self


class GpuSettings(ConnectorConfig):
    """Prices and owners of GPUs."""

    provider: str = Field(
        "",
        description="Price list: aws, azure, coreweave, gcp, lambda or nebius; default: by the instance type, else the "
        "most expensive.",
    )
    region: str = Field("", description="Region, where prices differ.")
    prices: tuple[GpuPriceOverride, ...] = Field(default=(), description="Own prices; they win over the listed ones.")
    nodes: tuple[NodeSettings, ...] = Field(default=(), description="Machines by name; the first that matches counts.")
    owners: OwnerSettings = Field(default=OwnerSettings(), description="How a pod's team is found.")
    kubernetes: KubernetesSettings | None = Field(
        default=None, description="Ask the Kubernetes API for owners, labels and nodes; default: metric labels only."
    )
    unowned: Literal["auto", "idle", "node"] = Field(
        default="auto",
        description="GPUs without a pod are idle, or belong to the node's tags; auto: idle where metrics name pods.",
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")


class _Node(NamedTuple):
    name: str
    instance: str
    group: str
    region: str
    tags: dict[str, str]


class GpuCharges:
    """Turns what exporters said into records. `source` is the connector's name."""

    def __init__(self, settings: GpuSettings, source: str, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._settings, self._source = settings, source
        self._prices = GpuPrices.load(settings.prices)
        self._api = None if settings.kubernetes is None else KubernetesApi(settings.kubernetes, http, clock)

    async def refresh(self) -> None:
        """Look at the cluster again if it is due. Without the API the last picture holds: money counts either way."""
        if self._api is None:
            return
        try:
            await self._api.refresh()
        except (TransientError, PermanentError) as error:
            kind = "transient" if isinstance(error, TransientError) else "permanent"
            metrics.CONNECTOR_ERRORS.labels(connector=self._source, kind=kind).inc()
            logger.warning("Kubernetes API not read", extra={"connector": self._source, "detail": str(error)})

    async def check(self) -> list[Check]:
        """Whether the Kubernetes API may be read; nothing where it is not asked."""
        return [] if self._api is None else await self._api.check()

    def records(
        self, samples: Iterable[Sample], start: float, end: float, *, received_at: float, node: str = "", skip: set[str]
    ) -> list[GpuRecord]:
        """What the GPUs in `samples` cost from `start` to `end` (epoch seconds), in pieces of at most a minute.

        `node` names the machine where the source knows better than the labels. GPUs in `skip` were charged already;
        those charged now are added to it.
        """
        samples = list(samples)
        gpus = {device: gpu for device, gpu in gather(samples).items() if device not in skip}
        skip.update(gpus)
        held_by_pods = self._settings.unowned == "idle" or (self._settings.unowned == "auto" and names_pods(samples))
        by_node: dict[str, list[Gpu]] = defaultdict(list)
        for gpu in gpus.values():
            by_node[node or self._node_name(gpu)].append(gpu)
        found = []
        pieces = max(1, math.ceil((end - start) / _PIECE_S - 1e-9))
        edges = [start + (end - start) * at / pieces for at in range(pieces + 1)]
        for name, machines in by_node.items():
            shares = [share for gpu in machines for share in shares_of(gpu)]
            machine = self._node(name)
            for begin, finish in pairwise(edges):
                found += self._charge(machine, machines, shares, begin, finish, held_by_pods)
        for record in found:
            record.received_at = received_at
        return found

    def silent(self, seen: Set[str], start: float, end: float, *, received_at: float) -> list[GpuRecord]:
        """What nodes cost as idle that are there and of which no exporter said anything from `start` to `end`.

        `seen` are the nodes of which one did. Where none of them is a node of the cluster, exporters call nodes by
        other names, and the cluster's are left out.
        """
        short = {_short(name) for name in seen}
        listed = set(self._cluster.nodes)
        if seen and not short & {_short(name) for name in listed}:
            listed = set()
        listed |= {each.match for each in self._settings.nodes if each.always_on}
        records = []
        for name in sorted(each for each in listed if _short(each) not in short):
            node = self._node(name)
            gpu = Gpu(name, "", "", {})
            count = self._gpus_of(node, gpu, start) if node.instance else 0
            if count:
                record = self._record(node, gpu, float(count), start, end, count)
                record.tags |= {"owner": IDLE, "team": self._settings.owners.idle_team}
                record.id, record.received_at = self._id(name, "silent", start), received_at
                records.append(record)
        return records

    def price(self, record: GpuRecord, gpu: str, instance: str) -> None:
        """Give `record` the cost of its GPU seconds."""
        settings = self._settings
        price = self._prices.price(
            gpu, record.charge_period_start, instance=instance, provider=settings.provider, region=settings.region
        )
        record.effective_cost = price.usd_per_gpu_hour * record.gpu_seconds / 3600
        record.cost_source, record.price_book = price.known, self._prices.hash
        record.request_model = gpu or instance or "GPU"

    def _charge(
        self, node: _Node, gpus: list[Gpu], shares: list[GpuShare], start: float, end: float, held_by_pods: bool
    ) -> list[GpuRecord]:
        """One record a share; GPUs that the node's price holds and the exporter does not show are idle as well."""
        records, counted = [], len(gpus)
        for share in shares:
            record = self._record(node, share.gpu, share.fraction, start, end, counted)
            record.gpu_utilization, record.memory_used = share.utilization, share.memory_gib
            record.power_usage = share.power_w
            record.tags |= self._whose(share, held_by_pods)
            holder = share.holder or Holder("", "")
            record.id = self._id(share.gpu.device, share.mig, *holder, start)
            records.append(record)
        unseen = self._gpus_of(node, gpus[0], start) - counted
        if unseen > 0:
            record = self._record(node, gpus[0], float(unseen), start, end, counted)
            record.tags |= {"owner": IDLE, "team": self._settings.owners.idle_team}
            record.id = self._id(node.name, "unseen", start)
            records.append(record)
        return records

    def _gpus_of(self, node: _Node, gpu: Gpu, at: float) -> int:
        return self._prices.price(gpu.model, at, instance=node.instance).gpus

    def _record(self, node: _Node, gpu: Gpu, count: float, start: float, end: float, counted: int) -> GpuRecord:
        """A record of `count` GPUs, not yet with an owner."""
        price = self._prices.price(
            gpu.model, start, instance=node.instance, provider=self._settings.provider, region=node.region
        )
        # More GPUs than the instance type has cannot make the node cost more than its price.
        per_gpu = price.usd_per_gpu_hour * (min(1.0, price.gpus / counted) if price.gpus else 1.0)
        model = self._prices.model(gpu.model)
        tags = {"node": node.name, "group": node.group or model, "gpu": model, "instance": node.instance}
        return GpuRecord(
            id="",
            # When it fell due. Dated by its start, it would come after that minute was judged.
            charge_period_start=end,
            received_at=end,
            effective_cost=per_gpu * count * (end - start) / 3600,
            tags={**self._settings.tags, **node.tags, **{key: value for key, value in tags.items() if value}},
            source=self._source,
            cost_source=price.known,
            request_model=gpu.model or "GPU",
            gpu_seconds=count * (end - start),
            price_book=self._prices.hash,
        )

    def _whose(self, share: GpuShare, held_by_pods: bool) -> dict[str, str]:
        if share.holder is not None:
            return owner_tags(share.holder, share.labels, self._settings.owners, self._cluster)
        if not held_by_pods and share.mig != "rest":
            return {}
        if (share.utilization or 0.0) >= _BUSY_PCT:
            return {}  # somebody uses it whose label got lost: it shows as untagged, not as idle
        return {"owner": IDLE, "team": self._settings.owners.idle_team}

    @property
    def _cluster(self) -> Cluster:
        return NO_CLUSTER if self._api is None else self._api.cluster

    def _node_name(self, gpu: Gpu) -> str:
        # In a pod, an exporter without its node's name gives its own.
        return self._cluster.node_of_pod(gpu.node) or gpu.node or "unknown"

    def _node(self, name: str) -> _Node:
        own = next((each for each in self._settings.nodes if fnmatchcase(name, each.match)), None)
        facts = node_facts(self._cluster.nodes.get(name, {}))
        if own is not None:
            facts |= {key: getattr(own, key) for key in ("instance", "group", "region") if getattr(own, key)}
        region = facts.get("region", self._settings.region)
        return _Node(name, facts.get("instance", ""), facts.get("group", ""), region, own.tags if own else {})

    def _id(self, *parts: object) -> str:
        text = "\x00".join(map(str, (self._source, *parts)))
        return f"{self._source}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _short(name: str) -> str:
    """A node's name without its domain, as some exporters give it."""
    return name.partition(".")[0].lower()
