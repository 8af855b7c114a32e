"""The price book: what models cost, from a dated, content-hashed map in LiteLLM's format, and after agreed terms."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from curb.connectors.pricing.entry import Price, Rates, ServiceTier, Tokens, price_of
from curb.stream.records.spend import UsageRecord
from curb.stream.settings import Settings

#: Entries that are no models: LiteLLM's documentation of the schema and our note on date and origin.
NOT_MODELS = frozenset({"sample_spec", "x_book"})
#: "-2024-11-20", "-20250514", "@20250514", each with an optional "-v1" or "-v1:0" behind it.
_DATE_SUFFIX = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})(?:-v\d+(?::\d+)?)?$")
#: Answers that are remembered; beyond, all are forgotten.
_MAX_REMEMBERED = 20_000
CostSource = Literal["priced", "fallback"]


class Term(Settings):
    """For whom and when an agreement holds."""

    organization: str | None = Field(
        default=None, min_length=1, description="Only usage whose tag `org` is this; default: all usage."
    )
    starts: date | None = Field(default=None, description="First day (UTC) of charges it holds for.")
    ends: date | None = Field(default=None, description="First day (UTC) it no longer holds for.")

    @model_validator(mode="after")
    def _in_order(self) -> Term:
        if self.starts is not None and self.ends is not None and self.starts >= self.ends:
            raise ValueError("`ends` must be later than `starts`")
        return self


class Discount(Term):
    """A part off list prices."""

    model: str = Field(default="*", min_length=1, description="Pattern of model names, with * and ?.")
    provider: str = Field(default="*", min_length=1, description="Pattern of the provider in the book.")
    percent: float = Field(ge=-1000, le=100, description="Percent off; below 0 a surcharge.")

    @field_validator("percent")
    @classmethod
    def _finite(cls, percent: float) -> float:
        if not math.isfinite(percent):
            raise ValueError("percent must be a number")
        return percent


class Override(Term):
    """Prices agreed for one model; discounts do not apply to them."""

    model: str = Field(min_length=1, description="Name of the model; it need not be in the book.")
    prices: dict[str, float] = Field(
        min_length=1, description="Prices under their names in the book; those not named stay as they are."
    )

    @model_validator(mode="after")
    def _are_prices(self) -> Override:
        if price_of(self.model, self.prices) is None and not any("cost" in name for name in self.prices):
            raise ValueError(f"override for {self.model}: no name of a price, such as input_cost_per_token")
        return self


class PricesSettings(Settings):
    """The price book that turns tokens into dollars where the source reports none."""

    book: Path | None = Field(
        default=None, description="A JSON file in LiteLLM's price map format; default: the book shipped with Curb."
    )
    discounts: tuple[Discount, ...] = Field(default=(), description="The first that matches counts.")
    overrides: tuple[Override, ...] = Field(default=(), description="The first that matches counts.")

    def agreed(self) -> list[dict[str, Any]]:
        """What is agreed beside the book, as plain data: part of the book's hash."""
        terms = (*self.discounts, *self.overrides)
        return [term.model_dump(mode="json") for term in terms]


_NO_TERMS = PricesSettings()


class _Dated(NamedTuple):
    #: First moment at which it no longer holds, epoch seconds.
    until: float
    raw: dict[str, Any]
    price: Price


