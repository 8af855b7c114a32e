"""Turns the `kind` of a configured connector, action or notifier into its Config class, importing only what is used."""

from __future__ import annotations

import importlib

from stream.settings import Settings


class UnknownKindError(ValueError):
    """The table has no such kind."""


def config_class(table: dict[str, str], kind: str) -> type[Settings]:
    """The Config class behind `table[kind]`, such as "connectors.litellm:Config"."""
    if kind not in table:
        raise UnknownKindError(f"unknown kind {kind!r}; there are: {', '.join(sorted(table))}")
    module, _, name = table[kind].partition(":")
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found
