"""What applications with OpenTelemetry's GenAI instrumentation export: spans and token metrics, in both encodings."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KIND = "otel_genai"
#: Stands in attributes and events; must never leave the request.
SECRET_PROMPT = "the secret launch date"
RESOURCE = {"service.name": "answers", "deployment.environment.name": "prod", "team": "search"}
PROTOBUF, JSON = "application/x-protobuf", "application/json"


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """As OTLP's JSON writes them."""
    kinds = {str: "stringValue", bool: "boolValue", float: "doubleValue"}
    return [
        {"key": key, "value": {"intValue": str(value)} if type(value) is int else {kinds[type(value)]: value}}
        for key, value in values.items()
    ]


def span(number: int, at: float, **changes: Any) -> dict[str, Any]:
    """One call as a span; `attributes` in `changes` are merged, None takes one away, everything else replaces."""
    values = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 200,
        "gen_ai.usage.cache_read.input_tokens": 400,
        "gen_ai.input.messages": SECRET_PROMPT,
        **changes.pop("attributes", {}),
    }
    return {
        "traceId": f"{number + 1:032x}",
        "spanId": f"{number + 1:016x}",
        "name": "chat gpt-4o",
        "kind": 3,
        "startTimeUnixNano": str(int(at * 1e9)),
        "endTimeUnixNano": str(int(at * 1e9) + 10**9),
        "attributes": attributes({key: value for key, value in values.items() if value is not None}),
        "events": [{"name": "gen_ai.content.prompt", "attributes": attributes({"prompt": SECRET_PROMPT})}],
        "status": {},
        **changes,
    }


def bare(number: int, at: float, parent: int | None = None, trace: int = 7, **values: Any) -> dict[str, Any]:
    """A span with these attributes only, `parent` and all others in the same trace; names have dots for `__`."""
    given = {key.replace("__", "."): value for key, value in values.items()}
    return {
        "traceId": f"{trace:032x}",
        "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}",
        "name": "span",
        "kind": 1,
        "startTimeUnixNano": str(int(at * 1e9)),
        "endTimeUnixNano": str(int(at * 1e9) + 10**9),
        "attributes": attributes(given),
        "status": {},
    }


def traces(spans: list[Any], resource: dict[str, Any] = RESOURCE, scope: str = "app") -> dict[str, Any]:
    """A request of spans of one instrumentation scope."""
    scopes = [{"scope": {"name": scope}, "spans": spans}]
    return {"resourceSpans": [{"resource": {"attributes": attributes(resource)}, "scopeSpans": scopes}]}


def counter(name: str, points: list[dict[str, Any]], *, cumulative: bool) -> dict[str, Any]:
    """One of the token counters."""
    data = {"dataPoints": points, "aggregationTemporality": 2 if cumulative else 1, "isMonotonic": True}
    return {"name": f"gen_ai.client.inference.usage.{name}", "sum": data}


def histogram(points: list[dict[str, Any]], *, cumulative: bool) -> dict[str, Any]:
    """The older metric."""
    data = {"dataPoints": points, "aggregationTemporality": 2 if cumulative else 1}
    return {"name": "gen_ai.client.token.usage", "histogram": data}


def point(start: float, at: float, **values: Any) -> dict[str, Any]:
    """One data point; `labels` are merged into those of a call."""
    labels = {
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.provider.name": "openai",
        **values.pop("labels", {}),
    }
    times = {"startTimeUnixNano": str(int(start * 1e9)), "timeUnixNano": str(int(at * 1e9))}
    return {"attributes": attributes(labels), **times, **values}


def metrics(given: list[dict[str, Any]], resource: dict[str, Any] = RESOURCE) -> dict[str, Any]:
    """A request of metrics."""
    scope = {"scope": {"name": "app"}, "metrics": given}
    return {"resourceMetrics": [{"resource": {"attributes": attributes(resource)}, "scopeMetrics": [scope]}]}


def as_json(request: dict[str, Any]) -> bytes:
    """OTLP in JSON."""
    return json.dumps(request).encode()


def as_protobuf(request: dict[str, Any]) -> bytes:
    """The same in protobuf."""
    message: Any
    if "resourceMetrics" in request:
        return bytes(ParseDict(request, ExportMetricsServiceRequest()).SerializeToString())
    message = ParseDict(request, ExportTraceServiceRequest())
    for resource in message.resource_spans:  # ids are hex in OTLP, base64 in protobuf's own JSON
        for scope in resource.scope_spans:
            given = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
            for made, plain in zip(scope.spans, given, strict=True):
                made.trace_id, made.span_id = bytes.fromhex(plain["traceId"]), bytes.fromhex(plain["spanId"])
                made.parent_span_id = bytes.fromhex(plain.get("parentSpanId", ""))
    return bytes(message.SerializeToString())
