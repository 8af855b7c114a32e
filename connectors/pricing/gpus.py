"""What a GPU costs per hour: a dated list of vendors' instance prices, with prices of one's own in front of it."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import cache, lru_cache
from importlib import resources
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from curb.stream.settings import Settings
from curb.stream.time import DAY_S

_COLUMNS = {"provider", "instance_type", "gpu", "gpus", "region", "usd_per_hour", "effective_from"}
_BEGINNING = 0.0
_MEMORY = re.compile(r"^(\d+)GB$")
#: A model whose name is several words, as one.
_RTX_PRO = re.compile(r"RTX\W+PRO\W+(?:SERVER\W+)?(\d{4})")
#: Vendor → how it names its instance types: p5e.48xlarge, ml.g5.xlarge; a3-megagpu-8g, n1-standard-8;
#: Standard_ND96isr_H100_v5; gpu_8x_h100_sxm5.
_NAMED = {
    "aws": re.compile(r"(?:ml\.)?[a-z]+\d[a-z0-9-]*\.(?:\d*xlarge|metal)\b"),
    "azure": re.compile(r"Standard_N[A-Z]"),
    "gcp": re.compile(r"[a-z]\d-[a-z]+-\d+g?(?:-\w+)?$"),
    "lambda": re.compile(r"gpu_\d+x_"),
}


class GpuPriceOverride(Settings):
    """A price of one's own: of an instance type (whole, with its number of GPUs) or of one GPU of a model."""

    instance: str | None = Field(None, description="Instance type, such as p5.48xlarge; give this or `gpu`.")
    gpu: str | None = Field(None, description="GPU model, such as H100 or A100-80GB; give this or `instance`.")
    gpus: int = Field(1, ge=1, le=64, description="GPUs of the instance.")
    usd_per_hour: float = Field(ge=0, le=1e5, description="Dollars an hour for the instance, or for one GPU.")
    region: str = Field("", description="Only in this region; empty: everywhere.")
    effective_from: date | None = Field(None, description="First day of the price (UTC); default: always.")

    @model_validator(mode="after")
    def _one_subject(self) -> GpuPriceOverride:
        if (self.instance is None) == (self.gpu is None):
            raise ValueError("give either `instance` or `gpu`")
        return self


class Offer(NamedTuple):
    """One row: an instance with so many GPUs of a model, in dollars an hour from a moment on (epoch seconds)."""

    provider: str
    instance: str
    gpu: str
    gpus: int
    region: str
    usd_per_hour: float
    since: float

    @property
    def usd_per_gpu_hour(self) -> float:
        return self.usd_per_hour / self.gpus


class GpuPrice(NamedTuple):
    """Dollars an hour for one GPU, and the number of GPUs the price of its node is divided by (0: not known)."""

    usd_per_gpu_hour: float
    gpus: int
    known: Literal["priced", "fallback"]


