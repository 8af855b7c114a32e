"""The price book: what models cost, from a dated, content-hashed map in LiteLLM's format, and after agreed terms."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from curb.connectors.pricing.entries import Entries, Entry, midnight
from curb.connectors.pricing.entry import TOOLS, Price, Rates, ServiceTier, Tokens, asked, price_of
from curb.connectors.pricing.names import plain, undated
from curb.stream.records.spend import UsageRecord
from curb.stream.settings import Settings

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
        default=None,
        description="A JSON file in LiteLLM's price map format; for models it lacks, and without it for all, the map "
        "shipped with Curb is used.",
    )
    discounts: tuple[Discount, ...] = Field(default=(), description="The first that matches counts.")
    overrides: tuple[Override, ...] = Field(default=(), description="The first that matches counts.")

    aliases: dict[str, str] = Field(
        default={}, description="Own names, such as deployments in Azure → the model in the book."
    )

    def agreed(self) -> list[dict[str, Any]]:
        """What is agreed beside the book, as plain data: part of the book's hash."""
        terms = [term.model_dump(mode="json") for term in (*self.discounts, *self.overrides)]
        return [*terms, {"aliases": self.aliases}] if self.aliases else terms


_NO_TERMS = PricesSettings()


class PriceBook:
    """Prices by model name. Build it with `load` or from a map: model → LiteLLM's entry, and `terms` beside it.

    An entry may hold `x_history`: a list of older entries, each with `until` ("YYYY-MM-DD"), the first day it no longer
    held. Entries that cannot be read are left out; `left_out` names them and says why. `beside` is a second book for
    models that this one does not know. `hash` is the first 12 hex digits of the SHA-256 of the map, with the terms and
    the second book's hash where there are any, as canonical JSON; `as_of` is "YYYY-MM-DD". Raises ValueError when no
    chat model has a price.
    """

    def __init__(
        self,
        models: dict[str, Any],
        *,
        as_of: str,
        terms: PricesSettings = _NO_TERMS,
        beside: PriceBook | None = None,
    ) -> None:
        more = [*([agreed] if (agreed := terms.agreed()) else []), *([beside.hash] if beside else [])]
        self.hash: str = _hash([models, *more] if more else models)
        self.as_of, self.models = as_of, models
        self._terms, self._beside = terms, beside
        self._aliases = {name.lower(): model for name, model in terms.aliases.items()}
        self._entries = Entries(models)
        self.left_out = self._entries.left_out
        newest = [dated[-1].price for dated in self._entries]
        per_token = [price for price in newest if price.tiers]
        chat = [each.rates("standard", 0) for each in per_token if each.mode in ("chat", None) and each.input > 0]
        if not chat:
            faults = "".join(f"; left out: {fault}" for fault in list(self.left_out.values())[:3])
            raise ValueError(f"price book: no chat model with a price{faults}")
        self._count = len(per_token)
        self._fallback = Rates(*(_percentile_90(column) for column in zip(*chat, strict=True)))
        self._fallback_units = _fallback_units(newest)
        every = (*terms.discounts, *terms.overrides)
        days = {midnight(day) for term in every for day in (term.starts, term.ends) if day is not None}
        for entries in (self._entries, *([beside._entries] if beside else [])):
            days |= {each.until for dated in entries for each in dated if each.until < math.inf}
        #: Between two of these moments no price changes but by the hour.
        self._edges = sorted(days)
        self._remembered: dict[tuple[str, str, str, int], Price | None] = {}

    @classmethod
    def load(cls, path: Path | str | None = None, terms: PricesSettings = _NO_TERMS) -> PriceBook:
        """The book in a JSON file (plain or .gz), and for other models the one shipped with Curb, which is the whole
        book without a file. Raises OSError or ValueError."""
        models, as_of = read_book(path)
        return cls(models, as_of=as_of, terms=terms, beside=None if path is None else shipped_book())

    def __len__(self) -> int:
        """Models with a price per token."""
        return self._count

    def lookup(
        self, model: str, *, at: float | None = None, organization: str = "", provider: str = ""
    ) -> Price | None:
        """The price per token of a model at a time (epoch seconds; None is the newest), after what was agreed.

        `provider` is who serves it, where the source says so apart from the name.
        """
        price = self.find(model, at=at, organization=organization, provider=provider)
        return price if price is not None and price.tiers else None

    def find(self, model: str, *, at: float | None = None, organization: str = "", provider: str = "") -> Price | None:
        """Like `lookup`, also for what is charged by image, second, query or page only."""
        part = len(self._edges) if at is None else bisect_right(self._edges, at)
        key = (model, organization, provider, part)
        if key not in self._remembered:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = self._find(model, math.inf if at is None else at, organization, provider)
        found = self._remembered[key]
        return found if found is None or at is None else found.at(at)

    def part(self, model: str, of: str) -> float | None:
        """The newest price of one model as a part of that of another; None where one of them has no price per token.

        Of input, output and cached tokens the highest part counts, so below 1 no short request costs more.
        """
        prices = [self.lookup(each) for each in (model, of)]
        if None in prices:
            return None
        one, other = (price.rates("standard", 0) for price in prices if price is not None)
        kinds = ((one.input, other.input), (one.output, other.output), (one.cache_read, other.cache_read))
        parts = [mine / theirs if theirs > 0 else math.inf for mine, theirs in kinds if mine > 0]
        return max(parts, default=0.0)

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
        provider: str = "",
        units: Mapping[str, float] | None = None,
        uplifts: Iterable[str] = (),
        **more: int,
    ) -> float | None:
        """Dollars, or None for a model or for units the book cannot price.

        `input_tokens` includes cached and audio ones. `more` are further counts of `Tokens` (audio_input, audio_output,
        reasoning, cache_creation_1h); `units` counts what is not tokens, by the names in `entry.UNITS` and
        `entry.TOOLS`. `uplifts` are surcharges of the request by name, such as "us" for inference that stays in the US.
        """
        tokens = Tokens(input_tokens, output_tokens, cache_read, cache_creation, **more)
        price = self.find(model, at=at, organization=organization, provider=provider)
        if price is None or not price.covers(tokens, units or {}):
            return None
        return price.cost(tokens, tier, units, uplifts)

    def fallback_price(
        self,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read: int = 0,
        cache_creation: int = 0,
        units: Mapping[str, float] | None = None,
        **more: int,
    ) -> float:
        """Dollars for an unknown model: each token price is the 90th percentile over the book's chat models, that of
        another unit over all models charged by it."""
        usd = self._fallback.cost(Tokens(input_tokens, output_tokens, cache_read, cache_creation, **more))
        counted = (units or {}).items()
        return usd + sum(count * self._fallback_units.get(unit, TOOLS.get(unit, 0.0)) for unit, count in counted)

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
        provider: str = "",
        units: Mapping[str, float] | None = None,
        uplifts: Iterable[str] = (),
        **more: int,
    ) -> tuple[float, CostSource]:
        """Dollars and which price made them, as `price` does; an unknown model is never free."""
        counts = {"input_tokens": input_tokens, "output_tokens": output_tokens}
        counts |= {"cache_read": cache_read, "cache_creation": cache_creation, **more}
        cost = self.price(
            model,
            tier=tier,
            at=at,
            organization=organization,
            provider=provider,
            units=units,
            uplifts=uplifts,
            **counts,
        )
        return (self.fallback_price(units=units, **counts), "fallback") if cost is None else (cost, "priced")

    def price_usage(
        self,
        record: UsageRecord,
        *,
        model: str = "",
        tier: ServiceTier = "standard",
        units: Mapping[str, float] | None = None,
        uplifts: Iterable[str] = (),
        **more: int,
    ) -> None:
        """Set what a record cost at its own time, for the organisation in its tag `org`; `model` overrules its own.

        Its tag `provider` chooses between entries of the same model; fees per request are added for its requests.
        """
        name, organization = model or record.request_model, record.tags.get("org", "")
        provider = record.tags.get("provider", "")
        found = self.find(name, at=record.charge_period_start, organization=organization, provider=provider)
        if found is not None and "requests" in found.units:
            units = {"requests": record.requests - record.errors, **(units or {})}
        record.effective_cost, record.cost_source = self.estimate(
            name,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cache_read=record.cache_read_input_tokens,
            cache_creation=record.cache_creation_input_tokens,
            tier=tier,
            at=record.charge_period_start,
            organization=organization,
            provider=provider,
            units=units,
            uplifts=uplifts,
            **more,
        )
        record.price_book = self.hash

    def _find(self, model: str, at: float, organization: str, provider: str) -> Price | None:
        names = undated(plain(model, provider))
        alias = next((self._aliases[name] for name in names if name in self._aliases), None)
        if alias is not None:
            model, provider = alias, ""
            names += undated(plain(model))
        found = self._entry(model, provider)
        entry = None if found is None else found.at(at)
        override = self._override(names, at, organization)
        if override is not None:
            raw = {} if entry is None else entry.raw
            return price_of(override.model, {**raw, **override.prices})
        if found is None or entry is None:
            return None
        price = asked(entry.price, found.variant)
        for discount in self._terms.discounts:
            if (
                _holds(discount, at, organization)
                and any(fnmatchcase(name, discount.model.lower()) for name in (*names, found.name))
                and fnmatchcase(price.provider, discount.provider)
            ):
                return price.scaled(1 - discount.percent / 100)
        return price

    def _entry(self, model: str, provider: str) -> Entry | None:
        found = self._entries.find(model, provider)
        return self._beside._entry(model, provider) if found is None and self._beside is not None else found

    def _override(self, names: list[str], at: float, organization: str) -> Override | None:
        holding = (each for each in self._terms.overrides if _holds(each, at, organization))
        return next((each for each in holding if each.model.lower() in names), None)


