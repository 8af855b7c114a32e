"""The schema of curb.names: what people call the value of a tag, such as the alias of a key."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from curb.stream.log.codec import UNREADABLE, encode
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import NAMES
from curb.stream.records.base import Record


class TagName(Record, kw_only=True):
    """One value of a tag and its name; the newest record of its key counts."""

    tag: str
    value: str
    name: str


def name_message(tag: str, value: str, name: str) -> Message:
    """A record for the log, under the tag and the value."""
    return Message(NAMES, encode(TagName(tag=tag, value=value, name=name)), key=f"{tag} {value}".encode())


async def read_names(log: Log) -> Mapping[tuple[str, str], str]:
    """(tag, value) → name, as the log has them now; what cannot be read is left out. Raises TransientError."""
    found = {}
    for value in (await log.table(NAMES)).values():
        with contextlib.suppress(*UNREADABLE):
            row = msgspec.json.decode(value, type=TagName)
            found[row.tag, row.value] = row.name
    return found
