"""What one model costs: an entry of LiteLLM's price map with its tiers, as rates per token and per other unit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from operator import mul
from typing import Any, Literal, NamedTuple, get_args

from curb.connectors.pricing.hours import Hours

ServiceTier = Literal["standard", "batch", "priority", "flex", "ultrafast", "balanced"]
_SUFFIXES: dict[ServiceTier, str] = {
    tier: {"standard": "", "batch": "_batches"}.get(tier, f"_{tier}") for tier in get_args(ServiceTier)
}
#: "_above_200k_tokens": the price holds for the whole request when its input is longer.
_ABOVE = re.compile(r"_above_(\d+)k_tokens")
_PRICE = re.compile(
    r"^(input|output|cache_(creation|read)_input|ocr|annotation|citation|code_interpreter|google_maps)_.*cost"
)
#: Rate → its name in the map, and the rate it follows where the map is silent.
_TOKEN_RATES = {
    "input": ("input_cost_per_token", None),
    "output": ("output_cost_per_token", None),
    "cache_read": ("cache_read_input_token_cost", "input"),
    "cache_creation": ("cache_creation_input_token_cost", "input"),
    "cache_creation_1h": ("cache_creation_input_token_cost_above_1hr", "cache_creation"),
    "cache_creation_12h": ("cache_creation_input_token_cost_above_12hr", "cache_creation"),
    "audio_input": ("input_cost_per_audio_token", "input"),
    "audio_output": ("output_cost_per_audio_token", "output"),
    "reasoning": ("output_cost_per_reasoning_token", "output"),
    "cache_read_audio": ("cache_read_input_audio_token_cost", "cache_read"),
    "cache_read_image": ("cache_read_input_image_token_cost", "cache_read"),
    "image_input": ("input_cost_per_image_token", "input"),
    "image_output": ("output_cost_per_image_token", "output"),
    "video_input": ("input_cost_per_video_token", "image_input"),
    "video_output": ("output_cost_per_video_token", "output"),
}
#: Other units a request may be charged by → their names in the map, the first that is there.
UNITS = {
    "images_input": ("input_cost_per_image",),
    "images_output": ("output_cost_per_image",),
    "pixels_input": ("input_cost_per_pixel",),
    "pixels_output": ("output_cost_per_pixel",),
    "seconds_input": ("input_cost_per_second", "input_cost_per_audio_per_second"),
    "seconds_output": ("output_cost_per_second", "output_cost_per_video_per_second"),
    "video_seconds_input": ("input_cost_per_video_per_second", "input_cost_per_second"),
    "characters_input": ("input_cost_per_character",),
    "characters_output": ("output_cost_per_character",),
    "queries": ("input_cost_per_query",),
    "requests": ("input_cost_per_request",),
    "messages": ("input_cost_per_text_message",),
    "pages": ("ocr_cost_per_page",),
    "annotated_pages": ("annotation_cost_per_page",),
    "credits": ("ocr_cost_per_credit",),
    "map_searches": ("google_maps_grounding_cost_per_query",),
    "sessions": ("code_interpreter_cost_per_session",),
}
#: "output_cost_per_second_1080p" → unit "seconds_output_1080p", "output_cost_per_image_2K" → "images_output_2k".
_SIZED = re.compile(r"^output_cost_per_(second|image)_(\d[\w.]*)$")
#: Dollars for one token that no model costs: such a price is a slip, as one per million tokens is. By hand: the most
#: expensive model of the shipped map costs a cent.
_MOST_PER_TOKEN = 1.0
#: What tools cost where the entry of the model is silent: a web search and a container session as Anthropic, Azure and
#: OpenAI charge them in 2026, a search in maps as Google does.
TOOLS = {"searches": 0.01, "map_searches": 0.025, "sessions": 0.03}
#: Providers that sell batches at half their list price: where the map names no price for it, half is taken.
_HALF_IN_BATCHES = (
    "anthropic",
    "azure",
    "azure_ai",
    "bedrock",
    "bedrock_converse",
    "bedrock_mantle",
    "fireworks_ai",
    "gemini",
    "groq",
    "mistral",
    "openai",
    "vertex_ai",
)
#: Anthropic charges a write that is kept for an hour at twice the input, and all cached tokens of batches at half.
_CLAUDE_HOUR = 2.0
#: Fireworks charges cached input at half where it names no price.
_FIREWORKS_CACHED = 0.5
#: Rates that a cheaper tier does not lower unless the map says so.
_CACHED = frozenset(rate for rate in _TOKEN_RATES if rate.startswith("cache_"))


class Tokens(NamedTuple):
    """What a request used.

    `input` holds all of cached, written, audio, image and video input, `output` all of audio, image, video and
    reasoning output. Audio and image input are what was not read from the cache; `cache_read` holds all that was.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    #: All that was written to the cache, and what of it was written to be kept for one or for twelve hours.
    cache_creation: int = 0
    cache_creation_1h: int = 0
    cache_creation_12h: int = 0
    audio_input: int = 0
    audio_output: int = 0
    reasoning: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    image_input: int = 0
    image_output: int = 0
    video_input: int = 0
    video_output: int = 0

    def apart(self) -> tuple[int, ...]:
        """Each token once, in the order of `Rates`. Parts that are larger than their whole count as they are."""
        one = min(self.cache_creation_1h, self.cache_creation)
        twelve = min(self.cache_creation_12h, self.cache_creation - one)
        special_input = self.audio_input + self.image_input + self.video_input
        special_output = self.audio_output + self.image_output + self.video_output
        return (
            max(0, self.input - self.cache_read - self.cache_creation - special_input),
            max(0, self.output - self.reasoning - special_output),
            max(0, self.cache_read - self.cache_read_audio - self.cache_read_image),
            self.cache_creation - one - twelve,
            one,
            twelve,
            *self[6:],
        )


