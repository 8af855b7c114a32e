"""Settings of forecasts, of the history they need and of the slow lane beside the scores."""

from __future__ import annotations

from pydantic import Field

from curb.stream.settings import Settings


class HistorySettings(Settings):
    """Which series keep their daily and hourly dollars."""

    scopes: tuple[str, ...] = Field(
        default=("team", "model", "key"), description="Scopes whose series keep 400 days and 35 days of hours."
    )
    max_series: int = Field(
        default=2000,
        ge=0,
        description="Series per partition with a history, 5 kB each; those that spend most have it. 0 keeps none.",
    )


class PoolSettings(Settings):
    """The worker processes in which fits are made."""

    workers: int = Field(default=2, ge=1, le=8, description="Worker processes; they start with the first fit.")
    timeout_s: float = Field(default=120, gt=0, description="A fit that takes longer is given up and its worker ended.")
    fits_per_worker: int = Field(default=200, ge=1, description="A worker is replaced after this many fits.")
    max_memory_mib: int = Field(default=300, ge=150, description="A worker that grew beyond this is replaced.")
    max_waiting: int = Field(default=4000, ge=1, description="Fits that wait; the least urgent are dropped beyond.")


class LaneSettings(Settings):
    """The slow lane: hours that Prophet, or what stands in for it, did not expect. It advises and never throttles."""

    enabled: bool = Field(default=True, description="Whether hours are held against a fitted band.")
    z_threshold: float = Field(default=8.0, gt=0, description="Standard deviations over the band's middle.")
    min_excess_usd: float = Field(default=3.0, ge=0, description="Dollars of an hour over the expected, at least.")
    refit_hours: float = Field(default=48, gt=0, description="Age at which a band is due to be fitted again.")
    min_history_hours: int = Field(default=72, ge=48, description="Known hours before a series gets a band.")
    min_usd_per_day: float = Field(default=5.0, ge=0, description="Series that spend less get no band.")
    max_fits: int = Field(default=50, ge=1, description="Fits asked for per hour, most stale dollars first.")


class ForecastSettings(Settings):
    """Forecasts of budgets' periods, and the slow lane."""

    history: HistorySettings = Field(default=HistorySettings(), description="Which series keep a history.")
    pool: PoolSettings = Field(default=PoolSettings(), description="The worker processes for fits.")
    lane: LaneSettings = Field(default=LaneSettings(), description="The slow lane.")
