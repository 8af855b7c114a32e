"""Configuration of prices: the book, and what an organisation has agreed beside it."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from curb.connectors.pricing.entry import price_of
from curb.stream.settings import Settings


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
