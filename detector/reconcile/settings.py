"""Configuration of reconciliation: which usage is paid by which bill, and how near they should be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from curb.stream.settings import Settings

Patterns = Annotated[dict[str, str], Field(min_length=1)]


class Pair(Settings):
    """Usage that is estimated as it happens, and the bill for the same usage."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name, such as openai.")
    estimated: Patterns = Field(
        description="Tag or field → pattern: the usage. Fields as in attribution.rules: `source` is the connector."
    )
    billed: Patterns = Field(
        description="Tag or field → pattern: its bill. Unless said otherwise only charges (`records: costs`) of the "
        "category Usage are compared, and with usage and GPUs."
    )
    lag_hours: float = Field(
        default=48.0, ge=0, le=24 * 30, description="A day (UTC) is compared when it has been over for so long."
    )
    window_days: int = Field(default=7, ge=1, le=31, description="The ratio is that of so many days together.")
    min_days: int = Field(default=3, ge=1, le=31, description="Fewer days than this raise no alert.")
    min_usd: float = Field(default=10.0, ge=0, description="Fewer dollars than this, billed or estimated, neither.")
    band: tuple[float, float] = Field(
        default=(0.9, 1.1), description="Least and greatest capture ratio (billed / estimated) that is in order."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Pair:
        if not 0 <= self.band[0] < self.band[1]:
            raise ValueError(f"pair {self.name}: band must be two rising numbers of at least 0")
        if self.min_days > self.window_days:
            raise ValueError(f"pair {self.name}: min_days is more than window_days")
        return self


class ReconcileSettings(Settings):
    """How estimates are held against bills."""

    pairs: tuple[Pair, ...] = Field(
        default=(), description="Sources to compare; a record counts for the first pair that it matches."
    )
    apply: Literal["shown", "never"] = Field(
        default="shown",
        description="shown: what is not billed yet is also shown as the bill it will probably make, with bounds. Sums, "
        "budgets and alerts are never changed.",
    )

    @model_validator(mode="after")
    def _once(self) -> ReconcileSettings:
        names = [pair.name for pair in self.pairs]
        if len(set(names)) < len(names):
            raise ValueError("two pairs have the same name")
        return self
