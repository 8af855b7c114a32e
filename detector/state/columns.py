"""Named arrays over all series of a shard that grow, save and load together, and their bytes in snapshots.

Each part of the state has `dump`, which gives views of its arrays that hold until the next change, and `load`, which
takes them over. Other state goes as numbers, lists and dicts that msgspec can write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from cramjam import lz4
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """One array of shape (*lead, series): its type and the value of a new series."""

    lead: tuple[int, ...] = ()
    dtype: type[np.generic] = np.float64
    fill: float = 0.0
    #: The first axis is the buckets of the last minutes: of another length of buckets nothing is taken over.
    by_bucket: bool = False


class Columns:
    """Arrays whose last axis is the series. `columns[name]` is a writable view of the series in use."""

    def __init__(self, columns: Mapping[str, Column], capacity: int) -> None:
        self._columns = dict(columns)
        self._capacity = max(1, capacity)
        self._arrays: dict[str, NDArray[Any]] = {}
        #: What is given out: made once for each size, since it is asked for a hundred times a bucket.
        self._views: dict[str, NDArray[Any]] = {}
        self._clear()

    def _clear(self) -> None:
        self.n = 0
        self._arrays = {name: _fresh(column, self._capacity) for name, column in self._columns.items()}
        self._view()

    def _view(self) -> None:
        self._views = {name: array[..., : self.n] for name, array in self._arrays.items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._views[name]

    def grow(self, n: int) -> None:
        """Use `n` series; those that are new hold the fill values. Capacity grows by a quarter at least."""
        if n <= self.n:
            return
        if n > self._capacity:
            self._capacity = max(n, self._capacity + self._capacity // 4)
            for name, column in self._columns.items():
                array = _fresh(column, self._capacity)
                array[..., : self.n] = self._arrays[name][..., : self.n]
                self._arrays[name] = array
        self.n = n
        self._view()

    def reset(self, which: NDArray[np.bool_]) -> None:
        """Set the series in `which`, shape (series,), to the fill values."""
        for name, column in self._columns.items():
            self[name][..., which] = column.fill

    def dump(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Views of all arrays, named "prefix.column"; the caller copies what must outlast the next change."""
        return {f"{prefix}.{name}": self[name] for name in self._columns}

    def load(self, prefix: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load what `dump` gave. Raises ValueError for arrays of another shape."""
        for name, column in self._columns.items():
            saved = arrays[f"{prefix}.{name}"]
            if saved.shape[:-1] != column.lead and not column.by_bucket:
                raise ValueError(f"{prefix}.{name} has shape {saved.shape}, expected {(*column.lead, 'series')}")
        n = max(arrays[f"{prefix}.{name}"].shape[-1] for name in self._columns)
        self._clear()
        self.grow(n)
        for name, column in self._columns.items():
            saved = arrays[f"{prefix}.{name}"]
            if saved.shape[:-1] == column.lead:
                self[name][...] = saved

    @property
    def bytes_per_series(self) -> float:
        """Bytes of one series."""
        return sum(array.nbytes for array in self._arrays.values()) / self._capacity


class Parts:
    """Base of state that is columns and moments: `dump` and `load` save both."""

    #: Name in the dump → columns.
    parts: Mapping[str, Columns] = {}
    #: NAME of each attribute `_NAME` that holds a whole number, such as the newest time, or None before the first.
    moments: ClassVar[tuple[str, ...]] = ()

    @property
    def bytes_per_series(self) -> float:
        """Bytes of one series in all parts."""
        return sum(columns.bytes_per_series for columns in self.parts.values())

    def dump(self) -> dict[str, NDArray[Any]]:
        """All state as flat arrays for `load`: views that hold until the next change. Lists and dicts go as bytes."""
        now = {name: getattr(self, f"_{name}") for name in self.moments}
        arrays = {name: np.array([-1 if at is None else at], np.int64) for name, at in now.items()}
        for name, columns in self.parts.items():
            arrays.update(columns.dump(name))
        return arrays

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made. Raises ValueError for a state of other sizes, KeyError for a foreign one."""
        for name, columns in self.parts.items():
            columns.load(name, arrays)
        for name in self.moments:
            at = int(arrays[name][0])
            setattr(self, f"_{name}", None if at < 0 else at)


def _fresh(column: Column, capacity: int) -> NDArray[Any]:
    shape = (*column.lead, capacity)
    # Zeroed memory that is not used yet costs nothing.
    return np.full(shape, column.fill, column.dtype) if column.fill else np.zeros(shape, column.dtype)


class Packed(NamedTuple):
    """One array: its type, its shape and its bytes in C order, compressed."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


#: How numpy writes the type of an array: the order of bytes, the kind and the size.
_DTYPE = re.compile(r"[<>|=][a-zA-Z]\d+")


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Packed]:
    """Arrays in a form that msgspec can encode."""
    return {name: Packed(array.dtype.str, array.shape, _compress(array)) for name, array in arrays.items()}


def _compress(array: NDArray[Any]) -> bytes:
    """LZ4, because most of the state is zeros or repeats, and LZ4 is as fast as a copy."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return bytes(lz4.compress_block(flat.data)) if len(flat) else b""


def unpack(packed: Mapping[str, Packed]) -> dict[str, NDArray[Any]]:
    """The arrays that `pack` was given."""
    return {
        name: np.frombuffer(_decompress(each.data), each.dtype).reshape(each.shape) for name, each in packed.items()
    }


def repacked(found: list[Any], change: Callable[[bytes], bytes]) -> list[Any] | None:
    """An array of `pack`, as MessagePack gives it back, with `change` of its bytes where they are names and not
    numbers; None for another list."""
    match found:
        case [str(dtype), [*shape], bytes(data)] if _DTYPE.fullmatch(dtype):
            if dtype != np.dtype(np.uint8).str or len(shape) != 1:
                return found
            before = _decompress(data)
            after = change(before)
            if after == before:
                return found
            return [dtype, [len(after)], _compress(np.frombuffer(after, np.uint8))]
    return None


def _decompress(data: bytes) -> bytes:
    return bytes(lz4.decompress_block(data)) if data else b""
