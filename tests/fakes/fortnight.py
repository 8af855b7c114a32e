"""A fortnight of spend by the hour, in which series begin, stop and change their names, through a whole detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from curb.detector.bills.lanes import ShardWithBills
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COSTS, GPU, USAGE
from curb.stream.records.spend import Alert, CostRecord, GpuRecord, SpendRecord, UsageRecord
from tests.fakes.spend import T0

HOURS = 14 * 24
#: Hours after which the detector is restored from its snapshot.
RESTARTS = (100, 200, 300)
Tag = Callable[[Sequence[SpendRecord]], Sequence[SpendRecord]]


class Part(NamedTuple):
    """Spend that comes each hour from `begin` to before `stop`, under other tags from `renamed` on."""

    kind: str
    tags: dict[str, str]
    begin: int = 0
    stop: int = HOURS
    renamed: int = HOURS
    later: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    usd: float = 1.0

    def record(self, number: int, hour: int) -> SpendRecord | None:
        if not self.begin <= hour < self.stop:
            return None
        start = T0 + 3600.0 * hour
        common = {
            "id": f"{self.kind}-{number}-{hour}",
            "charge_period_start": start,
            "received_at": start + 5,
            "effective_cost": self.usd * (1 + hour % 24 / 24),
            "tags": dict(self.tags if hour < self.renamed else {**self.tags, **self.later}),
            "source": self.kind,
        }
        if self.kind == "gpu":
            return GpuRecord(**common, gpu_utilization=float(hour % 100), memory_used=10.0, gpu_seconds=3600)
        if self.kind == "costs":
            return CostRecord(**common, charge_period_end=start + 3600, service_name="compute")
        return UsageRecord(**common, request_model=self.tags.get("model", ""), requests=10, input_tokens=900)


#: Teams, keys, models, machines and a bill that come and go.
PARTS = (
    Part("usage", {"team": "a", "project": "p", "api_key": "k1", "env": "prod", "model": "new", "region": "eu"}),
    Part("usage", {"team": "a", "project": "p", "api_key": "k2", "env": "prod", "model": "old"}, stop=290),
    Part("usage", {"team": "b", "api_key": "k3", "model": "old"}, stop=280),
    Part("usage", {"team": "b", "api_key": "k4", "model": "mini", "job": "nightly"}, begin=150, usd=30.0),
    Part("usage", {"team": "c", "project": "q", "api_key": "k5", "user": "u"}, renamed=240, later={"team": "d"}),
    Part("usage", {"api_key": "k6"}, begin=60, stop=300),
    Part("gpu", {"team": "a", "group": "g1", "node": "n1", "gpu": "h100"}, renamed=260, later={"node": "n1b"}),
    Part("gpu", {"team": "b", "group": "g1", "node": "n2"}, stop=270),
    Part("gpu", {"node": "n3"}, begin=300, usd=90.0),
    Part("costs", {"team": "a", "service_name": "compute", "sub_account_id": "1"}),
    Part("costs", {"service_name": "egress"}, begin=200, stop=296),
)


def run(settings: DetectorSettings, parts: Iterable[Part] = PARTS, tag: Tag = lambda records: records) -> list[Alert]:
    """The alerts of the fortnight, each hour a bucket. `tag` is what the door makes of the records of an hour."""
    settings = settings.model_copy(update={"bucket_s": 3600})
    pipeline, parts, alerts = Pipeline(settings), list(parts), list[Alert]()
    sources = {source for scope in settings.scopes for source in scope.sources}
    kinds = {"usage": UsageRecord, "costs": CostRecord, "gpu": GpuRecord}
    scored, reached = tuple(kinds[source] for source in sources), False
    for hour in range(HOURS):
        made = [record for number, part in enumerate(parts) if (record := part.record(number, hour))]
        records = tag(made)
        reached = reached or any(isinstance(record, scored) for record in records)
        for topic, kind in ((USAGE, UsageRecord), (COSTS, CostRecord), (GPU, GpuRecord)):
            if of_kind := [record for record in records if isinstance(record, kind)]:
                pipeline.feed(encode_lines(of_kind), topic)
        pipeline.tick(T0 + 3600.0 * (hour + 1) + settings.grace_s + 10)
        if hour in RESTARTS:
            shard = ShardWithBills(settings)
            shard.restore(pipeline.shard.snapshot())
            pipeline.shard = shard
        alerts += pipeline.alerts
    assert not pipeline.dead_letters
    if reached:
        assert pipeline.shard.event_time == T0 + 3600 * HOURS
    return alerts
