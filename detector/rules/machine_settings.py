"""Settings of the rules on machines, jobs and feeds."""

from __future__ import annotations

from pydantic import Field

from curb.stream.settings import Settings


class IdleGpuSettings(Settings):
    """When a GPU machine that is paid for and does nothing counts: outside its hours soon, within them after long."""

    enabled: bool = Field(default=True, description="Whether idle GPU machines are told.")
    idle_pct: float = Field(default=2.0, gt=0, le=100, description="Below this utilisation a machine does nothing.")
    idle_minutes: float = Field(
        default=10, gt=0, description="So long it does nothing at an hour at which it is usually off: a notice."
    )
    page_minutes: float = Field(default=20, gt=0, description="So long it does nothing at such an hour: a page.")
    floor_usd: float = Field(default=1.0, ge=0, description="Dollars such an idle stretch has cost at least.")
    known_days: float = Field(
        default=2.0, ge=1, description="A machine younger than this is judged by the hours of its group."
    )
    tolerance_minutes: float = Field(
        default=5, ge=0, le=360, description="So far from its usual hours a machine is never out of hours."
    )
    max_tolerance_minutes: float = Field(
        default=90,
        ge=0,
        le=360,
        description="The tolerance of machines whose days begin and end at varying times grows up to this.",
    )
    young_tolerance_minutes: float = Field(
        default=90, ge=0, le=360, description="The tolerance while too few days are known to see how they vary."
    )
    long_idle_hours: float = Field(
        default=12, gt=0, description="So long a machine does nothing within its hours: a notice."
    )
    long_idle_factor: float = Field(
        default=3.0, ge=1, description="A long idle stretch is this many times the longest one before."
    )
    long_idle_usd: float = Field(default=25, ge=0, description="Dollars a long idle stretch has cost at least.")


class AutoscalerSettings(Settings):
    """When a group of machines has grown out of proportion to its work."""

    enabled: bool = Field(default=True, description="Whether groups of machines that grow are told.")
    factor: float = Field(
        default=1.25,
        gt=1,
        description="A group has grown when it has more machines than its usual most, times this and plus one.",
    )
    hold_minutes: float = Field(
        default=10, ge=0, description="The group stays that large this long, and so do the machines that are judged."
    )
    busy_pct: float = Field(
        default=10.0, gt=0, le=100, description="Below this mean utilisation the added machines do no work: a page."
    )
    floor_usd: float = Field(default=2.0, ge=0, description="Dollars the added machines have cost at least.")
    known_days: float = Field(
        default=2.0, ge=1, description="A group younger than this, in a stream that is not, is new: a digest line."
    )
    new_group_usd: float = Field(default=10.0, ge=0, description="Dollars a new group has cost at least.")
    keep_per_day: float = Field(
        default=0.98, gt=0, le=1, description="A group's usual most falls to this share with every calmer day."
    )


class JobSettings(Settings):
    """What a run of a job may cost, by its plan or by earlier runs."""

    enabled: bool = Field(default=True, description="Whether runs of jobs are told.")
    gap_minutes: float = Field(default=90, gt=0, description="A pause longer than this ends a run.")
    same_time_hours: float = Field(
        default=3, gt=0, le=12, description="Runs that begin within so many hours of the same time of day are alike."
    )
    factor: float = Field(
        default=2.5, gt=1, description="A run may cost this many times the largest one like it; then it is a notice."
    )
    digest_usd: float = Field(default=10, ge=0, description="From here on a run like none before is a digest line.")
    notice_usd: float = Field(
        default=5000,
        ge=0,
        description="From here on a run like none before is a notice, or one that comes to it within `endless_hours` "
        "at the pace of its last half hour.",
    )
    other_time_usd: float = Field(
        default=50,
        ge=0,
        description="A run at an unusual time is a notice from here on, if no run of the job at any time came near it.",
    )
    endless_hours: float = Field(
        default=16, gt=0, description="A run like none before that goes on for so long without a plan is a notice."
    )
    endless_usd: float = Field(default=100, ge=0, description="Dollars such an endless run has cost at least.")
    batch_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A job active for more than this share of the time is a service, judged as the keys are.",
    )


class FeedSettings(Settings):
    """When data that used to come are missing."""

    enabled: bool = Field(default=True, description="Whether feeds that fell silent are told.")
    regular_share: float = Field(
        default=0.95, gt=0, le=1, description="Feeds that had data for a smaller share of the time are never missed."
    )
    all_minutes: float = Field(default=30, gt=0, description="Silence of a whole kind of data, such as all usage.")
    all_notice_minutes: float = Field(
        default=60, gt=0, description="From here on the silence of a whole kind is a notice, before a digest line."
    )
    team_minutes: float = Field(default=180, gt=0, description="Silence of one team while others have data: a digest.")
    factor: float = Field(
        default=3.0, ge=1, description="A silence is also this many times the longest the feed had before."
    )
    all_known_days: float = Field(default=2.0, ge=0, description="So long a whole kind of data must be known.")
    team_known_days: float = Field(
        default=8.0, ge=0, description="So long a team must be known: a weekend at least, which may be silent."
    )


class GrowthSettings(Settings):
    """Spend that climbs steadily for four weeks, whatever the day of the week. A line in the digest, once a day."""

    enabled: bool = Field(default=True, description="Whether growth over four weeks is told.")
    min_t: float = Field(default=4.0, gt=0, description="Slope of the logarithm of daily dollars, in standard errors.")
    min_growth: float = Field(
        default=0.01, gt=0, description="Growth per day, as a logarithm: 0.01 is 1 %, a third more in four weeks."
    )
    min_usd_per_day: float = Field(
        default=5.0, gt=0, description="Dollars by which a day of the last week exceeds one of the first two."
    )


class MachineRules(Settings):
    """Rules on machines: GPU nodes and the groups in which they scale."""

    idle_gpu: IdleGpuSettings = Field(default=IdleGpuSettings(), description="Machines that are on and do nothing.")
    autoscaler: AutoscalerSettings = Field(
        default=AutoscalerSettings(), description="Groups that grow beyond what they ever needed."
    )
