"""Tables of kinds: those shipped with Curb and those of installed packages, by name, imported when they are used."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Generic, TypeVar, get_args

from curb.stream.settings import Settings

C = TypeVar("C", bound=Settings)


class KindError(ValueError):
    """No kind has this name, or the kind cannot be used; the message says why and what to do."""


class Kinds(Mapping[str, str], Generic[C]):
    """Shipped kind → "module:Config". An installed package adds kinds through entry points of the same form:

        [project.entry-points."curb.connectors"]
        my_kind = "my_package:Config"

    The Config class is a subclass of `base` with `kind: Literal["my_kind"]`.
    """

    def __init__(self, group: str, base: type, shipped: Mapping[str, str]) -> None:
        self._group, self._base, self._shipped = group, base, shipped

    def __getitem__(self, kind: str) -> str:
        return self._shipped[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shipped)

    def __len__(self) -> int:
        return len(self._shipped)

    def names(self) -> list[str]:
        """Every kind there is, of installed packages too."""
        return sorted({*self._shipped, *(point.name for point in _points(self._group))})

    def config(self, kind: str) -> type[C]:
        """The Config class of a kind. Raises KindError."""
        added = [point for point in _points(self._group) if point.name == kind]
        packages = ", ".join(sorted(_package(point) for point in added))
        if kind in self._shipped and added:
            raise KindError(f"kind {kind!r} ships with Curb and the package {packages} defines it too; uninstall it")
        if len(added) > 1:
            raise KindError(f"kind {kind!r} is defined by several packages, {packages}; keep one")
        if added:
            return self._checked(kind, added[0].value, f"kind {kind!r} of the package {packages}")
        if kind not in self._shipped:
            close = difflib.get_close_matches(kind, self.names(), n=1)
            meant = f"did you mean {close[0]}? " if close else ""
            raise KindError(f"unknown kind {kind!r}; {meant}there are: {', '.join(self.names())}")
        return self._checked(kind, self._shipped[kind], f"kind {kind!r}")

    def _checked(self, kind: str, path: str, subject: str) -> type[C]:
        module, _, name = path.partition(":")
        try:
            config: type[C] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            hint = "its reference page names the extra to install"
            raise KindError(f"{subject} needs the Python module {error.name!r}; {hint}") from None
        except (ImportError, AttributeError) as error:
            raise KindError(f"{subject} cannot be imported from {path}: {_first_line(error)}") from None
        except SyntaxError as error:
            where = f"{error.filename}, line {error.lineno}"
            raise KindError(f"{subject} cannot be imported from {path}: {error.msg} in {where}") from None
        except Exception as error:  # noqa: BLE001 - a module of others may raise anything
            raise KindError(f"{subject} cannot be imported from {path}: {_said(error)}") from None
        if not (isinstance(config, type) and issubclass(config, self._base)):
            raise KindError(f"{subject}: {path} is not a subclass of {self._base.__module__}.{self._base.__name__}")
        if absent := sorted(getattr(config, "__abstractmethods__", ())):
            raise KindError(f"{subject}: {path} has no method {', '.join(absent)}")
        field = config.model_fields.get("kind")
        if field is None or kind not in get_args(field.annotation):
            raise KindError(f'{subject}: {path} needs the field kind: Literal["{kind}"]')
        return config


def without(part: object, seam: type, *names: str) -> list[str]:
    """A clause that names the methods of a seam that a part lacks; empty where it has all of them.

    A class that inherits from the Protocol has its empty methods, which do nothing: they count as absent.
    """
    absent = [
        name
        for name in names
        if not callable(getattr(part, name, None)) or getattr(type(part), name, None) is getattr(seam, name)
    ]
    return [f"{type(part).__name__} has no method {', '.join(absent)}"] if absent else []


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _said(error: Exception) -> str:
    """An error of somebody's module in one line, with its file and line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_first_line(error)} in {frame.filename}, line {frame.lineno}"


def _points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return _installed(group, tuple(sys.path))


@cache  # reading the metadata of every installed package takes some 50 ms
def _installed(group: str, path: tuple[str, ...]) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
