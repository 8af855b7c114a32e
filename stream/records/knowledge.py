"""Lines of curb.commands: commands to carry out, and entries by people; their `type` distinguishes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from curb.stream.log.codec import UNREADABLE, encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COMMANDS
from curb.stream.records.spend import Annotation, BudgetIncrease, Command, Feedback, Knowledge, PlannedActivity, Silence

#: Called with the number of a line, the line, and why it cannot be read.
OnBad = Callable[[int, bytes, str], None]

#: A time behind this (in the year 2096) is a mistake; believed, it would end time for every series.
LATEST_TIME = 4_000_000_000.0
_MAX_TAGS, _MAX_KEY_CHARS, _MAX_VALUE_CHARS, _MAX_TEXT_CHARS = 64, 128, 256, 2000
_MAX_USD = 1e9


class _Typed(msgspec.Struct):
    """Commands carry no type."""

    type: str = ""


_typed, _command = msgspec.json.Decoder(_Typed), msgspec.json.Decoder(Command)
_knowledge: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Knowledge)


def read_commands(value: bytes, on_bad: OnBad) -> list[Command]:
    """The commands of a message. What cannot be read goes to `on_bad`; lines of another type are for others."""
    return [command for _, _, command in _read(value, _command, on_bad, typed=False)]


def read_knowledge(value: bytes, on_bad: OnBad) -> list[Knowledge]:
    """Entries by people in a message. Unsound lines with a type go to `on_bad`; commands are left to others."""
    records: list[Knowledge] = []
    for number, line, record in _read(value, _knowledge, on_bad, typed=True):
        why = refusal(record)
        if why is None:
            records.append(record)
        else:
            on_bad(number, line, why)
    return records


def _read(
    value: bytes, decoder: msgspec.json.Decoder[Any], on_bad: OnBad, *, typed: bool
) -> Iterator[tuple[int, bytes, Any]]:
    """Number, bytes and record of each line that has a type, or of each that has none."""
    for number, line in enumerate(value.split(b"\n")):
        if not line.strip():
            continue
        try:
            if bool(_typed.decode(line).type) != typed:
                continue
        except UNREADABLE as error:
            if not typed:  # no object at all: reported once, by readers of commands
                on_bad(number, line, str(error))
            continue
        try:
            yield number, line, decoder.decode(line)
        except UNREADABLE as error:
            on_bad(number, line, str(error))


def knowledge_message(record: Knowledge) -> Message:
    """The message that records it."""
    return Message(COMMANDS, encode(record), key=record.id.encode())


def refusal(record: Knowledge) -> str | None:
    """Why nobody can mean this record, in words that name the field; None when it is sound."""
    return next(_reasons(record), None)


def _reasons(record: Knowledge) -> Iterator[str]:
    if not 0 < len(record.id) <= _MAX_VALUE_CHARS:
        yield f"id is empty or longer than {_MAX_VALUE_CHARS} characters"
    yield from _time("at", record.at)
    yield from _texts(record)
    if isinstance(record, PlannedActivity):
        yield from _tags("tags", record.tags, needed=True)
        yield from _time("start", record.start)
        yield from _time("end", record.end)
        if record.end <= record.start:
            yield "end is not after start"
        yield from _money("max_usd", record.max_usd)
    elif isinstance(record, Annotation):
        yield from _tags("tags", record.tags, needed=False)
    elif isinstance(record, Feedback):
        if not 0 < len(record.alert_id) <= _MAX_VALUE_CHARS:
            yield f"alert_id is empty or longer than {_MAX_VALUE_CHARS} characters"
    elif isinstance(record, Silence):
        yield from _tags("matchers", record.matchers, needed=True)
        yield from _time("until", record.until)
    elif isinstance(record, BudgetIncrease):
        if not 0 < len(record.budget) <= _MAX_VALUE_CHARS:
            yield f"budget is empty or longer than {_MAX_VALUE_CHARS} characters"
        yield from _tags("match", record.match, needed=False)
        yield from _money("amount_usd", record.amount_usd)
        yield from _time("expires_at", record.expires_at)


def _time(name: str, at: float) -> Iterator[str]:
    if not (math.isfinite(at) and 0 < at <= LATEST_TIME):
        yield f"{name} is no time between 1970 and 2096"


def _money(name: str, usd: float) -> Iterator[str]:
    if not (math.isfinite(usd) and 0 <= usd <= _MAX_USD):
        yield f"{name} is not between 0 and {_MAX_USD:g} dollars"


def _tags(name: str, tags: Mapping[str, str], *, needed: bool) -> Iterator[str]:
    if needed and not tags:
        yield f"{name} is empty: it would match everything"
    if len(tags) > _MAX_TAGS:
        yield f"{name} has more than {_MAX_TAGS} entries"
    if any(not 0 < len(key) <= _MAX_KEY_CHARS or not 0 < len(value) <= _MAX_VALUE_CHARS for key, value in tags.items()):
        yield f"{name} has an empty name or value, or one over {_MAX_KEY_CHARS} or {_MAX_VALUE_CHARS} characters"


def _texts(record: Knowledge) -> Iterator[str]:
    for name in ("reason", "text", "note", "by"):
        if len(getattr(record, name, "")) > _MAX_TEXT_CHARS:
            yield f"{name} is longer than {_MAX_TEXT_CHARS} characters"
