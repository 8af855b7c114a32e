"""Arrays as bytes for snapshots, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from cramjam import lz4
from numpy.typing import NDArray


class Packed(NamedTuple):
    """One array: its type, its shape and its bytes in C order, compressed."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def pack(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Packed]:
    """Arrays to what msgspec can encode."""
    return {name: Packed(array.dtype.str, array.shape, _compress(array)) for name, array in arrays.items()}


def _compress(array: NDArray[Any]) -> bytes:
    """LZ4: most of the state is zeros or repeats, and this is as fast as copying it."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return bytes(lz4.compress_block(flat.data)) if len(flat) else b""


def unpack(packed: Mapping[str, Packed]) -> dict[str, NDArray[Any]]:
    """The same arrays again."""
    return {
        name: np.frombuffer(_decompress(each.data), each.dtype).reshape(each.shape) for name, each in packed.items()
    }


def _decompress(data: bytes) -> bytes:
    return bytes(lz4.decompress_block(data)) if data else b""
