"""Lines of any JSON → records, by a map that says with JMESPath where each field stands."""

from __future__ import annotations

from typing import Any, Literal

import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from pydantic import Field, model_validator

from curb.connectors.decode import Rejected, wrong_shape
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.jsonl_lines import CurbLine, LineFormat, curb_format
from curb.stream.records.spend import PlannedActivity, SpendRecord
from curb.stream.settings import Expression, Settings

FieldName = Literal[
    "id",
    "charge_period_start",
    "effective_cost",
    "received_at",
    "request_model",
    "requests",
    "errors",
    "refused",
    "users",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
]
_COUNTS = frozenset(
    {"requests", "errors", "refused", "users", "input_tokens", "output_tokens"}
    | {"cache_read_input_tokens", "cache_creation_input_tokens"}
)


class MapSettings(Settings):
    """Where the fields of a line are, as JMESPath expressions such as `usage.prompt_tokens`."""

    fields: dict[FieldName, Expression] = Field(
        description="Field of Curb's own format: where it is. `id` and `charge_period_start` are needed."
    )
    tags: dict[str, Expression] = Field(default={}, description="Tag: where it is.")
    scale: dict[FieldName, float] = Field(
        default={}, description="Factors for numbers: 0.001 makes seconds of milliseconds, 0.01 dollars of cents."
    )
    only: Expression | None = Field(None, description="Lines for which this is false, null or empty are left out.")

    @model_validator(mode="after")
    def _complete(self) -> MapSettings:
        for name in ("id", "charge_period_start"):
            if name not in self.fields:
                raise ValueError(f"fields: {name} is missing")
        for name in self.scale:
            if name not in self.fields or name in ("id", "request_model"):
                raise ValueError(f"scale: {name} is no number that `fields` maps")
        return self


def map_format(settings: MapSettings, prices: PriceBook, default_tags: dict[str, str]) -> LineFormat:
    """The format of lines that the map describes; what it gives is treated as a line of Curb's own format."""
    fields = {name: jmespath.compile(expression) for name, expression in settings.fields.items()}
    tags = {name: jmespath.compile(expression) for name, expression in settings.tags.items()}
    only = None if settings.only is None else jmespath.compile(settings.only)
    own = curb_format(prices, default_tags)

    def record(event: dict[str, Any], source: str, at: float) -> SpendRecord | PlannedActivity | Rejected | None:
        line: dict[str, Any] = {}
        place = "only"
        try:
            if only is not None and not only.search(event):
                return None
            for place, expression in fields.items():
                value = expression.search(event)
                if value is not None:
                    line[place] = _number(value, settings.scale.get(place), whole=place in _COUNTS)
            line["tags"] = {}
            for place, expression in tags.items():
                value = expression.search(event)
                if isinstance(value, str | int | float):
                    line["tags"][place] = value if isinstance(value, str) else str(value)
                elif value is not None:
                    return Rejected("wrong_type", f"tags.{place} is a list or an object")
        except JMESPathError as error:
            return Rejected("wrong_type", f"{place}: {type(error).__name__}")
        if isinstance(line.get("id"), int):
            line["id"] = str(line["id"])
        try:
            return own.record(msgspec.convert(line, CurbLine), source, at)
        except msgspec.ValidationError as error:
            return wrong_shape(error)

    return LineFormat("map", msgspec.json.Decoder(dict[str, Any]), record)


def _number(value: Any, factor: float | None, *, whole: bool) -> Any:
    """The value times the factor; counts as whole numbers, where they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if factor is not None:
        value = round(value * factor) if whole else value * factor
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value
