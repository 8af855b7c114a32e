"""OTLP requests that are damaged in places: one wrong value costs an attribute or a span, never the export."""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from curb.connectors.decode import Rejected

#: Deeper JSON is cut: an export needs 12 levels, and Python's parser ends near 1,000.
_MAX_DEPTH = 64
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
#: No number of an export has more digits; Python refuses texts of numbers from 4,300 on.
_MAX_DIGITS = 400
_MAX_PLACES = 1000
#: Prompts may stand in these, and nothing of them is read.
_SKIPPED = frozenset({"events", "links", "exemplars", "entity_refs"})
#: Fields that hold values of any depth; attributes of these kinds are not read.
_NESTED = frozenset({"array_value", "kvlist_value"})
_HEX = frozenset({"trace_id", "span_id", "parent_span_id"})
_INTEGERS = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


class Lost:
    """Elements that could not be read: where and why for the first `_MAX_PLACES`, then only how many more."""

    def __init__(self) -> None:
        self.places: list[tuple[str, Rejected]] = []
        self.more = 0

    def add(self, path: str, why: Rejected) -> None:
        if len(self.places) < _MAX_PLACES:
            self.places.append((path, why))
        else:
            self.more += 1


class WrongError(Exception):
    """A value does not fit its field; the text names the field only."""


def loads(body: bytes) -> Any | Rejected:
    """The JSON of a body. Half characters are replaced and what is nested too deeply is cut."""
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        text, reason = body.decode("utf-8", "replace"), Rejected("not_utf8", "the body is not UTF-8")
    except json.JSONDecodeError:
        return Rejected("not_json", "the body is not JSON")
    except (ValueError, RecursionError):  # a number of thousands of digits; nesting
        text, reason = body.decode("utf-8", "replace"), Rejected("not_json", "the body is not JSON")
    try:
        return json.loads(_shallow(text), parse_int=_integer)
    except (ValueError, RecursionError):
        return reason


def fill(message: Message, plain: Any, lost: Lost, path: str = "") -> int:
    """Set the fields of `message` from OTLP's JSON; the number of spans and data points read.

    Elements of lists that do not fit go to `lost`; an attribute whose value does not fit becomes an empty text. Fields
    of other names are skipped. Raises WrongError when the message itself does not fit.
    """
    if not isinstance(plain, dict):
        raise WrongError(path or "the request")
    kind: Any = type(message)
    fields, read = _fields(kind), 0
    for name, value in plain.items():
        field = fields.get(name)
        if field is None or value is None or field.name in _SKIPPED:
            continue
        place = f"{path}.{name}" if path else name
        if field.message_type is None:
            if not field.is_repeated:
                _set(message, field, value, place)
        elif field.name in _NESTED:
            getattr(message, field.name).SetInParent()
        elif field.is_repeated:
            read += _fill_each(getattr(message, field.name), value, lost, place)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            read += fill(child, value, lost, place)
    return read


def _fill_each(children: Any, plain: Any, lost: Lost, path: str) -> int:
    if not isinstance(plain, list):
        raise WrongError(path)
    read = 0
    for index, item in enumerate(plain):
        child = children.add()
        try:
            read += fill(child, item, lost, f"{path}[{index}]")
        except WrongError as error:
            if child.DESCRIPTOR.name == "KeyValue" and child.key:
                child.value.string_value = ""
                continue
            del children[-1]
            if child.DESCRIPTOR.name != "KeyValue":
                lost.add(f"{path}[{index}]", Rejected("wrong_type", str(error).rpartition("].")[2]))
        else:
            read += child.DESCRIPTOR.name == "Span" or child.DESCRIPTOR.name.endswith("DataPoint")
    return read


def _set(message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
    try:
        setattr(message, field.name, _converted(field, value))
    except (ValueError, TypeError, OverflowError, KeyError, binascii.Error):
        raise WrongError(path) from None


def _converted(field: FieldDescriptor, value: Any) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if not isinstance(value, str):
            raise TypeError(field.name)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return _identifier(value) if field.name in _HEX else b""
        return value.encode("utf-8", "replace").decode()  # half of a character becomes "?"
    if isinstance(value, bool) != (kind == FieldDescriptor.CPPTYPE_BOOL):
        raise TypeError(field.name)
    if kind in _FLOATS:
        return float(value)
    if field.enum_type is not None and isinstance(value, str):
        return field.enum_type.values_by_name[value].number
    if kind in _INTEGERS or kind == FieldDescriptor.CPPTYPE_ENUM:
        whole = int(value)
        if isinstance(value, float) and whole != value:
            raise ValueError(field.name)
        return whole
    return value


def _identifier(text: str) -> bytes:
    """An id in hex; any other text counts as missing."""
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        return b""


@cache
def _fields(message: Any) -> Mapping[str, FieldDescriptor]:
    """By the names of JSON, and by those of the schema, which some exporters write."""
    fields = message.DESCRIPTOR.fields
    return {field.name: field for field in fields} | {field.json_name: field for field in fields}


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float("inf")


def _shallow(text: str) -> str:
    """The JSON text with null for everything nested deeper than `_MAX_DEPTH`."""
    kept, depth, start = [], 0, 0
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
            if depth == _MAX_DEPTH + 1:
                kept.append(text[start : token.start()] + "null")
        elif mark in ("]", "}"):
            if depth == _MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    if depth > _MAX_DEPTH:
        return ""
    return "".join(kept) + text[start:]


# --- protobuf -------------------------------------------------------------------------------------------------------


def plain_of(request: type[Message], body: bytes) -> dict[str, Any] | None:
    """A protobuf body that the strict parser refuses, as OTLP's JSON; None when not even its frame can be read.

    The strict parser refuses an export for half a character in one attribute, or for one nested value.
    """
    kind: Any = request
    message = _tolerant(kind)()
    try:
        message.ParseFromString(body)
    except DecodeError:
        return None
    return _plain(message)


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in _SKIPPED:
            continue
        if field.message_type is not None:
            plain[field.name] = [_plain(each) for each in value] if field.is_repeated else _plain(value)
        elif field.name in _HEX:
            plain[field.name] = value.hex()
        elif not field.is_repeated:
            plain[field.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return plain


@cache
def _tolerant(request: Any) -> type[Message]:
    """The same message with bytes for texts and for what nests without end."""
    pool = descriptor_pool.DescriptorPool()
    _add_tolerant(request.DESCRIPTOR.file, pool.Add, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(request.DESCRIPTOR.full_name))


def _add_tolerant(file: Any, add: Callable[[descriptor_pb2.FileDescriptorProto], Any], done: set[str]) -> None:
    if file.name in done:
        return
    done.add(file.name)
    for needed in file.dependencies:
        _add_tolerant(needed, add, done)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        _loosen(message)
    add(proto)


def _loosen(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        is_text = field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING
        if is_text or field.name in _NESTED | _SKIPPED:
            field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
    for nested in message.nested_type:
        _loosen(nested)