def read_book(path: Path | str | None = None) -> tuple[dict[str, Any], str]:
    """The map in a JSON file (plain or .gz) or the shipped one, and its date. Raises OSError or ValueError."""
    if path is None:
        return _shipped()
    file = Path(path).expanduser()
    content = file.read_bytes()
    try:
        models = _models(gzip.decompress(content) if file.suffix == ".gz" else content)
    except (EOFError, zlib.error):
        raise ValueError("price book: the .gz file is damaged") from None
    return models, _date_of(models) or str(datetime.fromtimestamp(file.stat().st_mtime, UTC).date())


@cache
def _shipped() -> tuple[dict[str, Any], str]:
    """The current map; models that only the older book has are kept. Both are in `data`, with their origin."""
    data = resources.files("curb.connectors.pricing") / "data"
    older, current = (
        _models(gzip.decompress((data / name).read_bytes())) for name in ("prices.json.gz", "models.json.gz")
    )
    return {**older, **current}, _date_of(current)


@cache
def shipped_book() -> PriceBook:
    """The book shipped with Curb."""
    models, as_of = _shipped()
    return PriceBook(models, as_of=as_of)


def _models(content: bytes) -> dict[str, Any]:
    models = json.loads(content)
    if not isinstance(models, dict):
        raise ValueError("price book: a JSON object of models is needed")
    return models


def _date_of(models: dict[str, Any]) -> str:
    note = models.get("x_book")
    return str(note.get("as_of") or "") if isinstance(note, dict) else ""


def _hash(content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _holds(term: Term, at: float, organization: str) -> bool:
    return (
        term.organization in (None, organization)
        and (term.starts is None or at >= midnight(term.starts))
        and (term.ends is None or at < midnight(term.ends))
    )


def _fallback_units(prices: list[Price]) -> dict[str, float]:
    by_unit: dict[str, list[float]] = {}
    for price in prices:
        for unit, usd in price.units.items():
            if usd > 0:
                by_unit.setdefault(unit, []).append(usd)
    return {unit: _percentile_90(usds) for unit, usds in by_unit.items()}


def _percentile_90(values: Iterable[float]) -> float:
    """Nearest rank: a price that some model really has."""
    ordered = sorted(values)
    return ordered[math.ceil(0.9 * len(ordered)) - 1]