class Rates(NamedTuple):
    """Dollars per token, of the kinds of `Tokens`."""

    input: float
    output: float
    cache_read: float
    cache_creation: float
    cache_creation_1h: float
    cache_creation_12h: float
    audio_input: float
    audio_output: float
    reasoning: float
    cache_read_audio: float
    cache_read_image: float
    image_input: float
    image_output: float
    video_input: float
    video_output: float

    def cost(self, tokens: Tokens) -> float:
        """Dollars of a request."""
        return float(sum(map(mul, self, tokens.apart())))


class Price(NamedTuple):
    """What a model costs."""

    #: Service tier → (input tokens above which they hold, rates), the longest first. Empty: not charged by token.
    tiers: Mapping[ServiceTier, tuple[tuple[int, Rates], ...]]
    #: Unit → dollars; "batch pages" is that of a tier.
    units: Mapping[str, float]
    mode: str | None = None
    provider: str = ""
    #: Surcharges on tokens by name, as factors: "us" 1.1 for inference that stays in the US, "fast" 2.
    uplifts: Mapping[str, float] = {}
    #: When the provider is cheaper, and what it costs then.
    off_peak: tuple[Hours, Price] | None = None

    @property
    def input(self) -> float:
        """Dollars per input token of a short request."""
        return self.tiers["standard"][-1][1].input

    @property
    def output(self) -> float:
        """Dollars per output token of a short request."""
        return self.tiers["standard"][-1][1].output

    def at(self, time: float) -> Price:
        """The price at a time (epoch seconds): the cheaper one in the provider's off-peak hours."""
        return self.off_peak[1] if self.off_peak is not None and self.off_peak[0].hold(time) else self

    def rates(self, tier: ServiceTier, input_tokens: int) -> Rates:
        """The rates of a request. Only for a price that charges tokens."""
        tiers = self.tiers.get(tier) or self.tiers["standard"]
        for above, rates in tiers:
            if input_tokens > above:
                return rates
        return tiers[-1][1]

    def unit(self, name: str, tier: ServiceTier = "standard") -> float | None:
        """Dollars per unit; a size that has no price of its own, as "seconds_output_1080p", costs as the plain unit."""
        names = (f"{tier} {name}", name, name.rpartition("_")[0])
        named = next((self.units[each] for each in names if each in self.units), None)
        return TOOLS.get(name.removesuffix("_low").removesuffix("_high")) if named is None else named

    def covers(self, tokens: Tokens, units: Mapping[str, float]) -> bool:
        """False where what was used has no price here: tokens, or units without any tokens."""
        if any(tokens):
            return bool(self.tiers)
        if any(units.values()):
            return any(count and self.unit(unit) is not None for unit, count in units.items())
        return bool(self.tiers)

    def cost(
        self,
        tokens: Tokens,
        tier: ServiceTier = "standard",
        units: Mapping[str, float] | None = None,
        uplifts: Iterable[str] = (),
        request_input: int | None = None,
    ) -> float:
        """Dollars of a request, or of many with `request_input` tokens of input each.

        Units without a price cost nothing, unknown uplifts change nothing.
        """
        length = tokens.input if request_input is None else request_input
        usd = self.rates(tier, length).cost(tokens) if self.tiers else 0.0
        for each in uplifts:
            usd *= self.uplifts.get(each, 1.0)
        return usd + sum(count * (self.unit(unit, tier) or 0.0) for unit, count in (units or {}).items())

    def scaled(self, factor: float) -> Price:
        """Every price times `factor`."""
        tiers = {
            tier: tuple((above, Rates(*(rate * factor for rate in rates))) for above, rates in levels)
            for tier, levels in self.tiers.items()
        }
        off_peak = None if self.off_peak is None else (self.off_peak[0], self.off_peak[1].scaled(factor))
        units = {unit: usd * factor for unit, usd in self.units.items()}
        return self._replace(tiers=tiers, units=units, off_peak=off_peak)


