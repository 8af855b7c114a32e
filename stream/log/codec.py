"""Bytes of a message ⇄ records: one JSON object a line, several lines a message."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")
_encoder = msgspec.json.Encoder()
#: What decoding a line raises: no JSON or another shape, no UTF-8, nesting deeper than a thousand.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_lines(records: Iterable[Any]) -> bytes:
    """All records as the value of one message."""
    return _encoder.encode_lines(records)


def encode(record: Any) -> bytes:
    """One record as the value of one message."""
    return _encoder.encode(record)


@cache
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode_lines(value: bytes, kind: type[T], on_bad: Callable[[int, bytes, str], None]) -> list[T]:
    """The records of a message. A bad line goes to `on_bad(line_number, line, why)`; the others are kept."""
    decoder: msgspec.json.Decoder[T] = _decoder(cast("Hashable", kind))
    try:
        records: list[T] = decoder.decode_lines(value)
        return records
    except UNREADABLE:
        return _decode_each(value, decoder, on_bad)


def _decode_each(
    value: bytes, decoder: msgspec.json.Decoder[Any], on_bad: Callable[[int, bytes, str], None]
) -> list[Any]:
    records = []
    for number, line in enumerate(value.split(b"\n")):
        if not line.strip():
            continue
        try:
            records.append(decoder.decode(line))
        except UNREADABLE as error:
            on_bad(number, line, str(error))
    return records
