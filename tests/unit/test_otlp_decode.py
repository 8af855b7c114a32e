"""Damaged OTLP requests: one wrong value costs an attribute or a span, whatever it is; the neighbours count."""

from __future__ import annotations

import copy
import json
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from curb.connectors.connector import Batch, Context
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.otel_genai import Config
from curb.stream.clock import ManualClock
from curb.stream.log.codec import decode_lines
from curb.stream.records.spend import DeadLetter, UsageRecord
from tests.fakes.otel_genai import JSON, PROTOBUF, as_json, as_protobuf, metrics, point, span, traces

NOW = 1_750_000_000.0
CONTEXT = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PriceBook.load())


def parse(body: bytes, encoding: str, path: str = "v1/traces") -> Batch:
    data = {"kind": "otel_genai", "name": "otel", "token": "a-long-token", "count": path.replace("v1/traces", "spans")}
    data["count"] = "spans" if path == "v1/traces" else "metrics"
    door = Config.model_validate(data).build(CONTEXT).source.door(path, encoding)
    assert door is not None
    return door.parse(body, location="here", at=NOW)


def ids(batch: Batch) -> list[str]:
    return [record.id[:32].lstrip("0") for record in batch.records]


def letters(batch: Batch) -> list[tuple[str, str, str]]:
    found = [each for m in batch.dead for each in decode_lines(m.value, DeadLetter, lambda *_: None)]
    return [(each.reason, each.detail, each.location) for each in found]


def damaged(place: str, value: str) -> bytes:
    """Three spans in JSON; in the second one the text MARK stands at `place`, and is replaced by the JSON `value`."""
    request = traces([span(1, NOW), span(2, NOW, attributes={"odd": "MARK"}), span(3, NOW)])
    middle = request["resourceSpans"][0]["scopeSpans"][0]["spans"][1]
    if place == "attribute":
        pass
    elif place == "tokens":
        index = next(n for n, each in enumerate(middle["attributes"]) if each["key"] == "gen_ai.usage.input_tokens")
        middle["attributes"][index]["value"] = "MARK"
    elif place == "any value":
        middle["attributes"][-1]["value"] = "MARK"
    elif place == "attributes":
        middle["attributes"] = "MARK"
    else:
        middle[place] = "MARK"
    return json.dumps(request).replace('"MARK"', value).encode("utf-8", "surrogatepass")


DEEP = '{"arrayValue": {"values": [' * 5000 + '{"stringValue": "x"}' + "]}}" * 5000


@pytest.mark.parametrize(
    ("place", "value", "kept"),
    [
        ("attribute", r'"half \ud83d"', "234"),
        ("attribute", "7", "234"),
        ("attribute", "null", "234"),
        ("any value", r'{"stringValue": "\udc00"}', "234"),
        ("any value", '{"doubleValue": NaN}', "234"),
        ("any value", '{"intValue": "1e400"}', "234"),
        ("any value", '{"intValue": ' + "9" * 5000 + "}", "234"),
        ("any value", '{"boolValue": "yes"}', "234"),
        ("any value", DEEP, "234"),
        ("any value", "[]", "234"),
        ("tokens", '{"intValue": "99999999999999999999"}', "24"),
        ("tokens", '{"intValue": {}}', "24"),
        ("tokens", '{"doubleValue": NaN}', "24"),
        ("tokens", '{"doubleValue": "Infinity"}', "24"),
        ("tokens", '{"arrayValue": {"values": [{"intValue": "5"}]}}', "24"),
        ("tokens", "7", "24"),
        ("attributes", "7", "24"),
        ("traceId", "7", "24"),
        ("traceId", '"not hex"', "24"),
        ("startTimeUnixNano", '"soon"', "24"),
        ("startTimeUnixNano", "-5", "24"),
        ("startTimeUnixNano", "1e300", "24"),
        ("kind", '"SPAN_KIND_CLIENT"', "234"),
        ("kind", '"NONE"', "24"),
        ("name", r'"\ud800"', "234"),
        ("name", "[1]", "24"),
        ("status", '"bad"', "24"),
        ("events", DEEP, "234"),
        ("links", "7", "234"),
        ("unknown", DEEP, "234"),
    ],
)
def test_json_loses_one_attribute_or_one_span(place: str, value: str, kept: str) -> None:
    batch = parse(damaged(place, value), JSON)
    assert ids(batch) == list(kept)
    assert len(batch.dead) == 3 - len(kept)
    assert all(detail and "MARK" not in detail for _, detail, _ in letters(batch))


def test_the_letter_names_the_place_and_not_the_content() -> None:
    (letter,) = letters(parse(damaged("startTimeUnixNano", '"SECRET"'), JSON))
    assert letter == ("wrong_type", "startTimeUnixNano", "here resourceSpans[0].scopeSpans[0].spans[1]")


def test_half_a_character_in_the_bytes_of_json() -> None:
    body = damaged("attribute", '"x"').replace(b'"x"', b'"\xf0\x9f\x98"')
    assert ids(parse(body, JSON)) == ["2", "3", "4"]


def test_names_as_the_schema_writes_them() -> None:
    body = as_json(traces([span(1, NOW)])).replace(b"resourceSpans", b"resource_spans").replace(b"traceId", b"trace_id")
    assert ids(parse(body, JSON)) == ["2"]


