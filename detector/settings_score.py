"""Settings of the statistical scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stream.settings import Settings

_Usd = Annotated[float, Field(gt=0)]
_Ratio = Annotated[float, Field(gt=1)]


class ScoreSettings(Settings):
    """When spend that is unusual for its own series counts. Windows are 5 min, 30 min, 2 h, 8 h and 1 day."""

    notice_threshold: float = Field(
        default=2.0,
        description="A notice opens at this score. 0 is about one false notice per series and month if the past were "
        "a perfect guide; each point more is ten times rarer, or ten times as many dollars.",
    )
    page_threshold: float = Field(
        default=6.0,
        description="A page, and with it a throttle, needs this score of two agreeing statistics.",
    )
    hold_minutes: int = Field(
        default=10,
        ge=1,
        le=60,
        description="How long a score must hold before it counts. Legitimate bursts are shorter than ten minutes.",
    )
    fast_lane: float = Field(
        default=20.0,
        ge=0,
        description="A score this much over the threshold counts at once, without holding.",
    )
    warmup_days: float = Field(
        default=3.0,
        ge=0,
        description="Series known for less than this many days cannot page by statistics, and need five times the "
        "dollar floor for a notice.",
    )
    settled_days: float = Field(
        default=7.0,
        ge=0,
        description="Series known for less than this many days need twice the dollar floor.",
    )
    floors_usd: tuple[_Usd, _Usd, _Usd, _Usd, _Usd] = Field(
        default=(1.0, 3.0, 6.0, 12.0, 25.0),
        description="Excess dollars within each of the five windows below which nothing counts.",
    )
    ratio_floors: tuple[_Ratio, _Ratio, _Ratio, _Ratio, _Ratio] = Field(
        default=(2.0, 1.7, 1.6, 1.5, 1.4),
        description="Spend as a multiple of the expected, within each of the five windows, below which nothing counts.",
    )