#: OpenRouter searches the web for names that end in ":online", five results at $4 per 1,000.
_ONLINE_USD = 0.02
#: What a model that is offered for nothing costs, such as OpenRouter's ":free" ones.
FREE = Price({"standard": ((0, Rates(*(0.0 for _ in Rates._fields))),)}, {})


def asked(price: Price, variant: str) -> Price:
    """The price of a model whose name asks for a variant: ":online" adds a search, ":batch" is the tier."""
    if variant == "online":
        return price._replace(units={**price.units, "requests": price.units.get("requests", 0.0) + _ONLINE_USD})
    if variant == "batch" and "batch" in price.tiers:
        return price._replace(tiers={"standard": price.tiers["batch"]})
    return price


def price_of(name: str, raw: Any) -> Price | None:
    """The price in an entry of the map, or None for one without any. Raises ValueError, naming the model."""
    if not isinstance(raw, dict):
        raise ValueError(f"price book: {name}: an object of prices is needed")
    prices = _numbers(name, raw) | _tiered(name, raw)
    units = _units(name, prices, raw)
    tiers: dict[ServiceTier, tuple[tuple[int, Rates], ...]] = {}
    provider = str(raw.get("litellm_provider") or "")
    if "input_cost_per_token" in prices or "output_cost_per_token" in prices:
        reader = _Reader(prices, provider, "claude" in name.lower() or provider == "anthropic")
        tiers = {tier: reader.levels(suffix) for tier, suffix in _SUFFIXES.items() if reader.sells(suffix)}
    if not tiers and not units:
        return None
    mode = raw.get("mode")
    price = Price(tiers, units, None if mode is None else str(mode), provider, _uplifts(raw))
    return price._replace(off_peak=_off_peak(name, raw))


