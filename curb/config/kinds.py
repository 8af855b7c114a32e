"""Turns the `kind` of a configured connector, action or notifier into its Config class, importing only what is used."""

from __future__ import annotations

import importlib

from curb.stream.settings import Settings


class UnknownKindError(ValueError):
    """The table has no such kind, or what it needs is not installed."""


def config_class(table: dict[str, str], kind: str) -> type[Settings]:
    """The Config class behind `table[kind]`, such as "curb.connectors.tokens.litellm:Config"."""
    if kind not in table:
        raise UnknownKindError(f"unknown kind {kind!r}; there are: {', '.join(sorted(table))}")
    module, _, name = table[kind].partition(":")
    try:
        found: type[Settings] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        detail = f"kind {kind!r} needs the Python module {error.name!r}; its reference page names the extra to install"
        raise UnknownKindError(detail) from None
    return found
