"""What a run will cost: GPU hours by the GPU price list, calls of a model by the price book, or dollars as given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from curb.config.file import CurbConfig
from curb.connectors.gpus.charges import GpuSettings
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.gpus import GpuPriceOverride, GpuPrices
from curb.stream.money import usd

#: What a run is made of decides which budgets count it, by the sources of their scope.
GPU, CALLS, ANY = frozenset({"gpu"}), frozenset({"usage"}), frozenset({"usage", "gpu", "costs"})


class RunCost(NamedTuple):
    """Dollars of a run or of a part of it."""

    what: str
    usd: float
    sources: frozenset[str]
    #: How long it runs, None where that is not known: then all dollars fall into the period of now.
    hours: float | None = None
    #: What the price rests on, where that is not sure; a sentence.
    doubt: str = ""


class GpuHours(NamedTuple):
    """GPUs for a time; texts are empty where they are not known."""

    gpu: str
    gpus: float
    hours: float
    instance: str = ""
    provider: str = ""
    region: str = ""


def gpu_cost(config: CurbConfig, wanted: GpuHours, at: float) -> RunCost:
    """GPUs that start at `at` (epoch seconds), by own prices in the configuration, then by the list."""
    settings = next((each for each in config.connectors if isinstance(each, GpuSettings)), None)
    prices = GpuPrices.load(tuple(_own_prices(config)))
    found = prices.price(
        wanted.gpu,
        at,
        instance=wanted.instance,
        provider=wanted.provider or (settings.provider if settings else ""),
        region=wanted.region or (settings.region if settings else ""),
    )
    name = prices.model(wanted.gpu) if wanted.gpu else f"GPU of {wanted.instance}" if wanted.instance else "GPU"
    amount = found.usd_per_gpu_hour * wanted.gpus * wanted.hours
    doubt = ""
    if found.known == "fallback":
        doubt = f"no price for {name}: priced as one of the expensive GPUs of the list; --gpu names the model"
    what = f"{wanted.gpus:g} × {name} for {wanted.hours:g} h at {usd(found.usd_per_gpu_hour)} an hour each"
    return RunCost(what, amount, GPU, wanted.hours, doubt)


def calls_cost(
    book: PriceBook, model: str, input_tokens: int, output_tokens: int, requests: int, at: float, organization: str
) -> RunCost:
    """Requests of so many tokens each, at the prices of `at` (epoch seconds), after what was agreed."""
    price = book.find(model, at=at, organization=organization)
    units = {"requests": 1.0} if price is not None and "requests" in price.units else None
    each, known = book.estimate(
        model, input_tokens=input_tokens, output_tokens=output_tokens, at=at, organization=organization, units=units
    )
    doubt = "" if known == "priced" else f"no price for {model}: priced as an unknown model; prices.overrides sets it"
    what = f"{requests:,} requests of {model}, {input_tokens:,} tokens in and {output_tokens:,} out each"
    return RunCost(what, each * requests, CALLS, doubt=doubt)


def _own_prices(config: CurbConfig) -> Iterable[GpuPriceOverride]:
    for each in config.connectors:
        yield from (price for price in getattr(each, "prices", ()) if isinstance(price, GpuPriceOverride))
