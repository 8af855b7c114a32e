"""Tags of a bill's lines, whether they come as a map, as JSON or as a column each, under the names asked for."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curb.connectors.bills.cells.arrow import from_ints, from_texts, to_numbers
from curb.connectors.bills.cells.values import as_text
from curb.connectors.bills.files import canonical

_USER_PREFIXES = ("user:", "user_", "user/")
#: Names of the key and of the value in a list of tags.
_PAIRS = (("key", "tagkey", "name"), ("value", "tagvalue"))
_REMEMBERED_TEXTS, _TOLD_TEXTS = 50_000, 100


class BillTags:
    """Finds `wanted` (Curb's tag → key in the bill) in the columns `sources` (canonical names, best first).

    Keys are compared without case and separators, and without the prefix `user:` that AWS puts before them.
    """

    def __init__(self, wanted: Mapping[str, str], sources: Sequence[str]) -> None:
        self._wanted = {tag: _same(key) for tag, key in wanted.items()}
        self._sources = sources
        #: Column → what it is: None for a map or JSON, else the one tag it holds.
        self._columns: list[tuple[str, str | None]] = []
        self._read: dict[str, list[str | None]] = {}
        self.bad: list[str] = []

    def choose(self, names: Sequence[str], called: Callable[[str], str] = canonical) -> list[str]:
        """The columns to read of those that there are; `called` gives the canonical name of a column."""
        found: list[tuple[str, str | None]] = []
        for source in self._sources:
            for name in names:
                if called(name) == source:
                    found.append((name, None))
                    continue
                key = _flat_key(name, source)
                found += [(name, tag) for tag, wanted in self._wanted.items() if key is not None and key == wanted]
        self._columns = found if self._wanted else []
        return list(dict.fromkeys(name for name, _ in self._columns))

    def of(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Tag → its value in each row, or null."""
        found: dict[str, list[pa.Array]] = {tag: [] for tag in self._wanted}
        for name, tag in self._columns:
            column = batch.column(name)
            if tag is not None:
                found[tag].append(as_text(column).cast(pa.string()))
                continue
            values = self._of_nested(column) if pa.types.is_nested(column.type) else self._of_json(column)
            for each, array in values.items():
                found[each].append(array)
        nothing = pa.nulls(len(batch), pa.string())
        return {tag: pc.coalesce(*arrays) if arrays else nothing for tag, arrays in found.items()}

    def _of_nested(self, column: pa.Array) -> dict[str, pa.Array]:
        """A map, a list of keys and values, or a struct with a field for each key."""
        kind = column.type
        if pa.types.is_struct(kind):
            fields = {_same(kind.field(at).name): column.field(at) for at in reversed(range(kind.num_fields))}
            return {tag: as_text(fields[key]) for tag, key in self._wanted.items() if key in fields}
        if pa.types.is_map(kind):
            return self._of_pairs(column, column.keys, column.items)
        pairs = column.values
        if pa.types.is_struct(pairs.type):
            places = {canonical(pairs.type.field(at).name): at for at in range(pairs.type.num_fields)}
            key, value = (next((places[name] for name in names if name in places), None) for names in _PAIRS)
            if key is not None and value is not None:
                return self._of_pairs(column, pairs.field(key), pairs.field(value))
        self._note_bad(str(kind))
        return {}

    def _note_bad(self, text: str) -> None:
        if len(self.bad) < _TOLD_TEXTS and text not in self.bad:
            self.bad.append(text)

    def _of_pairs(self, column: pa.Array, keys: pa.Array, items: pa.Array) -> dict[str, pa.Array]:
        offsets = to_numbers(column.offsets, 0)
        first, row = int(offsets[0]), np.repeat(np.arange(len(column)), np.diff(offsets))
        encoded = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
        names = [_same(name or "") for name in encoded.dictionary.to_pylist()]
        numbers = to_numbers(encoded.indices, 0)
        found = {}
        for tag, wanted in self._wanted.items():
            match = np.array([name == wanted for name in names] or [False])
            at = np.flatnonzero(match[numbers[first : first + len(row)]]) if names else np.zeros(0, np.int64)
            place = np.full(len(column), -1)
            place[row[at[::-1]]] = at[::-1] + first  # of a key that is there twice the first counts
            found[tag] = as_text(items.take(from_ints(place, place < 0)))
        return found

    def _of_json(self, column: pa.Array) -> dict[str, pa.Array]:
        if not pa.types.is_dictionary(column.type):
            column = as_text(column).dictionary_encode()
        rows = [self._values(text) for text in column.dictionary.to_pylist()]
        return {
            tag: from_texts([values[at] for values in rows]).take(column.indices) for at, tag in enumerate(self._wanted)
        }

    def _values(self, text: str | None) -> list[str | None]:
        """The wanted tags of one JSON map; nothing of what is none."""
        known = self._read.get(text or "")
        if known is not None:
            return known
        if len(self._read) >= _REMEMBERED_TEXTS:
            self._read.clear()
        tags = _json_map(text) if text else {}
        if tags is None:
            self._note_bad(text or "")
            tags = {}
        by_name = {_same(key): str(value) for key, value in reversed(tags.items()) if value is not None}
        values = self._read[text or ""] = [by_name.get(wanted) for wanted in self._wanted.values()]
        return values


def _json_map(text: str) -> dict[str, Any] | None:
    """The map; some sources leave out its braces, write a list of keys and values, or Python's own form of it."""
    for read, attempt in ((json.loads, text), (json.loads, "{" + text + "}"), (literal_eval, text)):
        try:
            value = read(attempt)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, list) and all(isinstance(each, dict) and "key" in each for each in value):
            value = {str(each["key"]): each.get("value") for each in value}
        return value if isinstance(value, dict) else None
    return None


def _same(key: str) -> str:
    low = key.lower()
    prefix = next((each for each in _USER_PREFIXES if low.startswith(each)), "")
    return canonical(low[len(prefix) :])


def _flat_key(column: str, source: str) -> str | None:
    """The key of a column such as resourceTags/user:team or resource_tags_user_team."""
    low, at = column.lower(), 0
    for letter in source:
        at = low.find(letter, at) + 1
        if at == 0:
            return None
    if canonical(low[:at]) != source:
        return None
    return _same(low[at:].lstrip("/_:. "))
