"""Between Arrow and numpy by way of their buffers.

Arrow's own conversions import pandas where it is installed, which costs a process 50 MiB and most of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]


def from_ints(numbers: Ints, missing: NDArray[np.bool_] | None = None) -> pa.Array:
    """An array of the same int64 numbers, null where `missing`. Without that it shares their memory."""
    valid = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(pa.int64(), len(numbers), [valid, pa.py_buffer(np.ascontiguousarray(numbers))])


def from_texts(texts: Sequence[str | None]) -> pa.Array:
    """An array of these texts."""
    encoded = [b"" if text is None else text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    valid = np.packbits(np.array([text is not None for text in texts], np.bool_), bitorder="little")
    buffers = [pa.py_buffer(valid), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def to_numbers(array: pa.Array, null: float) -> NDArray[Any]:
    """The numbers of an array, `null` for its nulls. Not to be written to: without nulls it shares their memory."""
    dtype, (valid, held) = np.dtype(array.type.to_pandas_dtype()), array.buffers()
    if array.null_count == len(array):
        return np.full(len(array), null, dtype)
    rows = slice(array.offset, array.offset + len(array))
    numbers: NDArray[Any] = np.frombuffer(held, dtype)[rows]
    if not array.null_count:
        return numbers
    there = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[rows]
    return np.where(there, numbers, dtype.type(null))
