"""Token metrics of OpenTelemetry → usage: deltas as they are, cumulative sums as what they grew since the last one."""

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
from curb.connectors.tokens.otel_tags import models_of, tags_of
from curb.connectors.tokens.otlp import Value
from curb.stream.records.spend import UsageRecord

#: The histogram that separates input and output by `gen_ai.token.type`, and the counters that take its place.
HISTOGRAM = "gen_ai.client.token.usage"
_PREFIX = "gen_ai.client.inference.usage."
COUNTERS = {
    f"{_PREFIX}input_tokens": "input",
    f"{_PREFIX}output_tokens": "output",
    f"{_PREFIX}cache_read.input_tokens": "cache_read",
    f"{_PREFIX}cache_write.input_tokens": "cache_write",
}
TYPES = {"input": "input", "output": "output", "completion": "output"}
#: Labels that set points of one record apart from one another.
_WITHIN = frozenset({"gen_ai.token.type", "gen_ai.token.modality"})
DELTA, CUMULATIVE = 1, 2
#: Cumulative streams that are remembered; the ones not heard of for longest are forgotten.
MAX_STREAMS = 100_000
MAX_PRODUCERS = 10_000
#: Records that are given again because nobody said that they are on the log.
MAX_UNCONFIRMED = 50_000


class _Point(NamedTuple):
    """One data point that counts: which tokens, and where it stands in its stream."""

    stream: bytes
    producer: bytes
    labels: Mapping[str, Value]
    resource: Mapping[str, Value]
    what: str
    start: float
    time: float
    tokens: float
    requests: float
    cumulative: bool


class _Known(NamedTuple):
    """The last value of a cumulative stream."""

    time: float
    tokens: float
    requests: float


class Streams:
    """Data points → records. What a cumulative stream grew by is given until `appended` says that it is on the log."""

    def __init__(
        self,
        name: str,
        default_tags: Mapping[str, str],
        tags: Mapping[str, tuple[str, ...]],
        free_models: frozenset[str],
        prices: PriceBook,
        began: float,
    ) -> None:
        self._name, self._default, self._tags, self._free, self._prices = name, default_tags, tags, free_models, prices
        self._began = began
        self._known: dict[bytes, _Known] = {}
        self._producers: dict[bytes, None] = {}
        self._unconfirmed: dict[str, UsageRecord] = {}

    def parse(self, request: Any, letters: Letters, location: str, at: float) -> Batch:
        """The records of an ExportMetricsServiceRequest; other metrics are nothing."""
        sums: dict[bytes, list[_Point]] = {}
        places: dict[bytes, str] = {}
        heard: dict[bytes, None] = {}
        for index, point in enumerate(_points(request)):
            place = f"{location}#{index}"
            if isinstance(point, Rejected):
                letters.add(point, location=place, content=b"")
                continue
            grown = self._grown(point, heard) if point.cumulative else point
            if grown is not None:
                key = _digest(grown.producer, _labels(grown.labels), grown.start, grown.time, grown.cumulative)
                sums.setdefault(key, []).append(grown)
                places.setdefault(key, place)
        given = dict.fromkeys(self._unconfirmed, location)
        records = list(self._unconfirmed.values())
        for key, points in sums.items():
            record = self._record(key, points, at)
            records.append(record)
            given[record.id] = places[key]
            if points[0].cumulative:
                self._unconfirmed[record.id] = record
        self._producers |= heard
        _keep(self._known, MAX_STREAMS)
        _keep(self._producers, MAX_PRODUCERS)
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
        self._known[point.stream] = _Known(point.time, point.tokens, point.requests)
        if known is None:
            # A stream that is older than this process may have been counted by the one before.
            new = point.start >= self._began or point.producer in self._producers
            return point if new else None
        if point.tokens < known.tokens:
            return point  # started again without saying so
        tokens, requests = point.tokens - known.tokens, point.requests - known.requests
        if tokens == 0:
            return None
        return point._replace(start=known.time, tokens=tokens, requests=max(0.0, requests))

    def _record(self, key: bytes, points: list[_Point], at: float) -> UsageRecord:
        first, tokens = points[0], dict.fromkeys(("input", "output", "cache_read", "cache_write"), 0.0)
        requests = 0.0
        for point in points:
            tokens[point.what] += point.tokens
            requests += point.requests if point.what == "input" else 0.0
        models = models_of(first.labels)
        read, written = round(tokens["cache_read"]), round(tokens["cache_write"])
        record = UsageRecord(
            id=f"otel/{key.hex()[:40]}",
            charge_period_start=first.start,
            received_at=at,
            effective_cost=0.0,
            tags=tags_of(self._tags, self._default, first.labels, first.resource, models),
            source=self._name,
            request_model=models[-1] if models else "",
            requests=round(requests),
            input_tokens=round(tokens["input"]),
            output_tokens=round(tokens["output"]),
            cache_read_input_tokens=read,
            cache_creation_input_tokens=written,
        )
        if not self._free.intersection(models):
            price_sum(self._prices, record, request_input=tokens["input"] / requests if requests else 0)
        return record


def _points(request: Any) -> Iterator[_Point | Rejected]:
    for resource_metrics in request.resource_metrics:
        resource = otlp.attributes(resource_metrics.resource.attributes)
        for scope in resource_metrics.scope_metrics:
            producer = _digest(_labels(resource), scope.scope.name, scope.scope.version)
            for metric in scope.metrics:
                if metric.name == HISTOGRAM or metric.name in COUNTERS:
                    yield from _points_of(metric, resource, producer)


def _points_of(metric: Any, resource: Mapping[str, Value], producer: bytes) -> Iterator[_Point | Rejected]:
    kind = metric.WhichOneof("data")
    if kind not in ("sum", "histogram"):
        yield Rejected("wrong_type", f"{metric.name} is no sum and no histogram")
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        labels = otlp.attributes(point.attributes)
        what = COUNTERS.get(metric.name) or TYPES.get(str(labels.get("gen_ai.token.type")))
        tokens = point.sum if kind == "histogram" else float(point.as_int or point.as_double)
        if data.aggregation_temporality not in (DELTA, CUMULATIVE):
            yield Rejected("invalid", f"{metric.name} has no aggregation temporality")
        elif what is None:
            yield Rejected("missing_field", f"{metric.name} needs gen_ai.token.type input or output")
        elif not math.isfinite(tokens) or not 0 <= tokens <= 2**53:
            yield Rejected("invalid", f"{metric.name} is not between 0 and 2^53")
        elif tokens:
            start, time = point.start_time_unix_nano, point.time_unix_nano
            yield _Point(
                stream=_digest(producer, metric.name, sorted(labels.items()), start),
                producer=producer,
                labels=labels,
                resource=resource,
                what=what,
                start=(start or time) / 1e9,
                time=time / 1e9,
                tokens=tokens,
                requests=float(point.count) if kind == "histogram" else 0.0,
                cumulative=data.aggregation_temporality == CUMULATIVE,
            )


def _keep(remembered: dict[Any, Any], most: int) -> None:
    while len(remembered) > most:
        del remembered[next(iter(remembered))]


def _labels(labels: Mapping[str, Value]) -> list[tuple[str, Value]]:
    return sorted((name, value) for name, value in labels.items() if name not in _WITHIN)


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(repr(parts).encode("utf-8", "replace")).digest()
