"""Metrics of tokens and dollars → usage: deltas as they are, cumulative sums as what they grew since the last one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from curb.connectors.connector import Batch
from curb.connectors.decode import Letters, Rejected
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.sums import price_sum
from curb.connectors.tokens import otlp
from curb.connectors.tokens.otel_dialects import models_of
from curb.connectors.tokens.otel_scopes import Scopes
from curb.connectors.tokens.otel_tags import Reading, tags_of
from curb.connectors.tokens.otlp import Value
from curb.stream.records.spend import UsageRecord

COST = "cost"
_PREFIX = "gen_ai.client.inference.usage."
#: Metric → what its points count; a mapping where a label says it, None there for what another type counts already.
METRICS: dict[str, str | dict[str, str | None]] = {
    f"{_PREFIX}input_tokens": "input",
    f"{_PREFIX}output_tokens": "output",
    f"{_PREFIX}cache_read.input_tokens": "cache_read",
    f"{_PREFIX}cache_write.input_tokens": "cache_write",
    "gen_ai.client.token.usage": {
        "input": "input",
        "output": "output",
        "completion": "output",
        "cached_input": "cache_read",
        "cache_read": "cache_read",
        "input_cached": "cache_read",
        "cache_creation_input": "cache_write",
        "cache_creation": "cache_write",
        "cache_write": "cache_write",
        "total": None,
        "reasoning": None,
    },
    "gen_ai.client.token.cost": COST,
    "gen_ai.usage.cost": COST,
    "operation.cost": COST,
    "claude_code.cost.usage": COST,
    "claude_code.token.usage": {
        "input": "fresh",
        "output": "output",
        "cacheRead": "cache_read",
        "cacheCreation": "cache_write",
    },
}
#: Metrics of applications that report no spans of calls: they count whatever `count` says.
METRICS_ONLY = frozenset({"claude_code.cost.usage", "claude_code.token.usage"})
_TYPE_LABELS = ("gen_ai.token.type", "type")
#: Labels that set points of one record apart from one another.
_WITHIN = frozenset({"gen_ai.token.type", "gen_ai.token.modality", "type"})
DELTA, CUMULATIVE = 1, 2
#: Cumulative streams that are remembered; the ones not heard of for longest are forgotten.
MAX_STREAMS = 100_000
MAX_PRODUCERS = 10_000
#: Models of producers that report dollars.
MAX_WITH_COST = 100_000
#: Records that are given again because nobody said that they are on the log.
MAX_UNCONFIRMED = 50_000


class _Point(NamedTuple):
    """One data point that counts: of which tokens or dollars, and where it stands in its stream."""

    stream: bytes
    producer: bytes
    labels: Mapping[str, Value]
    resource: Mapping[str, Value]
    what: str
    start: float
    time: float
    amount: float
    requests: float
    cumulative: bool
    #: True where the instruments of one process start one by one.
    own_start: bool

    @property
    def interval(self) -> tuple[float, float]:
        """What the points of one record have in common."""
        return (0.0 if self.own_start else self.start, self.time)

    @property
    def model(self) -> tuple[bytes, tuple[str, ...]]:
        return self.producer, models_of(self.labels)[-1:]


class _Known(NamedTuple):
    """The last value of a cumulative stream."""

    time: float
    amount: float
    requests: float


class Streams:
    """Data points → records. What a cumulative stream grew by is given until `appended` says that it is on the log."""

    def __init__(
        self, reading: Reading, prices: PriceBook, scopes: Scopes, began: float, counted: frozenset[str]
    ) -> None:
        self._reading, self._prices, self._scopes, self._counted = reading, prices, scopes, counted
        self._began = began
        self._known: dict[bytes, _Known] = {}
        self._producers: dict[bytes, None] = {}
        self._with_cost: dict[tuple[bytes, tuple[str, ...]], None] = {}
        self._unconfirmed: dict[str, UsageRecord] = {}

    def parse(self, request: Any, letters: Letters, location: str, at: float) -> Batch:
        """The records of an ExportMetricsServiceRequest; other metrics are named in the notes."""
        sums: dict[bytes, list[_Point]] = {}
        places: dict[bytes, str] = {}
        heard: dict[bytes, None] = {}
        for index, point in enumerate(self._points(request)):
            place = f"{location}#{index}"
            if isinstance(point, Rejected):
                letters.add(point, location=place, content=b"")
                continue
            grown = self._grown(point, heard) if point.cumulative else point
            if grown is not None and grown.amount:
                key = _digest(grown.producer, _labels(grown.labels), *grown.interval, grown.cumulative)
                sums.setdefault(key, []).append(grown)
                places.setdefault(key, place)
                if grown.what == COST:
                    self._with_cost[grown.model] = None
        given = dict.fromkeys(self._unconfirmed, location)
        records = list(self._unconfirmed.values())
        for key, points in sums.items():
            # An interval may come in parts: collectors split exports by size.
            part = _digest(key, sorted({point.what for point in points}))
            record = self._record(part, points, at)
            records.append(record)
            given[record.id] = places[key]
            if points[0].cumulative:
                self._unconfirmed[record.id] = record
        self._producers |= heard
        _keep(self._known, MAX_STREAMS)
        _keep(self._producers, MAX_PRODUCERS)
        _keep(self._with_cost, MAX_WITH_COST)
        _keep(self._unconfirmed, MAX_UNCONFIRMED)
        return Batch(records, cursor="", locations=list(given.values()))

    def appended(self) -> None:
        """What the last parse gave is on the log."""
        self._unconfirmed.clear()

    def _grown(self, point: _Point, heard: dict[bytes, None]) -> _Point | None:
        """What a cumulative stream grew by since it was last seen, or None."""
        heard[point.producer] = None
        known = self._known.get(point.stream)
        if known is not None and point.time <= known.time:
            return None  # sent again, or overtaken
        self._known.pop(point.stream, None)  # the newest are last
        self._known[point.stream] = _Known(point.time, point.amount, point.requests)
        if known is None:
            # A stream that is older than this process may have been counted by the one before.
            new = point.start >= self._began or point.producer in self._producers
            return point if new else None
        if point.amount < known.amount:
            return point  # started again without saying so
        amount, requests = point.amount - known.amount, point.requests - known.requests
        return point._replace(start=known.time, amount=amount, requests=max(0.0, requests))

    def _record(self, key: bytes, points: list[_Point], at: float) -> UsageRecord:
        first, amounts = points[0], dict.fromkeys(("input", "fresh", "output", "cache_read", "cache_write", COST), 0.0)
        requests = 0.0
        for point in points:
            amounts[point.what] += point.amount
            requests += point.requests if point.what == "input" else 0.0
        models, cached = models_of(first.labels), amounts["cache_read"] + amounts["cache_write"]
        given = amounts["input"] + amounts["fresh"]
        if amounts["fresh"] or given < cached:  # an instrumentation that does not count cached tokens as input
            given += cached
        record = UsageRecord(
            id=f"otel/{key.hex()[:40]}",
            charge_period_start=min(point.start for point in points),
            received_at=at,
            effective_cost=amounts[COST],
            tags=tags_of(self._reading.tags, self._reading.default_tags, first.labels, first.resource, models),
            source=self._reading.name,
            request_model=models[-1] if models else "",
            requests=round(requests),
            input_tokens=round(given),
            output_tokens=round(amounts["output"]),
            cache_read_input_tokens=round(amounts["cache_read"]),
            cache_creation_input_tokens=round(amounts["cache_write"]),
        )
        # Where the producer reports dollars of this model, they may come with another export.
        if not any(point.model in self._with_cost for point in points) and not self._reading.free_models & {*models}:
            price_sum(self._prices, record, request_input=given / requests if requests else 0)
        return record

    def _points(self, request: Any) -> Iterator[_Point | Rejected]:
        for resource_metrics in request.resource_metrics:
            resource = otlp.attributes(resource_metrics.resource.attributes)
            for scope in resource_metrics.scope_metrics:
                producer = _digest(_labels(resource), scope.scope.name, scope.scope.version)
                for metric in scope.metrics:
                    if metric.name in self._counted:
                        self._scopes.counted = True
                        yield from _points_of(metric, resource, producer)
                    else:
                        points = len(getattr(metric, metric.WhichOneof("data") or "sum").data_points)
                        self._scopes.saw_metric(metric.name, points, known=metric.name in METRICS)


def _points_of(metric: Any, resource: Mapping[str, Value], producer: bytes) -> Iterator[_Point | Rejected]:
    kind = metric.WhichOneof("data")
    if kind not in ("sum", "histogram", "exponential_histogram"):
        yield Rejected("wrong_type", f"{metric.name} is no sum and no histogram")
        return
    data, meaning = getattr(metric, kind), METRICS[metric.name]
    for point in data.data_points:
        labels = otlp.attributes(point.attributes)
        token_type = next((str(labels[name]) for name in _TYPE_LABELS if name in labels), "")
        if isinstance(meaning, dict) and token_type not in meaning:
            yield Rejected("missing_field", f"{metric.name} needs a type of tokens: {', '.join(meaning)}")
            continue
        what = meaning[token_type] if isinstance(meaning, dict) else meaning
        amount = float(point.as_int or point.as_double) if kind == "sum" else point.sum
        if data.aggregation_temporality not in (DELTA, CUMULATIVE):
            yield Rejected("invalid", f"{metric.name} has no aggregation temporality")
        elif not math.isfinite(amount) or not 0 <= amount <= 2**53:
            yield Rejected("invalid", f"{metric.name} is not between 0 and 2^53")
        elif what is not None:
            start, time = point.start_time_unix_nano, point.time_unix_nano
            yield _Point(
                stream=_digest(producer, metric.name, sorted(labels.items()), start),
                producer=producer,
                labels=labels,
                resource=resource,
                what=what,
                start=(start or time) / 1e9,
                time=time / 1e9,
                amount=amount,
                requests=0.0 if kind == "sum" else float(point.count),
                cumulative=data.aggregation_temporality == CUMULATIVE,
                own_start=metric.name in METRICS_ONLY,
            )


def _keep(remembered: dict[Any, Any], most: int) -> None:
    while len(remembered) > most:
        del remembered[next(iter(remembered))]


def _labels(labels: Mapping[str, Value]) -> list[tuple[str, Value]]:
    return sorted((name, value) for name, value in labels.items() if name not in _WITHIN)


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).digest()
