"""The entries of a price map by name, each with its history; those that cannot be read are left out and named."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from curb.connectors.pricing.entry import FREE, Price, price_of
from curb.connectors.pricing.names import SUBSCRIPTIONS, Names, Variant

#: Entries that are no models: LiteLLM's documentation of the schema and our note on date and origin.
NOT_MODELS = frozenset({"sample_spec", "x_book"})


class Dated(NamedTuple):
    """A price and the time it holds."""

    #: First moment at which it no longer holds, epoch seconds.
    until: float
    raw: dict[str, Any]
    price: Price


class Entry(NamedTuple):
    """What the map has for a name: its own name of the model, prices with the oldest first, and what else was asked."""

    name: str
    dated: list[Dated]
    variant: Variant = ""

    def at(self, time: float) -> Dated:
        """The price at a time (epoch seconds)."""
        return next((each for each in self.dated if time < each.until), self.dated[-1])


class Entries:
    """Every readable entry of a map. `left_out` has the others: name → what is wrong."""

    def __init__(self, models: dict[str, Any]) -> None:
        self.left_out: dict[str, str] = {}
        self._entries: dict[str, list[Dated]] = {}
        for name, raw in models.items():
            if name in NOT_MODELS:
                continue
            try:
                dated = _dated(name, raw)
            except ValueError as error:
                self.left_out[name] = str(error).removeprefix("price book: ")
                continue
            if dated:
                self._entries[name.lower()] = dated
        for name, raw in models.items():
            target = raw.get("alias_of") if isinstance(raw, dict) else None
            if isinstance(target, str) and target.lower() in self._entries:
                self._entries.setdefault(name.lower(), self._entries[target.lower()])
        self._names = Names(self._entries)

    def __iter__(self) -> Iterator[list[Dated]]:
        return iter(self._entries.values())

    def find(self, model: str, provider: str = "") -> Entry | None:
        """The entry that a name means, see `Names.find`."""
        found = self._names.find(model, provider)
        if found.variant == "free":
            return Entry(model.lower(), [Dated(math.inf, {}, FREE)], "free")
        return Entry(found.entry, self._entries[found.entry], found.variant) if found.entry else None


def midnight(day: date) -> float:
    """Its first moment in UTC, epoch seconds."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _dated(name: str, raw: Any) -> list[Dated]:
    """An entry and its history, the oldest first; empty where it has no price."""
    newest = price_of(name, raw)
    if newest is None:
        provider = name.partition("/")[0].lower()
        return [Dated(math.inf, raw, FREE._replace(provider=provider))] if _is_subscribed(provider, raw) else []
    dated = [Dated(math.inf, raw, newest)]
    history = raw.get("x_history") or []
    if not isinstance(history, list):
        raise ValueError(f"price book: {name}: x_history must be a list")
    for older in history:
        price = price_of(f"{name}: x_history", older)
        try:
            until = midnight(date.fromisoformat(older["until"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"price book: {name}: x_history needs a date `until` (YYYY-MM-DD) in each part") from None
        if price is not None:
            dated.append(Dated(until, older, price))
    return sorted(dated, key=lambda each: each.until)


def _is_subscribed(provider: str, raw: dict[str, Any]) -> bool:
    return provider in SUBSCRIPTIONS and "alias_of" not in raw