def test_points_of_metrics_are_lost_one_by_one() -> None:
    points = [point(NOW - 60, NOW, asInt="5", labels={"gen_ai.request.model": f"m{n}"}) for n in range(3)]
    points[1]["asInt"] = "many"
    points[2]["attributes"].append({"key": "odd", "value": {"intValue": "x"}})
    name = "gen_ai.client.inference.usage.input_tokens"
    data = {"dataPoints": points, "aggregationTemporality": 1, "isMonotonic": True}
    batch = parse(as_json(metrics([{"name": name, "sum": data}])), JSON, "v1/metrics")
    assert [record.tags["model"] for record in batch.records] == ["m0", "m2"]
    assert [reason for reason, _, _ in letters(batch)] == ["wrong_type"]


def test_an_export_of_rubbish_keeps_its_span_and_a_bounded_number_of_letters() -> None:
    request = traces([*range(5000), span(1, NOW)])
    batch = parse(as_json(request), JSON)
    assert ids(batch) == ["2"]
    assert len(batch.dead) == 1001
    assert "4000 more" in letters(batch)[-1][1]


# --- protobuf -------------------------------------------------------------------------------------------------------


def message(attributes: dict[str, Any] | None = None) -> bytes:
    return as_protobuf(traces([span(1, NOW), span(2, NOW, attributes=attributes or {}), span(3, NOW)]))


def test_half_a_character_in_protobuf() -> None:
    body = message({"odd": "XXXX"}).replace(b"XXXX", b"X\xf0\x9f\x98")
    batch = parse(body, PROTOBUF)
    assert ids(batch) == ["2", "3", "4"]
    assert not batch.dead
    assert ids(parse(message().replace(b"chat gpt-4o", b"chat \xffpt-4o"), PROTOBUF)) == ["2", "3", "4"]


def test_half_a_character_in_a_count_is_a_dead_letter() -> None:
    batch = parse(message({"gen_ai.usage.output_tokens": "XX"}).replace(b"XX", b"X\xff"), PROTOBUF)
    assert (ids(batch), [reason for reason, _, _ in letters(batch)]) == (["2", "4"], ["wrong_type"])


def test_a_value_that_nests_without_end_in_protobuf() -> None:
    request = ExportTraceServiceRequest.FromString(message())
    value = b"\x0a\x01x"  # the text "x"
    for _ in range(300):  # an array around it: field 5 of AnyValue, field 1 of ArrayValue
        inner = b"\x0a" + _varint(len(value)) + value
        value = b"\x2a" + _varint(len(inner)) + inner
    odd = b"\x0a\x03odd\x12" + _varint(len(value)) + value
    each = request.resource_spans[0].scope_spans[0].spans[1].SerializeToString() + b"\x4a" + _varint(len(odd)) + odd
    spans = b"".join(
        b"\x12" + _varint(len(each)) + each
        for each in (
            request.resource_spans[0].scope_spans[0].spans[0].SerializeToString(),
            each,
            request.resource_spans[0].scope_spans[0].spans[2].SerializeToString(),
        )
    )
    scope = b"\x12" + _varint(len(spans)) + spans
    batch = parse(b"\x0a" + _varint(len(scope)) + scope, PROTOBUF)
    assert ids(batch) == ["2", "3", "4"]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


# --- anything -------------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=9)
    | st.sampled_from(["intValue", "9" * 30, "\ud83d", "NaN", "gen_ai.usage.input_tokens"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["stringValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "values", "key", "value"]
            )
            | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)
FIELDS = [
    "attributes",
    "traceId",
    "spanId",
    "parentSpanId",
    "name",
    "kind",
    "status",
    "startTimeUnixNano",
    "events",
    "x",
]


@settings(max_examples=150, deadline=None)
@given(value=ANY_JSON, field=st.sampled_from([*FIELDS, "", "token", "one attribute"]))
def test_whatever_stands_in_one_span_its_neighbours_count(value: Any, field: str) -> None:
    request = traces([span(1, NOW), span(2, NOW), span(3, NOW)])
    spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"]
    middle = copy.deepcopy(spans[1])
    if field == "token":
        middle["attributes"].append({"key": "gen_ai.usage.output_tokens", "value": value})
    elif field == "one attribute":
        middle["attributes"].append(value)
    elif field:
        middle[field] = value
    spans[1] = middle if field else value
    batch = parse(json.dumps(request).encode("utf-8", "surrogatepass"), JSON)
    kept = {record.id[:32].lstrip("0") for record in batch.records}
    assert {"2", "4"} <= kept
    assert len(batch.records) + len(batch.dead) <= 3
    assert all(isinstance(record, UsageRecord) and record.input_tokens >= -(2**63) for record in batch.records)


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=12))
def test_whatever_text_stands_in_one_attribute_of_protobuf(noise: bytes) -> None:
    mark = b"M" * len(noise)
    if not mark:
        return
    body = message({"odd": mark.decode()})
    assert mark in body
    at = body.index(b"odd")
    body = body[:at] + body[at:].replace(mark, noise, 1)
    assert ids(parse(body, PROTOBUF)) == ["2", "3", "4"]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), encoding=st.sampled_from([JSON, PROTOBUF]))
def test_any_bytes_are_answered(data: st.DataObject, encoding: str) -> None:
    """A body that is cut, changed or mere noise gives records and dead letters, never an error."""
    body = bytearray(message() if encoding == PROTOBUF else as_json(traces([span(1, NOW), span(2, NOW)])))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for given_body in (cut, data.draw(st.binary(max_size=50))):
        batch = parse(given_body, encoding)
        assert len(batch.records) <= 3
