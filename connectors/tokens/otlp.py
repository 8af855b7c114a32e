"""OTLP over HTTP: requests in protobuf or JSON, and the answers that exporters expect."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from curb.connectors.decode import Rejected

PROTOBUF, JSON = "application/x-protobuf", "application/json"
Value = str | int | float | bool


class Signal(NamedTuple):
    """What a path takes and gives."""

    request: type[Message]
    response: type[Message]
    #: The field of the partial success that counts what was refused.
    rejected: str


SIGNALS = {
    "v1/traces": Signal(trace.ExportTraceServiceRequest, trace.ExportTraceServiceResponse, "rejected_spans"),
    "v1/metrics": Signal(
        metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse, "rejected_data_points"
    ),
    "v1/logs": Signal(logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse, "rejected_log_records"),
}


def parse(signal: Signal, content_type: str, body: bytes) -> Any | Rejected:
    """The request, an object of `signal.request`. The reason never quotes the body."""
    message = signal.request()
    if content_type != JSON:
        try:
            message.ParseFromString(body)
        except DecodeError:
            return Rejected("invalid", "the body is no OTLP request in protobuf")
        return message
    try:
        plain = json.loads(body)
        if not isinstance(plain, dict):  # protobuf takes a text for a message without fields
            return Rejected("invalid", "the body is no OTLP request in JSON")
        _ids_to_base64(plain)
        json_format.ParseDict(plain, message, ignore_unknown_fields=True)
    except UnicodeDecodeError:
        return Rejected("not_utf8", "the body is not UTF-8")
    except (json.JSONDecodeError, RecursionError):
        return Rejected("not_json", "the body is not JSON")
    except (json_format.ParseError, TypeError, AttributeError, ValueError):
        return Rejected("invalid", "the body is no OTLP request in JSON")
    return message


def _ids_to_base64(request: dict[str, Any]) -> None:
    """OTLP writes ids in hex where protobuf's JSON has base64. Events and links, which may hold prompts, go."""
    for resource in request.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                span.pop("events", None)
                span.pop("links", None)
                for name in ("traceId", "spanId", "parentSpanId"):
                    if name in span:
                        span[name] = _base64(span[name])


def _base64(text: Any) -> str:
    try:
        return base64.b64encode(binascii.unhexlify(text)).decode()
    except (binascii.Error, TypeError, ValueError):
        return ""


def answer(signal: Signal, content_type: str, rejected: int) -> web.Response:
    """200; with a partial success where something was refused, so that the exporter does not send it again."""
    message = signal.response()
    if rejected:
        partial: Any = message.partial_success  # type: ignore[attr-defined]
        setattr(partial, signal.rejected, rejected)
        partial.error_message = f"{rejected} refused; see Curb's dead letters"
    if content_type == JSON:
        return web.json_response(json_format.MessageToDict(message))
    return web.Response(body=message.SerializeToString(), content_type=PROTOBUF)


def problem(content_type: str, status: int, detail: str, headers: Mapping[str, str] | None) -> web.Response:
    """An error with a google.rpc.Status, as OTLP wants it."""
    if content_type == JSON:
        return web.json_response({"message": detail}, status=status, headers=headers)
    text = detail.encode()[:100]
    # Field 2 of the message, of the kind that has a length; that fits a byte.
    return web.Response(body=bytes((0x12, len(text))) + text, status=status, headers=headers, content_type=PROTOBUF)


def attributes(pairs: Any) -> dict[str, Value]:
    """Attributes with plain values; lists, maps and bytes are left out, and prompts in them with them."""
    found: dict[str, Value] = {}
    pair: KeyValue
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value", "bool_value"):
            found[pair.key] = getattr(pair.value, kind)
    return found
