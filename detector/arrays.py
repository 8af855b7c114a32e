"""Arrays as bytes for snapshots, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Packed(NamedTuple):
    """One array: its type, its shape and its bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Packed]:
    """Arrays to what msgspec can encode."""
    return {
        name: Packed(array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes())
        for name, array in arrays.items()
    }


def unpack(packed: Mapping[str, Packed]) -> dict[str, NDArray[Any]]:
    """The same arrays again, read-only."""
    return {name: np.frombuffer(each.data, each.dtype).reshape(each.shape) for name, each in packed.items()}