def _numbers(name: str, raw: dict[str, Any]) -> dict[str, float]:
    """Every price of an entry by its key. Numbers may be written as text, as some editors of the map do."""
    prices = {}
    for key, value in raw.items():
        if value is None or isinstance(value, dict | list) or not _PRICE.match(key):
            continue
        prices[key] = _number(name, key, value)
    return prices


def _number(name: str, key: str, value: Any) -> float:
    try:
        price = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"price book: {name}: {key} is no number") from None
    if isinstance(value, bool) or not (math.isfinite(price) and price >= 0):
        raise ValueError(f"price book: {name}: {key} must be a finite number of at least 0")
    if "token" in key and price > _MOST_PER_TOKEN:
        raise ValueError(f"price book: {name}: {key} is {price:g} dollars for one token")
    return price


def _tiered(name: str, raw: dict[str, Any]) -> dict[str, float]:
    """Prices given as a list of ranges of input tokens, in the other spelling.

    Search tools have ranges of results instead: the first counts, which is that of the usual number of results.
    """
    prices: dict[str, float] = {}
    levels = raw.get("tiered_pricing") or []
    if not isinstance(levels, list):
        raise ValueError(f"price book: {name}: tiered_pricing must be a list")
    for level in levels:
        if isinstance(level, dict) and "max_results_range" in level and "range" not in level:
            prices = _numbers(name, level) | prices
            continue
        try:
            above = int(level["range"][0])
        except (TypeError, KeyError, ValueError, IndexError, OverflowError):
            raise ValueError(
                f"price book: {name}: tiered_pricing needs a `range` of two numbers in each part"
            ) from None
        suffix = f"_above_{above // 1000}k_tokens" if above >= 1000 else ""
        prices |= {key + suffix: price for key, price in _numbers(name, level).items()}
    return prices


def _units(name: str, prices: dict[str, float], raw: dict[str, Any]) -> dict[str, float]:
    units: dict[str, float] = {}
    others = {key: usd for key, usd in prices.items() if not key.endswith("_token") and "_token_" not in key}
    for key, usd in others.items():
        if sized := _SIZED.match(key):
            units[f"{sized[1]}s_output_{sized[2].lower()}"] = usd
    for tier, suffix in _SUFFIXES.items() if others else ():
        before = "" if tier == "standard" else f"{tier} "
        for unit, keys in UNITS.items():
            if found := [others[key + suffix] for key in keys if key + suffix in others]:
                units[before + unit] = found[0]
    if raw.get("mode") == "audio_transcription" and not units.get("seconds_input") and "seconds_output" in units:
        units["seconds_input"] = units["seconds_output"]  # some entries name the seconds of audio as output
    if "citation_cost_per_token" in prices:
        units["citation_tokens"] = prices["citation_cost_per_token"]
    searches = raw.get("search_context_cost_per_query")
    if isinstance(searches, dict):
        for size, unit in (("low", "searches_low"), ("medium", "searches"), ("high", "searches_high")):
            if (named := searches.get(f"search_context_size_{size}")) is not None:
                units[unit] = _number(name, f"search_context_size_{size}", named)
    return units


def _uplifts(raw: dict[str, Any]) -> dict[str, float]:
    """Factors on the price of tokens. Those below 1 or without a number are left out."""
    special = raw.get("provider_specific_entry")
    found = {key: special[key] for key in ("us", "fast") if isinstance(special, dict) and key in special}
    for uplift, key in (
        ("us", "regional_processing_uplift_multiplier_us"),
        ("eu", "regional_processing_uplift_multiplier_eu"),
        ("regional", "regional_endpoint_uplift_multiplier"),
        ("fedramp", "fedramp_uplift_multiplier"),
    ):
        if raw.get(key) is not None:
            found[uplift] = raw[key]
    return {key: float(factor) for key, factor in found.items() if _is_factor(factor)}


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 1


