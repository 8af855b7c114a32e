"""Settings of the rules on who spends."""

from __future__ import annotations

from pydantic import Field

from curb.stream.settings import Settings


class NewPrincipalSettings(Settings):
    """Keys that nobody has seen before, while statistics know nothing of them."""

    enabled: bool = Field(default=True, description="Whether new principals are looked at.")
    limit_usd: float = Field(
        default=5.0, gt=0, description="Dollars in a day from which on a newcomer's usage must look like that of users."
    )
    organic_share_min: float = Field(
        default=0.12,
        ge=0,
        le=1,
        description="Share of its requests that its users explain below which a newcomer is taken for a machine.",
    )
    doubtful_share_min: float = Field(
        default=0.2, ge=0, le=1, description="The same from `doubtful_usd` on, where there is more at stake."
    )
    doubtful_usd: float = Field(default=20.0, gt=0, description="Dollars in a day for `doubtful_share_min`.")
    page_share_min: float = Field(
        default=0.07,
        ge=0,
        le=1,
        description="The same for a page: few users that ask a lot are a notice until `page_usd` are spent.",
    )
    page_usd: float = Field(default=100.0, gt=0, description="Dollars in a day from which on any doubt is a page.")
    tokens_ratio: float = Field(
        default=3.0, gt=1, description="Input tokens per request as a multiple of the fleet's 95th percentile."
    )
    unknown_usd: float = Field(
        default=50.0, gt=0, description="Dollars in a day where users are not known: a sum alone has to decide."
    )


class NewOriginSettings(Settings):
    """A key on a model or from a region it never used."""

    enabled: bool = Field(default=True, description="Whether new models and regions are looked at.")
    min_usd: float = Field(default=2.0, gt=0, description="Dollars on it within a day.")
    price_ratio: float = Field(
        default=2.0, gt=1, description="Price per token as a multiple of what the key has paid in the last three days."
    )
    region_share_max: float = Field(
        default=0.1, ge=0, le=1, description="A region that more of the keys use is no news on another one."
    )


class ErrorSettings(Settings):
    """Requests that fail and cost all the same: retry storms."""

    enabled: bool = Field(default=True, description="Whether error rates are looked at.")
    rate_max: float = Field(default=0.25, gt=0, le=1, description="Share of requests that failed, over 20 minutes.")
    min_errors: float = Field(default=20, ge=1, description="Errors within 20 minutes.")
    min_usd_per_hour: float = Field(default=0.5, ge=0, description="Dollars per hour that the failed share costs.")


class ContextSettings(Settings):
    """Prompts that grow: input tokens per request against their own envelope of a day ago."""

    enabled: bool = Field(default=True, description="Whether prompt sizes are looked at.")
    min_usd_per_day: float = Field(default=10.0, gt=0, description="Dollars per day that the growth costs.")
    margin: float = Field(
        default=0.35, gt=0, description="How far over the 97th percentile, as a logarithm: 0.35 is 42 %."
    )
    min_ratio: float = Field(default=2.2, gt=1, description="As a multiple of the median of its own past.")
    hold_minutes: int = Field(default=60, ge=5, description="How long it must last.")


class UnitCostSettings(Settings):
    """Requests that became dearer, against their own past."""

    enabled: bool = Field(default=False, description="Whether dollars per request are looked at.")
    threshold: float = Field(
        default=4.0,
        description="Score of a notice, on the scale of the dollars head: each point more is ten times rarer.",
    )
    min_usd_per_day: float = Field(default=25.0, gt=0, description="Dollars per day that the rise costs.")
    hold_minutes: int = Field(default=10, ge=1, le=60, description="How long a score must hold before it counts.")


class CreepSettings(Settings):
    """Slow growth of requests that no growth of users explains."""

    enabled: bool = Field(default=True, description="Whether requests per user are looked at; needs users.")
    min_growth: float = Field(
        default=0.07, gt=0, description="Growth over the reference, as a logarithm: 0.07 is about 7 %."
    )
    deviations: float = Field(default=3.5, gt=0, description="The same in its own usual deviations.")
    wanders: float = Field(
        default=2.0,
        ge=0,
        description="The same in what six hours usually differ from a day: users that are counted badly wander.",
    )
    min_usd_per_day: float = Field(default=1.5, gt=0, description="Dollars per day that the growth costs.")


class WeekSettings(Settings):
    """Slow growth where users are not known: days against those of a week or of four days ago."""

    enabled: bool = Field(default=True, description="Whether days are held against those before.")
    min_growth: float = Field(
        default=0.35, gt=0, description="Growth over the week, or four days, as a logarithm: 0.35 is 42 %."
    )
    max_growth: float = Field(
        default=1.2, gt=0, description="Growth that is too fast for a creep, and for other rules: 1.2 is 232 %."
    )
    min_usd_per_day: float = Field(default=3.0, gt=0, description="Dollars per day that the growth costs.")


class PrincipalRules(Settings):
    """Rules on keys, users and whoever else spends."""

    new_principal: NewPrincipalSettings = Field(default=NewPrincipalSettings(), description="Keys never seen before.")
    new_origin: NewOriginSettings = Field(default=NewOriginSettings(), description="New models and regions of a key.")
    errors: ErrorSettings = Field(default=ErrorSettings(), description="Failing requests that cost.")
    context: ContextSettings = Field(default=ContextSettings(), description="Growing prompts.")
    unit_cost: UnitCostSettings = Field(default=UnitCostSettings(), description="Requests that became dearer.")
    creep: CreepSettings = Field(default=CreepSettings(), description="Slow growth without users.")
    weeks: WeekSettings = Field(default=WeekSettings(), description="Slow growth where users are not known.")
