"""OTLP over HTTP: requests in protobuf or JSON, and the answers that exporters expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from curb.connectors.decode import Letters, Rejected
from curb.connectors.tokens.otlp_decode import Lost, WrongError, fill, loads, plain_of

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


def parse(signal: Signal, content_type: str, body: bytes, letters: Letters, location: str) -> Any | Rejected:
    """The request, an object of `signal.request`; parts that cannot be read go to `letters`.

    Rejected where nothing can be read. No reason quotes the body.
    """
    message = signal.request()
    if content_type == JSON:
        plain = loads(body)
        if isinstance(plain, Rejected):
            return plain
    else:
        try:
            message.ParseFromString(body)
        except DecodeError:
            plain, message = plain_of(signal.request, body), signal.request()
        else:
            return message
    lost = Lost()
    language = "JSON" if content_type == JSON else "protobuf"
    refused = Rejected("invalid", f"the body is no OTLP request in {language}")
    try:
        read = fill(message, plain, lost)
    except WrongError:
        return refused
    if lost.places and not read:
        return refused
    for path, why in lost.places:
        letters.add(why, location=f"{location} {path}", content=b"")
    for _ in range(lost.more):
        letters.add(Rejected("wrong_type", "an element of the export"), location=location, content=b"")
    return message


def answer(signal: Signal, content_type: str, rejected: int, warning: str = "") -> web.Response:
    """200; with a partial success where something was refused, so that the exporter does not send it again.

    Exporters log a `warning` also where nothing was refused.
    """
    message = signal.response()
    if rejected or warning:
        partial: Any = message.partial_success  # type: ignore[attr-defined]
        setattr(partial, signal.rejected, rejected)
        partial.error_message = f"{rejected} refused; see Curb's dead letters" if rejected else warning
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
    """Attributes with plain values; lists, maps and bytes are left out, and prompts in them with them.

    A count of that kind is an empty text, so that it is refused and not taken for missing.
    """
    found: dict[str, Value] = {}
    pair: KeyValue
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        if kind in ("string_value", "int_value", "double_value", "bool_value"):
            found[pair.key] = getattr(pair.value, kind)
        elif "usage" in pair.key or "token_count" in pair.key:
            found[pair.key] = ""
    return found
