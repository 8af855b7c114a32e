"""Forgets a person: a value of a tag is replaced by a random name in everything that is kept on the log.

The new name is random, so nobody can work out from it who was meant, and the sums stay what they were. Records, alerts,
the ledger, snapshots and cursors are rewritten on the embedded log. On Kafka only topics that keep the latest value of
a key can be; the others forget by their retention.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from curb.actions.ledger.memory import Memory
from curb.stream.errors import PermanentError
from curb.stream.log.codec import UNREADABLE
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import STATE, TOPICS
from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.work.checkpoint import chunk_keys, rewritten_snapshots

#: Called with what is worked on now and how many messages of it are done.
Progress = Callable[[str, int], None]
_PAGE_BYTES = 1 << 20


class Redaction:
    """Replaces one value of one tag. `other_tags` counts where it is the value of another tag, which stays: `known`
    names tags. With `parts` the name is also replaced inside longer words, such as ids of records."""

    def __init__(self, tag: str, name: str, known: Set[str] = frozenset(), *, parts: bool = False) -> None:
        if not tag or not name or name in (OTHER, UNTAGGED):
            raise ValueError("give a tag and one of its values, such as end_user=u-123")
        self.tag, self.name, self._known = tag, name, known
        self.replacement = f"forgotten-{secrets.token_hex(6)}"
        self.other_tags: Counter[str] = Counter()
        #: As a word of its own: neither part of a longer name nor of an address. A dot may end a sentence.
        whole = rf"(?<![\w@.+-]){re.escape(name)}(?!\.?[\w@+-])"
        self._word = re.compile(re.escape(name) if parts else whole)
        # In JSON a quote and a backslash are written with a backslash before them.
        self._forms = {name.encode(), msgspec.json.encode(name)[1:-1]}

    def may_hold(self, data: bytes) -> bool:
        """Whether the name may be in it; quick."""
        return any(form in data for form in self._forms)

    def lines(self, data: bytes) -> bytes:
        """A message of JSON lines; lines without the name, and what is no JSON, stay as they are."""
        if not self.may_hold(data):
            return data
        return b"\n".join(self._line(line) for line in data.split(b"\n"))

    def packed(self, data: bytes) -> bytes:
        """A snapshot in MessagePack, with all that lies packed in it."""
        if not self.may_hold(data):
            return data
        try:
            found = msgspec.msgpack.decode(data)
        except UNREADABLE:
            return self.lines(data)
        return msgspec.msgpack.encode(self.value(found)) if isinstance(found, dict | list) else self.lines(data)

    def text(self, text: str) -> str:
        """A text with the name replaced where it is a word; JSON in a text as JSON."""
        if self.name not in text:
            return text
        if text[:1] in "{[":
            return self._line(text.encode()).decode()
        return self._word.sub(self.replacement, text)

    def value(self, value: Any, under: str = "") -> Any:
        """Anything decoded, with the name replaced in it; `under` is the key that it is the value of."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.packed(value)
        if isinstance(value, dict):
            return {self.value(key): self._member(key, each, under) for key, each in value.items()}
        if isinstance(value, list):
            return [self.value(each) for each in value]
        return value

    def _member(self, key: Any, value: Any, under: str) -> Any:
        if value == self.name and isinstance(key, str):
            if key == self.tag:
                return self.replacement
            if under == "tags" or key in self._known:
                self.other_tags[key] += 1
                return value
        return self.value(value, key if isinstance(key, str) else "")

    def _line(self, line: bytes) -> bytes:
        if not self.may_hold(line):
            return line
        try:
            found = msgspec.json.decode(line)
        except UNREADABLE:
            before, brace, rest = line.partition(b"{")
            if before and brace:  # a key: a scope and the tags of a series
                return self._words(before) + self._line(brace + rest)
            return self._words(line)
        return msgspec.json.encode(self.value(found))

    def _words(self, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")
        return self._word.sub(self.replacement, text).encode("utf-8", "surrogateescape")


@dataclass
class Forgotten:
    """What was replaced, or would be: messages by topic, and what remains."""

    changed: Counter[str] = field(default_factory=Counter)
    #: Topics of Kafka with messages that hold the name until their retention is over.
    remains: Counter[str] = field(default_factory=Counter)
    other_tags: Counter[str] = field(default_factory=Counter)
    #: Files of the data directory in which the name still stands.
    files: list[Path] = field(default_factory=list)


async def forget(log: Log, redaction: Redaction, now: float, progress: Progress, *, dry_run: bool) -> Forgotten:
    """Replace the name in all that the log holds; with `dry_run` count only.

    The daemons must have ended: what they remember, they would write again. Raises PermanentError while an action on
    the name is in force, since its undo needs the name, and while a daemon uses the embedded log.
    """
    await _refuse_open_actions(log, redaction, now)
    found = Forgotten()
    compacted: list[Message] = []
    for topic, spec in TOPICS.items():
        if spec.compacted:
            compacted += await _compacted(log, topic, redaction, found)
            progress(topic, found.changed[topic])
    if not isinstance(log, EmbeddedLog):
        for topic, spec in TOPICS.items():
            if not spec.compacted:
                async for message in log.scan(topic):
                    found.remains[topic] += redaction.lines(message.value) != message.value
                progress(topic, found.remains[topic])

    def changed(message: Message) -> Message | None:
        value, key = redaction.lines(message.value), redaction.lines(message.key)
        if value == message.value and key == message.key:
            return None
        found.changed[message.topic] += 1
        return message._replace(value=value, key=key)

    if isinstance(log, EmbeddedLog):
        await log.rewrite(changed, compacted, progress, dry_run=dry_run)
    elif not dry_run and compacted:
        await log.append(compacted)
    found.other_tags = redaction.other_tags
    found.changed = +found.changed
    found.remains = +found.remains
    return found


def left_in(directory: Path, redaction: Redaction) -> list[Path]:
    """Files below a directory that hold the name as bytes, also as a part of something else."""
    return [path for path in sorted(directory.rglob("*")) if path.is_file() and _holds(path, redaction)]


def _holds(path: Path, redaction: Redaction) -> bool:
    tail = b""
    with path.open("rb") as file:
        while page := file.read(_PAGE_BYTES):
            if redaction.may_hold(tail + page):
                return True
            tail = page[-1024:]
    return False


async def _compacted(log: Log, topic: str, redaction: Redaction, found: Forgotten) -> list[Message]:
    """What to append for the latest values of a topic; an empty value deletes one."""
    table = await log.table(topic)
    chunks = chunk_keys(table) if topic == STATE else frozenset()
    messages = []
    if topic == STATE:
        messages = rewritten_snapshots(table, redaction.packed)
    for key, value in table.items():
        if key in chunks:
            continue
        new_key, new_value = redaction.lines(key), redaction.lines(value)
        if new_key != key:
            messages.append(Message(topic, b"", key=key))
        if (new_key, new_value) != (key, value):
            messages.append(Message(topic, new_value, key=new_key))
    found.changed[topic] += len(messages)
    return messages


async def _refuse_open_actions(log: Log, redaction: Redaction, now: float) -> None:
    memory = Memory(log)
    await memory.read(now)
    for state in memory.ledger.actions():
        about = state.last.tags.get(redaction.tag) == redaction.name or redaction.name in state.last.plan.target
        if (state.is_held or state.is_pending) and about:
            what = f"{state.last.action_id} on {state.last.plan.target}"
            raise PermanentError(f"an action is not over: {what}; end it first (`curb actions undo`), then forget")
