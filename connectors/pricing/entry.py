"""What one model costs: an entry of LiteLLM's price map with its tiers, as rates per token and per other unit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

ServiceTier = Literal["standard", "batch", "priority", "flex"]
_SUFFIXES: dict[ServiceTier, str] = {"standard": "", "batch": "_batches", "priority": "_priority", "flex": "_flex"}
#: "_above_200k_tokens": the price holds for the whole request when its input is longer.
_ABOVE = re.compile(r"_above_(\d+)k_tokens")
_PRICE = re.compile(r"^(input|output|cache_(creation|read)_input|ocr)_.*cost|^(input|output|ocr)_cost_per_")
#: Rate → its name in the map, and the rate it falls back to where the map is silent.
_TOKEN_RATES = {
    "input": ("input_cost_per_token", None),
    "output": ("output_cost_per_token", None),
    "cache_read": ("cache_read_input_token_cost", "input"),
    "cache_creation": ("cache_creation_input_token_cost", "input"),
    "cache_creation_1h": ("cache_creation_input_token_cost_above_1hr", "cache_creation"),
    "audio_input": ("input_cost_per_audio_token", "input"),
    "audio_output": ("output_cost_per_audio_token", "output"),
    "reasoning": ("output_cost_per_reasoning_token", "output"),
}
#: Other units a request may be charged by → the name in the map.
UNITS = {
    "images_input": "input_cost_per_image",
    "images_output": "output_cost_per_image",
    "seconds_input": "input_cost_per_second",
    "seconds_output": "output_cost_per_second",
    "queries": "input_cost_per_query",
    "requests": "input_cost_per_request",
    "pages": "ocr_cost_per_page",
    "characters_input": "input_cost_per_character",
}


class Tokens(NamedTuple):
    """What a request used. `input` holds all of cached and audio input, `output` all of audio and reasoning output."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    #: All that was written to the cache, and what of it was written to be kept for an hour.
    cache_creation: int = 0
    cache_creation_1h: int = 0
    audio_input: int = 0
    audio_output: int = 0
    reasoning: int = 0


class Rates(NamedTuple):
    """Dollars per token."""

    input: float
    output: float
    cache_read: float
    cache_creation: float
    cache_creation_1h: float
    audio_input: float
    audio_output: float
    reasoning: float

    def cost(self, tokens: Tokens) -> float:
        """Dollars of a request."""
        long_cached = min(tokens.cache_creation_1h, tokens.cache_creation)
        plain_input = max(0, tokens.input - tokens.cache_read - tokens.cache_creation - tokens.audio_input)
        plain_output = max(0, tokens.output - tokens.audio_output - tokens.reasoning)
        return (
            plain_input * self.input
            + tokens.cache_read * self.cache_read
            + (tokens.cache_creation - long_cached) * self.cache_creation
            + long_cached * self.cache_creation_1h
            + tokens.audio_input * self.audio_input
            + plain_output * self.output
            + tokens.audio_output * self.audio_output
            + tokens.reasoning * self.reasoning
        )


class Price(NamedTuple):
    """What a model costs."""

    #: Service tier → (input tokens above which they hold, rates), the longest first. Empty: not charged by token.
    tiers: Mapping[ServiceTier, tuple[tuple[int, Rates], ...]]
    #: Unit → dollars.
    units: Mapping[str, float]
    mode: str | None = None
    provider: str = ""

    @property
    def input(self) -> float:
        """Dollars per input token of a short request."""
        return self.tiers["standard"][-1][1].input

    @property
    def output(self) -> float:
        """Dollars per output token of a short request."""
        return self.tiers["standard"][-1][1].output

    def rates(self, tier: ServiceTier, input_tokens: int) -> Rates:
        """The rates of a request. Only for a price that charges tokens."""
        tiers = self.tiers[tier]
        for above, rates in tiers:
            if input_tokens > above:
                return rates
        return tiers[-1][1]

    def cost(self, tokens: Tokens, tier: ServiceTier = "standard", units: Mapping[str, float] | None = None) -> float:
        """Dollars of a request; units without a price cost nothing."""
        usd = self.rates(tier, tokens.input).cost(tokens) if self.tiers else 0.0
        return usd + sum(count * self.units.get(unit, 0.0) for unit, count in (units or {}).items())

    def scaled(self, factor: float) -> Price:
        """Every price times `factor`."""
        tiers = {
            tier: tuple((above, Rates(*(rate * factor for rate in rates))) for above, rates in levels)
            for tier, levels in self.tiers.items()
        }
        return self._replace(tiers=tiers, units={unit: usd * factor for unit, usd in self.units.items()})


def price_of(name: str, raw: Any) -> Price | None:
    """The price in an entry of the map, or None for one without any. Raises ValueError, naming the model."""
    if not isinstance(raw, dict):
        raise ValueError(f"price book: {name}: an object of prices is needed")
    prices = _numbers(name, raw) | _tiered(name, raw)
    units = {unit: prices[key] for unit, key in UNITS.items() if key in prices}
    if "input_cost_per_token" not in prices and "output_cost_per_token" not in prices:
        return _price({}, units, raw) if units else None
    levels = sorted({int(n) * 1000 for key in prices for n in _ABOVE.findall(key)}, reverse=True)
    tiers = {
        tier: tuple((above, _rates(prices, above, suffix)) for above in (*levels, 0))
        for tier, suffix in _SUFFIXES.items()
    }
    return _price(tiers, units, raw)


def _price(tiers: Any, units: dict[str, float], raw: dict[str, Any]) -> Price:
    mode = raw.get("mode")
    return Price(tiers, units, None if mode is None else str(mode), str(raw.get("litellm_provider") or ""))


def _numbers(name: str, raw: dict[str, Any]) -> dict[str, float]:
    """Every price of an entry by its key. Numbers may be written as text, as some editors of the map do."""
    prices = {}
    for key, value in raw.items():
        if value is None or isinstance(value, dict | list) or not _PRICE.match(key):
            continue
        try:
            price = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"price book: {name}: {key} is no number") from None
        if isinstance(value, bool) or not (math.isfinite(price) and price >= 0):
            raise ValueError(f"price book: {name}: {key} must be a finite number of at least 0")
        prices[key] = price
    return prices


def _tiered(name: str, raw: dict[str, Any]) -> dict[str, float]:
    """Prices given as a list of ranges of input tokens, in the other spelling."""
    prices: dict[str, float] = {}
    for level in raw.get("tiered_pricing") or ():
        try:
            above = int(level["range"][0])
        except (TypeError, KeyError, ValueError, IndexError):
            raise ValueError(
                f"price book: {name}: tiered_pricing needs a `range` of two numbers in each part"
            ) from None
        suffix = f"_above_{above // 1000}k_tokens" if above >= 1000 else ""
        prices |= {key + suffix: price for key, price in _numbers(name, level).items()}
    return prices


def _rates(prices: dict[str, float], above: int, suffix: str) -> Rates:
    """Where no price is named for both length and tier, the longer length decides: rather too much than too little."""
    level = f"_above_{above // 1000}k_tokens" if above else ""
    found: dict[str, float] = {}
    for rate, (key, otherwise) in _TOKEN_RATES.items():
        keys = (f"{key}{level}{suffix}", f"{key}{level}", f"{key}{suffix}", key)
        named = next((prices[each] for each in keys if each in prices), None)
        found[rate] = named if named is not None else found[otherwise] if otherwise else 0.0
    return Rates(**found)