class GpuPrices:
    """The list. `hash` is the first 12 hex digits of the SHA-256 of all its rows; own prices win over listed ones.

    A GPU that no row knows costs the 90th percentile of what a GPU costs in the list: never nothing.
    """

    def __init__(self, offers: Iterable[Offer], overrides: Sequence[GpuPriceOverride] = ()) -> None:
        own = [_offer_of(override) for override in overrides]
        listed = sorted(offers)
        self.hash = hashlib.sha256(repr((listed, sorted(own))).encode()).hexdigest()[:12]
        self._own, self._listed = own, listed
        self._cached = lru_cache(maxsize=4096)(self._find)
        self._model = lru_cache(maxsize=1024)(self._find_model)
        self._families = {each.gpu.split("-")[0].upper() for each in (*listed, *own) if each.gpu}
        self._names = {each.gpu.upper() for each in (*listed, *own) if each.gpu}
        if not listed:
            raise ValueError("GPU price list: it has no rows")
        per_gpu = sorted(each.usd_per_gpu_hour for each in listed)
        self._fallback = per_gpu[math.ceil(0.9 * len(per_gpu)) - 1]

    @classmethod
    def load(cls, overrides: Sequence[GpuPriceOverride] = ()) -> GpuPrices:
        """The list shipped with Curb, with `overrides` in front."""
        return cls(_shipped(), overrides)

    def model(self, name: str) -> str:
        """What the list calls a GPU ("A100-80GB" for "NVIDIA A100-SXM4-80GB"); unknown names come back as they are."""
        return self._model(name)

    def _find_model(self, name: str) -> str:
        words = re.split(r"[^A-Z0-9]+", _RTX_PRO.sub(r"RTXPRO\1", name.upper().partition(" MIG ")[0]))
        family = next((word for word in words if word in self._families), None)
        if family is None:
            return name.strip()
        sizes = [match[1] for word in words if (match := _MEMORY.match(word))]
        exact = f"{family}-{sizes[0]}GB" if sizes else family
        return exact if exact in self._names else family

    def price(self, gpu: str, at: float, *, instance: str = "", provider: str = "", region: str = "") -> GpuPrice:
        """What one GPU costs at `at` (epoch seconds).

        The price of the node's instance type comes first, then that of the GPU model: the provider's own cheapest offer
        per GPU. Without `provider` the form of the instance type says whose offers count; where it does not, or that
        vendor lists no such GPU, it is the most expensive of all vendors' cheapest.
        """
        # Prices change at midnight (UTC).
        return self._cached(gpu, at // DAY_S * DAY_S, instance, provider, region)

    def _find(self, gpu: str, at: float, instance: str, provider: str, region: str) -> GpuPrice:
        gpus = next((row.gpus for row in (*self._own, *self._listed) if instance and row.instance == instance), 0)
        for rows, own in ((self._own, True), (self._listed, False)):
            offer = _latest([row for row in rows if instance and row.instance == instance], at, region, own)
            if offer is not None:
                return GpuPrice(offer.usd_per_gpu_hour, offer.gpus, "priced")
            for vendor in (provider,) if provider else (_vendor(instance), ""):
                per_gpu = self._per_gpu(rows, self.model(gpu), at, vendor, region, own)
                if per_gpu is not None:
                    return GpuPrice(per_gpu, gpus, "priced")
        return GpuPrice(self._fallback, gpus, "fallback")

    def _per_gpu(self, rows: list[Offer], gpu: str, at: float, provider: str, region: str, own: bool) -> float | None:
        cheapest: dict[str, float] = {}
        same = [row for row in rows if row.gpu and row.gpu.upper() == gpu.upper()]
        for kind in sorted({(row.provider, row.instance) for row in same}):
            if provider and kind[0] not in ("", provider):
                continue
            offer = _latest([row for row in same if (row.provider, row.instance) == kind], at, region, own)
            if offer is not None:
                cheapest[kind[0]] = min(offer.usd_per_gpu_hour, cheapest.get(kind[0], math.inf))
        return max(cheapest.values(), default=None)


def _vendor(instance: str) -> str:
    """Whose names look like this instance type; "" for another's, and for machines of one's own."""
    return next((vendor for vendor, name in _NAMED.items() if name.match(instance)), "")


def _latest(rows: list[Offer], at: float, region: str, own: bool) -> Offer | None:
    """The newest row in force at `at`: one of the region itself before those for all regions.

    A listed price of another region is nearer the truth than none; an own one says what it is for.
    """
    in_force = [row for row in rows if row.since <= at]
    here = [row for row in in_force if region and row.region == region]
    found = here or [row for row in in_force if not row.region] or ([] if own else in_force)
    return max(found, key=lambda row: (row.since, row.usd_per_hour), default=None)


def _offer_of(override: GpuPriceOverride) -> Offer:
    since = _BEGINNING if override.effective_from is None else _midnight(override.effective_from)
    gpus = override.gpus if override.instance else 1
    return Offer("", override.instance or "", override.gpu or "", gpus, override.region, override.usd_per_hour, since)


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def parse_offers(text: str) -> list[Offer]:
    """The rows of a price list as CSV. Raises ValueError, naming column or line."""
    reader = csv.DictReader(io.StringIO(text))
    missing = _COLUMNS - set(reader.fieldnames or ())
    if missing:
        raise ValueError(f"GPU price list: no column {', '.join(sorted(missing))}")
    offers = []
    for row in reader:
        try:
            since = _midnight(date.fromisoformat(row["effective_from"])) if row["effective_from"] else _BEGINNING
            usd, gpus = float(row["usd_per_hour"]), int(row["gpus"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"GPU price list: line {reader.line_num}: {error}") from None
        if not (math.isfinite(usd) and usd > 0 and gpus > 0):
            raise ValueError(f"GPU price list: line {reader.line_num}: a price above 0 and GPUs are needed")
        offers.append(Offer(row["provider"], row["instance_type"], row["gpu"], gpus, row["region"], usd, since))
    return offers


@cache
def _shipped() -> tuple[Offer, ...]:
    content = resources.files("curb.connectors.pricing") / "data" / "gpu_prices.csv"
    return tuple(parse_offers(content.read_text(encoding="utf-8")))