def _off_peak(name: str, raw: dict[str, Any]) -> tuple[Hours, Price] | None:
    cheaper = raw.get("off_peak_pricing")
    if not isinstance(cheaper, dict):
        return None
    try:
        hours = Hours.of(cheaper.get("windows"), str(cheaper.get("weekday_timezone") or "UTC"))
    except ValueError as error:
        raise ValueError(f"price book: {name}: off_peak_pricing: {error}") from None
    plain = {key: value for key, value in raw.items() if key != "off_peak_pricing"}
    price = price_of(name, plain | _numbers(name, cheaper))
    return None if price is None else (hours, price)


class _Reader:
    """Reads rates of tokens from an entry's prices."""

    def __init__(self, prices: dict[str, float], provider: str, claude: bool) -> None:
        self._prices, self._claude = prices, claude
        self._halves = provider.startswith("vertex_ai") or provider in _HALF_IN_BATCHES
        self._cached_part = _FIREWORKS_CACHED if provider == "fireworks_ai" else 1.0
        # xAI's longer prices hold from their length on, all others' above it
        less = 1 if provider == "xai" else 0
        thousands = sorted({int(n) for key in prices for n in _ABOVE.findall(key)}, reverse=True)
        self._levels = [(n * 1000 - less, f"_above_{n}k_tokens") for n in thousands] + [(0, "")]
        self._base: dict[str, float] = {}
        self._base = self._rates("", "")

    def sells(self, suffix: str) -> bool:
        """True for a tier that has prices of its own."""
        return not suffix or (suffix == "_batches" and self._halves) or any(suffix in key for key in self._prices)

    def levels(self, suffix: str) -> tuple[tuple[int, Rates], ...]:
        """The rates of a tier by length, the longest first."""
        return tuple((above, Rates(**self._rates(level, suffix))) for above, level in self._levels)

    def _rates(self, level: str, suffix: str) -> dict[str, float]:
        if not level and not suffix and self._base:
            return self._base
        found: dict[str, float] = {}
        for rate, (key, otherwise) in _TOKEN_RATES.items():
            exact = self._prices.get(f"{key}{level}{suffix}")
            if rate == "cache_creation" and exact == 0 and found["input"] > 0:
                exact = None  # the map's way to say that no write costs extra: it costs as input does
            if exact is not None:
                found[rate] = exact
            elif otherwise is None:
                found[rate] = self._plain(key, level, suffix)
            else:
                found[rate] = self._derived(rate, otherwise, found, base=not level and not suffix)
        return found

    def _plain(self, key: str, level: str, suffix: str) -> float:
        """Where no price is named for both length and tier, the length decides: rather too much than too little."""
        if suffix == "_batches" and self._halves:
            named = self._prices.get(f"{key}{level}", self._prices.get(key, 0.0))
            return named / 2
        keys = (f"{key}{level}", f"{key}{suffix}", key)
        return next((self._prices[each] for each in keys if each in self._prices), 0.0)

    def _derived(self, rate: str, otherwise: str, found: dict[str, float], *, base: bool) -> float:
        """A special kind that is not named here costs more or less as the plain kind does."""
        if rate == "cache_creation_1h" and self._claude and "cache_creation_input_token_cost" in self._prices:
            return _CLAUDE_HOUR * found["input"]
        if rate == "cache_read" and "cache_read_input_token_cost" not in self._prices:
            return found["input"] * self._cached_part
        if base or not self._named(rate) or not self._base[otherwise]:
            return found[otherwise]
        factor = found[otherwise] / self._base[otherwise]
        if factor < 1 and rate in _CACHED and not self._claude:
            return min(self._base[rate], found["input"])
        return self._base[rate] * factor

    def _named(self, rate: str) -> bool:
        return self._prices.get(_TOKEN_RATES[rate][0]) is not None and self._base[rate] != self._base_otherwise(rate)

    def _base_otherwise(self, rate: str) -> float | None:
        otherwise = _TOKEN_RATES[rate][1]
        return None if otherwise is None else self._base[otherwise]
