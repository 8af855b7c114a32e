"""Settings of drift detection, which decides when a series has settled on a new level."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curb.stream.settings import Settings


class DriftSettings(Settings):
    """A second opinion, by River, on whether the hourly spend of a series has moved for good."""

    detector: Literal["none", "adwin", "page_hinkley"] = Field(
        default="none", description="ADWIN or Page-Hinkley of River; `none` leaves it to the head's own slow level."
    )
    adwin_delta: float = Field(
        default=0.002, gt=0, lt=1, description="How sure ADWIN must be; less is surer, later and rarer."
    )
    page_hinkley_threshold: float = Field(
        default=6.0, gt=0, description="Sum of hourly log ratios off the mean at which Page-Hinkley speaks."
    )
    page_hinkley_slack: float = Field(default=0.1, ge=0, description="Log ratio per hour that Page-Hinkley forgives.")
    min_hours: int = Field(default=12, ge=2, le=168, description="Hours of use before anything is said.")
    level_hours: int = Field(default=6, ge=1, le=168, description="The new level is the mean of as many hours.")
