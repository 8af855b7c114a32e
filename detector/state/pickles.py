"""Pickles of other libraries' models in snapshots; everything that is not a model is refused."""

from __future__ import annotations

import importlib
import io
import pickle
from typing import Any

#: Classes and functions that a pickled model may use beside River's and Curb's own.
_ALLOWED = frozenset(
    {
        ("array", "_array_reconstructor"),
        ("builtins", "frozenset"),
        ("builtins", "set"),
        ("builtins", "tuple"),
        ("builtins", "list"),
        ("builtins", "dict"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("functools", "partial"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("random", "Random"),
    }
)
_ROOMS = ("river.", "curb.detector.")


class NotAModelError(ValueError):
    """The state was not written by this version of Curb and River, or not by Curb."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module == "array" and name == "array"):
            return super().find_class(module, name)
        found = None
        if module.startswith(_ROOMS) and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
        # A name imported into one of River's modules is not River's.
        if found is not None and str(getattr(found, "__module__", "")).startswith(_ROOMS):
            return found
        # Built functions of River's own compiled part name no module, or the part itself.
        if module.startswith("river._river_rust") and callable(found):
            return found
        raise NotAModelError(f"a model's state may not hold {module}.{name}")


def dump(stamp: str, state: Any) -> bytes:
    """The state as bytes that begin with `stamp`."""
    return stamp.encode() + b"\n" + pickle.dumps(state, protocol=5)


def load(stamp: str, data: bytes) -> Any:
    """The state that `dump` was given. Raises NotAModelError for another stamp, or for data that is not a model."""
    found, _, body = data.partition(b"\n")
    if found != stamp.encode():
        raise NotAModelError(f"made with {found.decode(errors='replace')!r}, this is {stamp!r}")
    try:
        return _Reader(io.BytesIO(body)).load()
    except (AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise NotAModelError(f"unreadable: {error}") from None
