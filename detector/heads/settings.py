"""Settings of the statistical scores."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from curb.stream.settings import Settings

_Usd = Annotated[float, Field(gt=0)]
_Ratio = Annotated[float, Field(gt=1)]


class UnexplainedSettings(Settings):
    """When dollars that the demand (users, requests, usual price of a request) does not explain count."""

    enabled: bool = Field(default=True, description="Whether spend is held against the demand for it.")
    notice_threshold: float = Field(
        default=2.0, description="A notice opens at this score, held for `hold_minutes`; each point is ten times rarer."
    )
    page_threshold: float = Field(default=7.0, description="A page needs this score.")
    page_usd: float = Field(
        default=20.0, ge=0, description="Nobody is paged for less than so many dollars, unexplained over any window."
    )
    page_usd_per_hour: float = Field(
        default=50.0,
        gt=0,
        description="A notice a point over its threshold is a page where so many dollars an hour are unexplained "
        "over two hours.",
    )
    at_once_threshold: float = Field(default=10.0, description="A score this high counts without holding.")
    hold_minutes: int = Field(default=10, ge=1, le=60, description="How long a score must hold before it counts.")
    userless_penalty: float = Field(
        default=3.0,
        ge=0,
        description="Where users are not known only the price of a request is judged, which also shifts for good "
        "reasons: the score must be this much higher.",
    )
    floors_usd: tuple[_Usd, _Usd, _Usd, _Usd, _Usd] = Field(
        default=(0.5, 1.0, 2.0, 3.0, 5.0), description="Unexplained dollars within each window below which none count."
    )
    ratio_floors: tuple[_Ratio, _Ratio, _Ratio, _Ratio, _Ratio] = Field(
        default=(2.0, 1.6, 1.4, 1.3, 1.25),
        description="Spend as a multiple of what the demand explains, within each window, below which none counts.",
    )


class ScoreSettings(Settings):
    """When spend that is unusual for its own series counts. Windows are 5 min, 30 min, 2 h, 8 h and 1 day."""

    digest_threshold: float = Field(
        default=2.0, description="A line in the digest opens at this score, and for what users explain nothing more."
    )
    notice_threshold: float = Field(
        default=6.0,
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
