"""Spans of calls to models → records, one for each call, whatever and however many instrumentations report it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from curb.connectors.connector import Batch
from curb.connectors.decode import Letters, Rejected
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.sums import TIERS
from curb.connectors.tokens import otlp
from curb.connectors.tokens.call_id import call_id
from curb.connectors.tokens.otel_content import print_of
from curb.connectors.tokens.otel_dialects import Call, cost_of, read
from curb.connectors.tokens.otel_scopes import Scopes
from curb.connectors.tokens.otel_tags import Reading, tags_of, text_of
from curb.connectors.tokens.otel_tree import Calls, Node, ancestors
from curb.connectors.tokens.otlp import Value
from curb.stream import metrics
from curb.stream.records.spend import UsageRecord

_STATUS_ERROR = 2


class _Span(NamedTuple):
    """One span of an export, read."""

    place: str
    scope: str
    span: Any
    found: Mapping[str, Value]
    resource: Mapping[str, Value]
    call: Call | Rejected
    node: Node


class Spans:
    """Reads the spans of exports and remembers which of them were calls."""

    def __init__(self, reading: Reading, prices: PriceBook, scopes: Scopes, loops: Fingerprints | None = None) -> None:
        self._reading, self._prices, self._scopes, self._loops = reading, prices, scopes, loops
        self._calls = Calls()

    def parse(self, request: Any, letters: Letters, location: str, at: float) -> Batch:
        """The records of an ExportTraceServiceRequest; spans of anything else are nothing."""
        export = _Export(_read(request, location))
        repeats = self._calls.repeated([each.node for each in export.spans])
        records: dict[str, tuple[UsageRecord, str]] = {}
        outcomes: Counter[tuple[str, str]] = Counter()
        for each in export.spans:
            outcome = "repeated" if each.node.key in repeats else "refused"
            read_as = None if each.node.key in repeats else self._record(each, export, at)
            if isinstance(read_as, Rejected):
                letters.add(read_as, location=each.place, content=each.node.key)
            elif isinstance(read_as, UsageRecord):
                known = records.get(read_as.id)
                outcome = "call" if known is None else "repeated"
                if known is None or _says_more(read_as, known[0]):
                    records[read_as.id] = (read_as, each.place)
            elif not isinstance(each.call, Rejected) and outcome != "repeated":
                outcome = each.call.kind
            outcomes[each.scope, outcome] += 1
        for (scope, outcome), count in outcomes.items():
            metrics.OTEL_SPANS.labels(connector=self._reading.name, outcome=outcome).inc(count)
            self._scopes.saw_spans(scope, count, calls=outcome not in {"other", "around"})
        kept = records.values()
        return Batch([record for record, _ in kept], cursor="", locations=[place for _, place in kept])

    def _record(self, each: _Span, export: _Export, at: float) -> UsageRecord | Rejected | None:
        call, span = each.call, each.span
        if isinstance(call, Rejected):
            return call
        if call.kind != "call":
            return None
        if not any(span.trace_id) or not any(span.span_id):
            return Rejected("missing_field", "trace_id or span_id")
        record = UsageRecord(
            id=export.id_of(each, call),
            charge_period_start=span.start_time_unix_nano / 1e9,
            received_at=at,
            effective_cost=0.0,
            tags=self._tags(each, call, export),
            source=self._reading.name,
            request_model=call.models[-1] if call.models else "",
            requests=1,
            errors=1 if each.node.failed else 0,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            cache_read_input_tokens=call.cache_read,
            cache_creation_input_tokens=call.cache_creation,
        )
        if self._loops is not None and not record.errors and not call.is_embedding:
            seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
            record.loop = print_of(each.found, seconds, self._loops)
        return self._charge(record, call, each.found)

    def _tags(self, each: _Span, call: Call, export: _Export) -> dict[str, str]:
        """The span's own tags; the agent's name stands on a span around it."""
        reading = self._reading
        tags = tags_of(reading.tags, reading.default_tags, each.found, each.resource, call.models)
        names = reading.tags.get("agent", ())
        if names and not text_of(each.found, names) and (agent := export.around(each, names)):
            tags["agent"] = agent
        return tags

    def _charge(self, record: UsageRecord, call: Call, found: Mapping[str, Value]) -> UsageRecord | Rejected:
        """Set what the call cost: as reported, else by the price book. No report of 0 is believed of used tokens."""
        own, cost = self._reading.cost_attribute, call.cost
        if own is not None and own in found:
            if isinstance(found[own], str | bool):
                return Rejected("wrong_type", f"{own} is not a number")
            cost = cost_of(found, (own,))
        used, free = record.input_tokens + record.output_tokens > 0, self._reading.free_models
        if cost or (cost is not None and not used):
            record.effective_cost = cost
        elif used and not free.intersection(call.models):
            known = (model for model in call.models if self._prices.lookup(model))
            model, tier = next(known, record.request_model), TIERS.get(call.tier, "standard")
            self._prices.price_usage(record, model=model, tier=tier, cache_creation_1h=call.cache_creation_1h)
        return record


class _Export:
    """The spans of one export, and how they stand inside one another."""

    def __init__(self, spans: Sequence[_Span]) -> None:
        self.spans = spans
        self._by_key = {each.node.key: each for each in spans}
        self._parents = {each.node.key: each.node.parent for each in spans}
        #: Call → the call next around it; and how many calls have that one next around them.
        self._outer: dict[bytes, _Span] = {}
        self._inner: Counter[bytes] = Counter()
        for each in self._by_key.values():
            if each.node.is_call and (outer := self._call_around(each.node.key)):
                self._outer[each.node.key] = outer
                self._inner[outer.node.key] += 1

    def id_of(self, each: _Span, call: Call) -> str:
        """The id of the answer, which may stand on the only call around this one, else that of the span."""
        trace = each.span.trace_id.hex()
        if answer := call_id(call.provider, call.response_id):
            return answer
        outer = self._outer.get(each.node.key)
        if outer and not call.response_id and self._inner[outer.node.key] == 1 and isinstance(outer.call, Call):
            answer = call_id(outer.call.provider, outer.call.response_id)
        if answer is None and call.response_id.isprintable() and call.response_id:  # unique only for a while
            answer = f"{trace}/{call.response_id[:128]}/{call.input_tokens}/{call.output_tokens}"
        return answer or f"{trace}/{each.span.span_id.hex()}"

    def around(self, each: _Span, names: tuple[str, ...]) -> str:
        """The first of these attributes on the spans around this one, the nearest first."""
        spans = (self._by_key[key] for key in ancestors(each.node.key, self._parents) if key in self._by_key)
        return next((text for span in spans if (text := text_of(span.found, names))), "")

    def _call_around(self, key: bytes) -> _Span | None:
        spans = (self._by_key.get(each) for each in ancestors(key, self._parents))
        return next((span for span in spans if span is not None and span.node.is_call), None)


def _read(request: Any, location: str) -> list[_Span]:
    spans: list[_Span] = []
    for resource_spans in request.resource_spans:
        resource = otlp.attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            scope = scope_spans.scope.name
            for span in scope_spans.spans:
                place, found = f"{location}#{len(spans)}", otlp.attributes(span.attributes)
                call = read(found, scope)
                spans.append(_Span(place, scope, span, found, resource, call, _node(span, call, place)))
    return spans


def _node(span: Any, call: Call | Rejected, place: str) -> Node:
    named = any(span.trace_id) and any(span.span_id)
    key = span.trace_id + span.span_id if named else place.encode()
    parent = span.trace_id + span.parent_span_id if named and any(span.parent_span_id) else None
    is_call = isinstance(call, Call) and call.kind == "call"
    usage, embedding = (call.has_usage, call.is_embedding) if isinstance(call, Call) else (False, False)
    return Node(key, parent, is_call, usage, span.status.code == _STATUS_ERROR, embedding)


def _says_more(record: UsageRecord, known: UsageRecord) -> bool:
    """True when a second report of the same call has usage, or a cost, that the first lacks."""
    used = record.input_tokens + record.output_tokens > 0
    if used != (known.input_tokens + known.output_tokens > 0):
        return used
    return record.cost_source == "reported" and known.cost_source != "reported" and record.effective_cost > 0
