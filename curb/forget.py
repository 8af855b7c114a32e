"""Forgets a person: a value of a tag is replaced by a random name in everything that is kept on the log.

The new name is random, so nobody can work out from it who was meant, and the sums stay what they were. Records, alerts,
the ledger, snapshots and cursors are rewritten on the embedded log. On Kafka only topics that keep the latest value of
a key can be; the others forget by their retention.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from curb.actions.ledger.memory import Memory
from curb.detector.state.columns import repacked
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
#: Characters that JSON may write in no other way than as they are.
_PLAIN = re.compile(r"[A-Za-z0-9 _.:@=-]+")
#: Control characters that texts have. Others are in numbers, which are no text even if their bytes spell a name.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Redaction:
    """Replaces one value of one tag. `other_tags` counts where it is the value of another tag, which stays: `known`
    names tags. With `parts` the name is also replaced inside longer words, such as ids of records. The composed and
    the decomposed form of Unicode are one name: people cannot see the difference."""

    def __init__(self, tag: str, name: str, known: Set[str] = frozenset(), *, parts: bool = False) -> None:
        if not tag or not name or name in (OTHER, UNTAGGED):
            raise ValueError("give a tag and one of its values, such as end_user=u-123")
        self.tag, self.name, self._known = tag, name, known
        self.replacement = f"forgotten-{secrets.token_hex(6)}"
        self.other_tags: Counter[str] = Counter()
        self._names = {name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))}
        either = "|".join(re.escape(each) for each in sorted(self._names, key=len, reverse=True))
        #: As a word of its own: neither part of a longer name nor of an address. A dot may end a sentence.
        whole = rf"(?<![\w@.+-])(?:{either})(?!\.?[\w@+-])"
        self._word = re.compile(either if parts else whole)
        # In JSON a quote and a backslash are written with a backslash before them, and others may be.
        dumped = (json.dumps(each)[1:-1] for each in self._names)
        self._forms = {form for each in self._names for form in (each.encode(), msgspec.json.encode(each)[1:-1])}
        self._forms |= {form.encode() for form in dumped}
        self.longest = max(map(len, self._forms))
        plain = [max(_PLAIN.findall(each), key=len, default="").encode() for each in self._names]
        #: Bytes of which there must be some where the name is, however it is escaped.
        self._hints = {rb"\u", *self._forms} if b"" in plain else set(plain)

    def is_name(self, text: str) -> bool:
        """Whether it is the name, in either form of Unicode."""
        return text in self._names

    def is_in(self, data: bytes) -> bool:
        """Whether the name is in it, as such or as in JSON."""
        return any(form in data for form in self._forms)

    def may_hold(self, data: bytes) -> bool:
        """Whether the name may be in it, in JSON within JSON too; quick."""
        return any(hint in data for hint in self._hints)

    def lines(self, data: bytes) -> bytes:
        """A message of JSON lines; lines without the name, and what is no JSON, stay as they are."""
        if not self.may_hold(data):
            return data
        return b"\n".join(self._line(line) for line in data.split(b"\n"))

    def packed(self, data: bytes) -> bytes:
        """A snapshot in MessagePack, with all that lies packed in it; numbers stay as they are."""
        try:
            found = msgspec.msgpack.decode(data)
        except UNREADABLE:
            found = None
        if isinstance(found, dict | list):
            changed = self.value(found)
            return data if changed == found else msgspec.msgpack.encode(changed)
        return data if not self.may_hold(data) or _NO_TEXT.search(data) or not _is_utf8(data) else self.lines(data)

    def text(self, text: str) -> str:
        """A text with the name replaced where it is a word; JSON in a text as JSON."""
        if text.startswith(("{", "[")):
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
            if (array := repacked(value, self.packed)) is not None:
                return array
            return [self.value(each) for each in value]
        return value

    def _member(self, key: Any, value: Any, under: str) -> Any:
        if isinstance(value, str) and self.is_name(value) and isinstance(key, str):
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
        changed = self.value(found)
        return line if changed == found else msgspec.json.encode(changed)

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


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def left_in(directory: Path, redaction: Redaction) -> list[Path]:
    """Files below a directory that hold the name as bytes, also as a part of something else."""
    return [path for path in sorted(directory.rglob("*")) if path.is_file() and _holds(path, redaction)]


def _holds(path: Path, redaction: Redaction) -> bool:
    tail = b""
    with path.open("rb") as file:
        while page := file.read(_PAGE_BYTES):
            if redaction.is_in(tail + page):
                return True
            tail = (tail + page)[-redaction.longest :]
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
        tags, target = state.last.tags, state.last.plan.target
        about = redaction.is_name(tags.get(redaction.tag, "")) or redaction.text(target) != target
        if (state.is_held or state.is_pending) and about:
            what = f"{state.last.action_id} on {state.last.plan.target}"
            raise PermanentError(f"an action is not over: {what}; end it first (`curb actions undo`), then forget")
