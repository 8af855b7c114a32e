"""How unusual values are for their own channel: exponential beyond slowly moving edges, on both sides."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curb.detector.state.columns import Column, Columns, Floats
from curb.stream.settings import Settings

Index = NDArray[np.intp] | slice

#: Axis of the sides: too high, and too low (as negated values). By definition.
HIGH, LOW = 0, 1
#: The channel of the value itself, whose size says what rounding is. By definition.
VALUE = 0


class Params(NamedTuple):
    #: Least scale, as a share of the value: what rounding does to a constant series is nothing. By definition of
    #: 64-bit floats, with room.
    tiny: float = 1e-9
    #: Least first scale, as a share of the range of the warm-up. Prototype, on the Numenta corpus.
    smallest_range_share: float = 0.001
    #: Mean excesses up to which one sample moves the mean excess. Prototype, on the Numenta corpus.
    excess_step_max: float = 20.0
    #: log10(e): natural logarithms as powers of ten. By definition.
    log10_e: float = 0.4343


P = Params()


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
        description="Share of samples beyond the edge on either side, where surprise starts.",
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


class MetricTail:
    """Two edges with the mean excess beyond each, and a scale, per channel and series.

    The warm-up keeps the most extreme samples only, which is all that the first edges need; then everything moves on
    by small steps. Values have shape (channels, M), where M series are picked by `index`.
    """

    def __init__(self, settings: MetricSettings, channels: int, capacity: int) -> None:
        self._settings = settings
        kept = int(settings.tail_share * settings.warmup_points) + 1
        self.columns = Columns(
            {
                "edge": Column((2, channels)),
                "excess": Column((2, channels), fill=1.0),
                "scale": Column((channels,), fill=1.0),
                "centre": Column((channels,)),
                "extremes": Column((2, channels, kept), fill=-np.inf),
            },
            capacity,
        )

    def surprise(self, value: Floats, index: Index) -> Floats:
        """-log10 of the chance of a value so far out, shape (channels, M); 0 between the edges."""
        settings = self._settings
        over = _sides(value) - self.columns["edge"][..., index]
        far = over / self.columns["excess"][..., index]
        both = np.where(over > 0, P.log10_e * far - np.log10(settings.tail_share), 0.0)
        if settings.one_sided:
            both = both[: HIGH + 1]
        surprise: Floats = np.minimum(both.max(axis=0), settings.surprise_cap)
        return surprise

    def limits(self, channel: int, index: Index) -> tuple[Floats, Floats]:
        """Least and greatest value worth learning from, shapes (M,)."""
        edge, excess = self.columns["edge"][:, channel, index], self.columns["excess"][:, channel, index]
        limit = edge + self._settings.spike_limit * excess
        return -limit[LOW], limit[HIGH]

    def warm(self, value: Floats, index: Index, seen: NDArray[np.int64]) -> None:
        """Take in a sample of the warm-up, the `seen`-th from 1."""
        columns = self.columns
        centre = columns["centre"][:, index] + (value - columns["centre"][:, index]) / seen
        # The scale is the mean deviation until the warm-up ends.
        scale = np.where(seen == 1, 0.0, columns["scale"][:, index])
        columns["scale"][:, index] = scale + (np.abs(value - centre) - scale) / seen
        columns["centre"][:, index] = centre
        extremes = columns["extremes"][..., index]
        least = extremes.argmin(axis=2)[:, :, None]
        held = np.take_along_axis(extremes, least, axis=2)
        np.put_along_axis(extremes, least, np.maximum(held, _sides(value)[:, :, None]), axis=2)
        columns["extremes"][..., index] = extremes

    def settle(self, index: Index, points: NDArray[np.int64]) -> None:
        """End the warm-up of series that had so many `points`: place the edges."""
        settings, columns = self._settings, self.columns
        extremes = -np.sort(-columns["extremes"][..., index], axis=2)
        rank = (settings.tail_share * points).astype(np.intp)
        edge = np.take_along_axis(extremes, np.broadcast_to(rank, (*extremes.shape[:2], 1, rank.size)), axis=2)[:, :, 0]
        spread = extremes[HIGH, :, 0] + extremes[LOW, :, 0]
        scale = np.maximum(settings.first_scale * columns["scale"][:, index], P.smallest_range_share * spread)
        scale = np.maximum(scale, _tiny(columns["centre"][VALUE, index]))
        over = np.maximum(extremes - edge[:, :, None], 0.0)
        count = (over > 0).sum(axis=2)
        excess = (over.sum(axis=2) + settings.first_excess * scale) / (count + 1)
        columns["edge"][..., index] = edge
        columns["excess"][..., index] = np.maximum(excess, settings.least_excess * scale)
        columns["scale"][:, index] = scale

    def learn(self, value: Floats, index: Index) -> None:
        """Move edges, mean excesses and scales by one sample."""
        settings, columns = self._settings, self.columns
        edge, excess = columns["edge"][..., index], columns["excess"][..., index]
        scale = columns["scale"][:, index]
        over = _sides(value) - edge
        out = over > 0
        step = np.where(out, settings.excess_rate * (np.minimum(over, P.excess_step_max * excess) - excess), 0.0)
        middle = (edge[HIGH] - edge[LOW]) / 2
        # In balance an edge leaves `tail_share` of the samples outside.
        edge = edge + settings.edge_rate * scale * (out - settings.tail_share)
        deviation = np.abs(np.clip(value, *self._bounds(edge, excess)) - middle)
        columns["edge"][..., index] = edge
        columns["excess"][..., index] = np.maximum(excess + step, settings.least_excess * scale)
        scale = scale + settings.scale_rate * (deviation - scale)
        columns["scale"][:, index] = np.maximum(scale, _tiny(middle[VALUE]))

    def _bounds(self, edge: Floats, excess: Floats) -> tuple[Floats, Floats]:
        limit = edge + self._settings.spike_limit * excess
        return -limit[LOW], np.maximum(limit[HIGH], -limit[LOW])


def _sides(value: Floats) -> Floats:
    return np.stack((value, -value))


def _tiny(value: Floats) -> Floats:
    tiny: Floats = P.tiny * np.maximum(np.abs(value), 1.0)
    return tiny