class PriceBook:
    """Prices by model name. Build it with `load` or from a map: model → LiteLLM's entry, and `terms` beside it.

    An entry may hold `x_history`: a list of older entries, each with `until` ("YYYY-MM-DD"), the first day it no longer
    held. `hash` is the first 12 hex digits of the SHA-256 of the map, with the terms where there are any, as canonical
    JSON; `as_of` is "YYYY-MM-DD". Raises ValueError for prices that are no finite numbers of at least 0, or when no
    chat model has a price.
    """

    def __init__(self, models: dict[str, Any], *, as_of: str, terms: PricesSettings = _NO_TERMS) -> None:
        agreed = terms.agreed()
        self.hash, self.as_of, self.models = _hash([models, agreed] if agreed else models), as_of, models
        self._terms = terms
        self._entries: dict[str, list[_Dated]] = {}
        for name, raw in models.items():
            if name not in NOT_MODELS and (dated := _dated(name, raw)):
                self._entries[name.lower()] = dated
        newest = [dated[-1].price for dated in self._entries.values() if dated[-1].price.tiers]
        chat = [each.rates("standard", 0) for each in newest if each.mode in ("chat", None) and each.input > 0]
        if not chat:
            raise ValueError("price book: no chat model with a price")
        self._count = len(newest)
        self._fallback = Rates(*(_percentile_90(column) for column in zip(*chat, strict=True)))
        every = (*terms.discounts, *terms.overrides)
        days = {_midnight(day) for term in every for day in (term.starts, term.ends) if day is not None}
        days |= {each.until for dated in self._entries.values() for each in dated if each.until < math.inf}
        #: Between two of these moments no price changes.
        self._edges = sorted(days)
        self._remembered: dict[tuple[str, str, int], Price | None] = {}

    @classmethod
    def load(cls, path: Path | str | None = None, terms: PricesSettings = _NO_TERMS) -> PriceBook:
        """The book in a JSON file (plain or .gz), or the one shipped with Curb. Raises OSError or ValueError."""
        models, as_of = read_book(path)
        return cls(models, as_of=as_of, terms=terms)

    def __len__(self) -> int:
        """Models with a price per token."""
        return self._count

    def lookup(self, model: str, *, at: float | None = None, organization: str = "") -> Price | None:
        """The price per token of a model at a time (epoch seconds; None is the newest), after what was agreed.

        Its exact name counts, then without provider prefixes, then also without a date suffix.
        """
        price = self.find(model, at=at, organization=organization)
        return price if price is not None and price.tiers else None

    def find(self, model: str, *, at: float | None = None, organization: str = "") -> Price | None:
        """Like `lookup`, also for what is charged by image, second, query or page only."""
        part = len(self._edges) if at is None else bisect_right(self._edges, at)
        key = (model, organization, part)
        if key in self._remembered:
            return self._remembered[key]
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        found = self._find(model, math.inf if at is None else at, organization)
        self._remembered[key] = found
        return found

    def price(
        self,
        model: str,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read: int = 0,
        cache_creation: int = 0,
        tier: ServiceTier = "standard",
        at: float | None = None,
        organization: str = "",
        units: Mapping[str, float] | None = None,
        **more: int,
    ) -> float | None:
        """Dollars, or None for a model the book cannot price.

        `input_tokens` includes cached and audio ones. `more` are further counts of `Tokens` (audio_input, audio_output,
        reasoning, cache_creation_1h); `units` counts what is not tokens, by the names in `price_entry.UNITS`.
        """
        tokens = Tokens(input_tokens, output_tokens, cache_read, cache_creation, **more)
        price = self.find(model, at=at, organization=organization)
        if price is None or (not price.tiers and (any(tokens) or not units)):
            return None
        return price.cost(tokens, tier, units)

    def fallback_price(
        self, *, input_tokens: int, output_tokens: int, cache_read: int = 0, cache_creation: int = 0, **more: int
    ) -> float:
        """Dollars for an unknown model: each token price is the 90th percentile over the book's chat models."""
        return self._fallback.cost(Tokens(input_tokens, output_tokens, cache_read, cache_creation, **more))

    def estimate(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read: int = 0,
        cache_creation: int = 0,
        tier: ServiceTier = "standard",
        at: float | None = None,
        organization: str = "",
        units: Mapping[str, float] | None = None,
        **more: int,
    ) -> tuple[float, CostSource]:
        """Dollars and which price made them, as `price` does; an unknown model is never free."""
        counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        counts |= {"cache_read": cache_read, "cache_creation": cache_creation, **more}
        cost = self.price(model, tier=tier, at=at, organization=organization, units=units, **counts)
        return (self.fallback_price(**counts), "fallback") if cost is None else (cost, "priced")

    def price_usage(
        self,
        record: UsageRecord,
        *,
        model: str = "",
        tier: ServiceTier = "standard",
        units: Mapping[str, float] | None = None,
        **more: int,
    ) -> None:
        """Set what a record cost at its own time, for the organisation in its tag `org`; `model` overrules its own."""
        record.effective_cost, record.cost_source = self.estimate(
            model or record.request_model,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cache_read=record.cache_read_input_tokens,
            cache_creation=record.cache_creation_input_tokens,
            tier=tier,
            at=record.charge_period_start,
            organization=record.tags.get("org", ""),
            units=units,
            **more,
        )
        record.price_book = self.hash

    def _find(self, model: str, at: float, organization: str) -> Price | None:
        names = list(_without_prefixes(model.lower()))
        names += [_DATE_SUFFIX.sub("", name) for name in names]
        found = next((name for name in names if name in self._entries), None)
        dated = self._entries[found] if found is not None else []
        entry = next((each for each in dated if at < each.until), dated[-1] if dated else None)
        override = self._override(names, at, organization)
        if override is not None:
            raw = {} if entry is None else entry.raw
            return price_of(override.model, {**raw, **override.prices})
        if entry is None:
            return None
        for discount in self._terms.discounts:
            if (
                _holds(discount, at, organization)
                and any(fnmatchcase(name, discount.model.lower()) for name in names)
                and fnmatchcase(entry.price.provider, discount.provider)
            ):
                return entry.price.scaled(1 - discount.percent / 100)
        return entry.price

    def _override(self, names: list[str], at: float, organization: str) -> Override | None:
        holding = (each for each in self._terms.overrides if _holds(each, at, organization))
        return next((each for each in holding if each.model.lower() in names), None)


def read_book(path: Path | str | None = None) -> tuple[dict[str, Any], str]:
    """The map in a JSON file (plain or .gz) or the shipped one, and its date. Raises OSError or ValueError."""
    if path is None:
        shipped = resources.files("curb.connectors.pricing") / "data" / "prices.json.gz"
        content, changed_at = gzip.decompress(shipped.read_bytes()), 0.0
    else:
        file = Path(path).expanduser()
        content, changed_at = file.read_bytes(), file.stat().st_mtime
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    models = json.loads(content)
    if not isinstance(models, dict):
        raise ValueError("price book: a JSON object of models is needed")
    note = models.get("x_book")
    as_of = note.get("as_of") if isinstance(note, dict) else None
    return models, str(as_of or datetime.fromtimestamp(changed_at, UTC).date())


def _hash(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _dated(name: str, raw: Any) -> list[_Dated]:
    """An entry and its history, the oldest first; empty where it has no price."""
    newest = price_of(name, raw)
    if newest is None:
        return []
    dated = [_Dated(math.inf, raw, newest)]
    for older in raw.get("x_history") or ():
        price = price_of(f"{name}: x_history", older)
        try:
            until = _midnight(date.fromisoformat(older["until"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"price book: {name}: x_history needs a date `until` (YYYY-MM-DD) in each part") from None
        if price is not None:
            dated.append(_Dated(until, older, price))
    return sorted(dated, key=lambda each: each.until)


def _holds(term: Term, at: float, organization: str) -> bool:
    return (
        term.organization in (None, organization)
        and (term.starts is None or at >= _midnight(term.starts))
        and (term.ends is None or at < _midnight(term.ends))
    )


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


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
