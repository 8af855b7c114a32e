"""The price book: what a model's tokens cost, from a dated, content-hashed map in LiteLLM's format."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

#: Entries that are no models: LiteLLM's documentation of the schema and our note on date and origin.
_NOT_MODELS = frozenset({"sample_spec", "x_book"})
#: "-2024-11-20", "-20250514", "@20250514", each with an optional "-v1" or "-v1:0" behind it.
_DATE_SUFFIX = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})(?:-v\d+(?::\d+)?)?$")


class _Entry(msgspec.Struct):
    input_cost_per_token: float | None = None
    output_cost_per_token: float | None = None
    cache_read_input_token_cost: float | None = None
    cache_creation_input_token_cost: float | None = None
    mode: str | None = None


class Price(NamedTuple):
    """Dollars per token."""

    input: float
    output: float
    cache_read: float
    cache_creation: float

    def cost(self, *, input_tokens: int, output_tokens: int, cache_read: int, cache_creation: int) -> float:
        """Dollars. `input_tokens` includes the cached ones (OTel GenAI)."""
        uncached = max(0, input_tokens - cache_read - cache_creation)
        return (
            uncached * self.input
            + cache_read * self.cache_read
            + cache_creation * self.cache_creation
            + output_tokens * self.output
        )


class PriceBook:
    """Prices by model name. Build it with `load` or from a map: model → LiteLLM's entry.

    `hash` is the first 12 hex digits of the SHA-256 of the map as canonical JSON; `as_of` is "YYYY-MM-DD".
    Raises ValueError for prices that are no finite numbers of at least 0, or when no chat model has a price.
    """

    def __init__(self, models: dict[str, Any], *, as_of: str) -> None:
        canonical = json.dumps(models, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        self.hash = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        self.as_of = as_of
        self._prices: dict[str, Price] = {}
        chat: list[Price] = []
        for name, raw in models.items():
            entry = None if name in _NOT_MODELS else _entry(name, raw)
            if entry is None or (entry.input_cost_per_token is None and entry.output_cost_per_token is None):
                continue  # priced by image, second or page: tokens say nothing about its cost
            price = self._prices[name.lower()] = _price_of(entry)
            if entry.mode in ("chat", None) and price.input > 0:
                chat.append(price)
        if not chat:
            raise ValueError("price book: no chat model with a price")
        self._fallback = Price(*(_percentile_90(column) for column in zip(*chat, strict=True)))

    @classmethod
    def load(cls, path: Path | str | None = None) -> PriceBook:
        """The book in a JSON file (plain or .gz), or the one shipped with Curb. Raises OSError or ValueError."""
        if path is None:
            shipped = resources.files("connectors") / "data" / "prices.json.gz"
            return cls._of(gzip.decompress(shipped.read_bytes()), changed_at=0.0)
        file = Path(path).expanduser()
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        return cls._of(content, changed_at=file.stat().st_mtime)

    @classmethod
    def _of(cls, content: bytes, *, changed_at: float) -> PriceBook:
        models = json.loads(content)
        if not isinstance(models, dict):
            raise ValueError("price book: a JSON object of models is needed")
        note = models.get("x_book")
        as_of = note.get("as_of") if isinstance(note, dict) else None
        return cls(models, as_of=str(as_of or datetime.fromtimestamp(changed_at, UTC).date()))

    def __len__(self) -> int:
        return len(self._prices)

    def lookup(self, model: str) -> Price | None:
        """The price of a model: its exact name, then without provider prefixes, then also without a date suffix."""
        names = list(_without_prefixes(model.lower()))
        for name in (*names, *(_DATE_SUFFIX.sub("", name) for name in names)):
            price = self._prices.get(name)
            if price is not None:
                return price
        return None

    def price(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read: int = 0, cache_creation: int = 0
    ) -> float | None:
        """Dollars at list price, or None for a model the book does not know."""
        price = self.lookup(model)
        if price is None:
            return None
        return price.cost(
            input_tokens=input_tokens, output_tokens=output_tokens, cache_read=cache_read, cache_creation=cache_creation
        )

    def fallback_price(
        self, *, input_tokens: int, output_tokens: int, cache_read: int = 0, cache_creation: int = 0
    ) -> float:
        """Dollars for an unknown model: each token price is the 90th percentile over the book's chat models."""
        return self._fallback.cost(
            input_tokens=input_tokens, output_tokens=output_tokens, cache_read=cache_read, cache_creation=cache_creation
        )

    def estimate(
        self, model: str, *, input_tokens: int, output_tokens: int, cache_read: int = 0, cache_creation: int = 0
    ) -> tuple[float, Literal["priced", "fallback"]]:
        """Dollars and which price made them; an unknown model is never free."""
        tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        cached = {"cache_read": cache_read, "cache_creation": cache_creation}
        cost = self.price(model, **tokens, **cached)
        return (self.fallback_price(**tokens, **cached), "fallback") if cost is None else (cost, "priced")


def _entry(name: str, raw: Any) -> _Entry:
    try:
        entry = msgspec.convert(raw, _Entry, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"price book: {name}: {error}") from None
    for field in ("input_cost_per_token", "output_cost_per_token", *_CACHE_FIELDS):
        price = getattr(entry, field)
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise ValueError(f"price book: {name}: {field} must be a finite number of at least 0")
    return entry


_CACHE_FIELDS = ("cache_read_input_token_cost", "cache_creation_input_token_cost")


def _price_of(entry: _Entry) -> Price:
    """Where the map is silent on cached tokens they cost what other input costs."""
    full = entry.input_cost_per_token or 0.0
    read, creation = entry.cache_read_input_token_cost, entry.cache_creation_input_token_cost
    return Price(
        full,
        entry.output_cost_per_token or 0.0,
        full if read is None else read,
        full if creation is None else creation,
    )


def _without_prefixes(model: str) -> Iterator[str]:
    """ "openrouter/openai/gpt-4o", "openai/gpt-4o", "gpt-4o"."""
    yield model
    while "/" in model:
        model = model.partition("/")[2]
        yield model


def _percentile_90(values: Iterable[float]) -> float:
    """Nearest rank: a price that some model really has."""
    ordered = sorted(values)
    return ordered[math.ceil(0.9 * len(ordered)) - 1]
