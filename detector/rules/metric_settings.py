"""Settings of the metric head."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from curb.stream.settings import Settings

_Length = Annotated[float, Field(ge=1)]
_Share = Annotated[float, Field(gt=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


class MetricSettings(Settings):
    """What counts as unusual for any metric: tokens, requests, GPU use, errors. Lengths and memories are in samples."""

    one_sided: bool = Field(default=False, description="Only values that are too high count, as with cost.")
    warmup_points: int = Field(
        default=600, ge=30, le=10_000, description="Samples a series is watched before it is scored."
    )
    fire_at: float = Field(
        default=5.5, gt=0, description="Surprise at which a series fires: -log10 of a chance, over all channels."
    )
    hold_off_share: float = Field(
        default=0.2, ge=0, description="After firing a series is silent for this share of the warm-up."
    )

    tail_share: float = Field(
        default=0.015,
        gt=0,
        lt=0.25,
        description="Share of samples beyond the edge on either side, where surprise begins.",
    )
    edge_rate: _Share = Field(default=0.03, description="How fast the edges follow, in scales per sample.")
    excess_rate: _Share = Field(
        default=0.02, description="How fast the mean excess beyond an edge follows, per sample."
    )
    scale_rate: _Share = Field(default=0.0005, description="How fast the scale of a channel follows, per sample.")
    first_scale: _Positive = Field(default=1.5, description="First scale, in mean deviations of the warm-up.")
    first_excess: _Positive = Field(
        default=0.3, description="What the warm-up's mean excess leans on, as one more sample: in scales."
    )
    least_excess: _Positive = Field(default=0.02, description="Least mean excess, in scales.")
    surprise_cap: _Positive = Field(default=30.0, description="Most surprise that one channel may add.")

    extreme_bonus: float = Field(
        default=3.0, ge=0, description="Surprise added when a value leaves its whole past range."
    )
    extreme_least: _Positive = Field(default=0.02, description="How far it must leave it, as a share of that range.")
    extreme_full: _Positive = Field(default=0.1, description="How far it must leave it for the whole bonus.")
    spike_limit: _Positive = Field(
        default=30.0, description="What is learned from a value ends this many mean excesses beyond the edge."
    )

    quick_length: _Length = Field(default=3.0, description="Mean against which volatility is taken.")
    short_length: _Length = Field(default=16.0, description="Length of the short mean.")
    middle_length: _Length = Field(default=36.0, description="Length of the middle mean.")
    long_length: _Length = Field(
        default=288.0, description="Length of the long mean; its difference to the middle one counts."
    )
    volatility_length: _Length = Field(default=96.0, description="Length of the mean of absolute changes.")
    season_bins: int = Field(default=48, ge=1, le=288, description="Parts of the day, each with a mean of its own.")
    season_memory: int = Field(default=7, ge=1, le=200, description="Samples the mean of a part of the day goes back.")
    season_known: int = Field(
        default=2, ge=0, le=200, description="A part of the day with no more samples has nothing unusual."
    )

    @model_validator(mode="after")
    def _season_can_be_known(self) -> MetricSettings:
        if self.season_known >= self.season_memory:
            raise ValueError("season_known must be less than season_memory")
        return self
