"""Which spans repeat the usage of others: agents above their calls, one instrumentation around another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

#: Spans of earlier exports that are remembered, about 130 bytes each; the oldest are forgotten first.
MAX_SPANS = 100_000
#: Agents nest ten deep at most; the rest guards against cycles and hostile chains.
_MAX_DEPTH = 64
_CALL, _USAGE = 1, 2


class Node(NamedTuple):
    """One span of an export; `key` is its trace id and span id."""

    key: bytes
    parent: bytes | None
    is_call: bool = False
    has_usage: bool = False
    failed: bool = False
    is_embedding: bool = False


class Calls:
    """Of calls that stand inside one another, the innermost with usage counts.

    Children mostly end, and arrive, before their parents, so spans with calls below them are remembered. A parent that
    arrived and counted first keeps the usage: its children, when they come, are repetitions.
    """

    def __init__(self) -> None:
        self._chats, self._embeddings = _Tree(), _Tree()

    def repeated(self, nodes: Sequence[Node]) -> set[bytes]:
        """The calls among `nodes` that repeat another one. Remembers the export; the same export again is the same.

        An embedding inside a chat, as caches make it, repeats nothing of the chat, so the two are looked at apart.
        """
        embeddings = [node._replace(is_call=node.is_call and node.is_embedding) for node in nodes]
        chats = [node._replace(is_call=node.is_call and not node.is_embedding) for node in nodes]
        return self._chats.repeated(chats) | self._embeddings.repeated(embeddings)


class _Tree:
    """Calls of one sort."""

    def __init__(self) -> None:
        #: Span → the best there is below it: a call without usage, or one with usage.
        self._below: dict[bytes, int] = {}
        self._counted: dict[bytes, None] = {}

    def repeated(self, nodes: Sequence[Node]) -> set[bytes]:
        calls = [node for node in nodes if node.is_call]
        if not calls and not self._below:
            return set()
        parents = {node.key: node.parent for node in nodes}
        repeats = {node.key for node in calls if node.has_usage and self._inside_counted(node.key, parents)}
        marks: dict[bytes, int] = {}
        for node in nodes:
            _mark(node.key, self._below.get(node.key, 0), parents, marks)
            if node.is_call and node.parent is not None and node.key not in repeats:
                _mark(node.parent, _USAGE if node.has_usage else _CALL, parents, marks)
        repeats |= {node.key for node in calls if marks.get(node.key, 0) >= (_USAGE if node.has_usage else _CALL)}
        _remember(self._below, marks)
        _remember(self._counted, {node.key: None for node in calls if node.has_usage and node.key not in repeats})
        silent = (node.key for node in calls if not node.has_usage and not node.failed)
        return repeats | {key for key in silent if self._inside_counted(key, parents)}

    def _inside_counted(self, key: bytes, parents: Mapping[bytes, bytes | None]) -> bool:
        return any(each in self._counted for each in ancestors(key, parents))


def ancestors(key: bytes, parents: Mapping[bytes, bytes | None]) -> Iterator[bytes]:
    """The spans around a span, the nearest first, as far as their parents are known."""
    for _ in range(_MAX_DEPTH):
        above = parents.get(key)
        if above is None:
            return
        yield above
        key = above


def _mark(key: bytes, level: int, parents: Mapping[bytes, bytes | None], marks: dict[bytes, int]) -> None:
    """Note `level` on a span and on all around it."""
    at: bytes | None = key
    while at is not None and marks.get(at, 0) < level:
        marks[at] = level
        at = parents.get(at)


def _remember(memory: dict[bytes, Any], new: Mapping[bytes, Any]) -> None:
    for key in new:
        memory.pop(key, None)  # the newest are last
    memory.update(new)
    while len(memory) > MAX_SPANS:
        del memory[next(iter(memory))]
