"""Sums of a bill's lines by charge period and texts, batch by batch in columns; only sums are held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curb.connectors.bills.cells.arrow import from_ints, to_numbers
from curb.connectors.bills.charges import Charge, Dimensions

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
#: Rows that may wait to be summed, texts of a column whose meaning is kept, charges made at a time.
_WAITING_ROWS, _REMEMBERED_TEXTS, _CHUNK_ROWS = 600_000, 200_000, 20_000


class Lines(NamedTuple):
    """Lines of a bill in columns of one length. Times are epoch seconds, amounts are dollars."""

    start: Ints
    end: Ints
    effective: Floats
    billed: Floats
    #: Name → text per line, as numbers of an `Interner` of that name.
    keys: dict[str, NDArray[np.int32]]


class Interner:
    """Texts ↔ small numbers. `read` makes of a text what is kept of it (by default itself); null is read as ""."""

    def __init__(self, read: Callable[[str], str] = str) -> None:
        self._read = read
        self.values: list[str] = []
        self._number_of_value: dict[str, int] = {}
        self._number_of_text: dict[str, int] = {}
        self._last: tuple[pa.Array, NDArray[np.int32]] | None = None

    def numbers(self, texts: pa.Array) -> NDArray[np.int32]:
        """The number of each text."""
        if not pa.types.is_dictionary(texts.type):
            texts = texts.cast(pa.string()).dictionary_encode()
        if self._last is None or not self._last[0].equals(texts.dictionary):
            numbers = [self.number(text) for text in texts.dictionary.to_pylist()]
            self._last = texts.dictionary, np.array([*numbers, self.number(None)], np.int32)
        # A null has no place in the dictionary; it takes the last.
        places = to_numbers(texts.indices, len(texts.dictionary))
        found: NDArray[np.int32] = self._last[1][places]
        return found

    def number(self, text: str | None) -> int:
        """The number of one text."""
        text = text or ""
        number = self._number_of_text.get(text)
        if number is None:
            if len(self._number_of_text) >= _REMEMBERED_TEXTS:
                self._number_of_text.clear()
            value = self._read(text)
            number = self._number_of_value.get(value)
            if number is None:
                number = self._number_of_value[value] = len(self.values)
                self.values.append(value)
            self._number_of_text[text] = number
        return number


#: The texts of a key → its dimensions, and the group of lines that are settled together, empty for none.
Meaning = Callable[[tuple[str, ...]], tuple[Dimensions, str]]
#: Group → dollars, effective and billed.
Totals: TypeAlias = dict[str, tuple[float, float]]
#: Group → the factors of effective and billed dollars that make its effective ones; groups it leaves out stay.
Settled: TypeAlias = Mapping[str, tuple[float, float]]


class _Sums(NamedTuple):
    """Sums per key in columns of one length: start and length in slots, then the numbers of the texts."""

    keys: tuple[NDArray[Any], ...]
    effective: Floats
    billed: Floats


class BillSums:
    """Adds up lines by (start, length, dimensions); `slot_s` is the least length of a charge period told apart."""

    def __init__(self, interners: Mapping[str, Interner], slot_s: int, meaning: Meaning) -> None:
        self._interners, self._slot_s, self._meaning = dict(interners), slot_s, meaning
        self._places: dict[tuple[Dimensions, str], int] = {}
        self._known: dict[tuple[int, ...], int] = {}
        self._waiting: list[_Sums] = []
        self._rows, self._most_rows = 0, _WAITING_ROWS

    def add(self, lines: Lines) -> None:
        """Count lines in. Raises what `meaning` raises."""
        if not len(lines.start):
            return
        start = lines.start // self._slot_s
        slots = np.maximum(-(-lines.end // self._slot_s) - start, 1)
        place = self._meant([lines.keys[name] for name in self._interners])
        key = (start.astype(np.int32), slots.astype(np.int32), place)
        self._waiting.append(_Sums(key, lines.effective, lines.billed))
        self._rows += len(start)
        if self._rows > self._most_rows:
            self._fold()
            self._most_rows = self._rows + max(_WAITING_ROWS, self._rows // 2)

    def charges(self, settle: Callable[[Totals], Settled]) -> Iterator[Charge]:
        """Every key once, in dollars, after `settle` has seen what the groups amount to."""
        if not self._waiting:
            return
        self._fold()
        sums = self._settled(self._waiting.pop(), settle)
        dimensions, slot_s = [of for of, _ in self._places], self._slot_s
        for first in range(0, len(sums.billed), _CHUNK_ROWS):
            rows = slice(first, first + _CHUNK_ROWS)
            start, slots = (column[rows].astype(np.int64) * slot_s for column in sums.keys[:2])
            of = [dimensions[at] for at in sums.keys[2][rows].tolist()]
            amounts = sums.effective[rows].tolist(), sums.billed[rows].tolist()
            yield from map(Charge._make, zip(start.tolist(), slots.tolist(), *amounts, of, strict=True))

    def _settled(self, sums: _Sums, settle: Callable[[Totals], Settled]) -> _Sums:
        groups = [group for _, group in self._places]
        effective, billed = (np.bincount(sums.keys[2], of, len(groups)) for of in (sums.effective, sums.billed))
        totals: Totals = {}
        for group, *usd in zip(groups, effective.tolist(), billed.tolist(), strict=True):
            before = totals.get(group, (0.0, 0.0))
            totals[group] = before[0] + usd[0], before[1] + usd[1]
        factors = settle(totals)
        if not factors:
            return sums
        of_group = np.array([factors.get(group, (1.0, 0.0)) for group in groups])[sums.keys[2]]
        return sums._replace(effective=of_group[:, 0] * sums.effective + of_group[:, 1] * sums.billed)

    def _meant(self, numbers: list[NDArray[Any]]) -> NDArray[np.int32]:
        """The place of each row's dimensions."""
        first, of_row = _distinct(numbers)
        meant = []
        for each in zip(*(column[first].tolist() for column in numbers), strict=True):
            known = self._known.get(each)
            if known is None:
                texts = (interner.values[n] for interner, n in zip(self._interners.values(), each, strict=True))
                of = self._meaning(tuple(texts))
                known = self._known[each] = self._places.setdefault(of, len(self._places))
            meant.append(known)
        return np.array(meant, np.int32)[of_row]

    def _fold(self) -> None:
        # A month's sums are large: nothing of them is held twice, and what reading them freed is given back before.
        pa.default_memory_pool().release_unused()
        columns = [[*part.keys, part.effective, part.billed] for part in self._waiting]
        self._waiting.clear()
        joined = []
        while columns[0]:
            joined.append(np.concatenate([part.pop(0) for part in columns]))
        self._waiting.append(_summed(_Sums(tuple(joined[:-2]), *joined[-2:])))
        self._rows = len(self._waiting[0].billed)


def _distinct(columns: Sequence[NDArray[Any]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of the different rows of the columns the first of each, and for every row which of these it is.

    A row is packed into one number, which is told apart by its hash: several times as quick as sorting.
    """
    packed, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        low = int(column.min())
        width = int(column.max()) - low + 1
        if size * width >= 2**62:  # number again, so that the product stays small
            packed = np.unique(packed, return_inverse=True)[1]
            size = len(packed)
        packed *= width
        packed += column
        packed -= low
        size *= width
    found = from_ints(packed).dictionary_encode()
    of_row: NDArray[np.intp] = to_numbers(found.indices, 0).astype(np.intp)
    first = np.empty(len(found.dictionary), np.intp)
    first[of_row[::-1]] = np.arange(len(of_row))[::-1]
    return first, of_row


def _summed(sums: _Sums) -> _Sums:
    """Each key once."""
    first, of_row = _distinct(sums.keys)
    keys = tuple(column[first] for column in sums.keys)
    effective: Floats = np.bincount(of_row, sums.effective).astype(np.float64, copy=False)
    billed: Floats = np.bincount(of_row, sums.billed).astype(np.float64, copy=False)
    return _Sums(keys, effective, billed)
