"""Configuration of the detector."""

from __future__ import annotations

from collections import Counter
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from detector.scopes import DEFAULT_SCOPES, Scope
from detector.settings_score import ScoreSettings
from stream.settings import Settings

Period = Literal["day", "week", "month", "quarter"]


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; use a name such as UTC or Europe/Berlin") from None
    return name


class Budget(Settings):
    """A sum of money for a period. With a pattern in `match`, every matching series has the whole amount to itself."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Name of the budget.")
    scope: str = Field(description="Name of the scope whose series it applies to.")
    match: dict[str, str] = Field(
        default={}, description="Tag values it applies to; * and ? are wildcards. Empty: every series of the scope."
    )
    amount_usd: float = Field(gt=0, description="Dollars per period.")
    period: Period = Field(default="month", description="day, week (from Monday), month or quarter.")
    thresholds: tuple[float, ...] = Field(
        default=(50, 80, 100), min_length=1, description="Percent of the amount; each alerts once per period."
    )
    time_zone: str | None = Field(default=None, description="Time zone of the period; default: the detector's.")

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if any(threshold <= 0 for threshold in thresholds):
            raise ValueError("thresholds are percentages greater than 0")
        return tuple(sorted(set(thresholds)))

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str | None) -> str | None:
        return None if name is None else _check_zone(name)


class DedupeSettings(Settings):
    """How long ids are remembered."""

    window_s: float = Field(
        default=6 * 3600.0, gt=0, description="An id is remembered at least this long, unless max_ids is reached."
    )
    min_ids: int = Field(
        default=100_000,
        ge=0,
        description="As many ids are remembered however long ago they came, so that a replayed file that is read again "
        "after a crash counts once.",
    )
    max_ids: int = Field(
        default=2_000_000, ge=2, description="Ids kept per partition; about 100 bytes each. The oldest half goes first."
    )


class GuardSettings(Settings):
    """How many series tags may make; what is over is folded into __other__ and counted."""

    max_new_series_per_minute: int = Field(default=500, ge=1, description="Per scope and input partition.")
    max_series: int = Field(default=100_000, ge=1, description="Per scope and input partition.")


class AlertSettings(Settings):
    """When alerts update and end, and what the rules beside the score look for."""

    update_every_s: float = Field(
        default=300, gt=0, description="A firing alert is told anew at least this often, and when its rate moves 10 %."
    )
    calm_usd_per_hour: float = Field(
        default=0.5, ge=0, description="A burn within 20 % plus this much of the expected one counts as calm."
    )
    calm_s: float = Field(default=15 * 60, gt=0, description="A finding ends after this long at a calm rate.")
    quiet_s: float = Field(default=60 * 60, gt=0, description="A finding ends after this long with a low score.")
    reopen_s: float = Field(default=6 * 3600, ge=0, description="Firing again within this time joins the old finding.")
    freeze_s: float = Field(
        default=48 * 3600, ge=0, description="How long a firing series does not learn; then this is its new normal."
    )
    response_notice_s: float = Field(default=8 * 3600, ge=0, description="Time until a person sees a notice.")
    response_page_s: float = Field(default=3600, ge=0, description="Time until a person answers a page.")
    planned_notice_usd: float = Field(
        default=5000,
        ge=0,
        description="Series of planned work (a scope's also_by tags) stay in the digest below this excess.",
    )
    new_principal_usd: float = Field(
        default=50, gt=0, description="Dollars a series never seen before may spend in its first 24 hours."
    )


class DetectorSettings(Settings):
    """How spend is grouped, scored and held against budgets."""

    bucket_s: int = Field(default=60, ge=1, description="Seconds summed before scoring; must divide an hour.")
    grace_s: float = Field(
        default=30, ge=0, description="How long after its end a bucket waits for stragglers before it is scored."
    )
    max_skew_s: float = Field(
        default=900,
        ge=0,
        description="How long scoring waits for an input partition that was up to date and fell silent. One that works "
        "off a backlog is waited for.",
    )
    max_age_days: float = Field(default=40, gt=0, description="Records older than this go to the dead letters.")
    max_future_s: float = Field(
        default=300, ge=0, description="Records charged later than this after receipt go to the dead letters."
    )
    time_zone: str = Field(default="UTC", description="Business time zone: days, weeks and budgets follow it.")
    warmup_s: float = Field(
        default=3 * 86400, ge=0, description="Stream younger than this knows no new principals: everyone is new."
    )
    scopes: tuple[Scope, ...] = Field(default=DEFAULT_SCOPES, min_length=1, description="How spend is grouped.")
    budgets: tuple[Budget, ...] = Field(default=(), description="Sums of money that may be spent per period.")
    dedupe: DedupeSettings = Field(default=DedupeSettings(), description="How long ids are remembered.")
    guard: GuardSettings = Field(default=GuardSettings(), description="How many series tags may make.")
    alerts: AlertSettings = Field(default=AlertSettings(), description="When alerts update and end.")
    score: ScoreSettings = Field(default=ScoreSettings(), description="How spend is scored.")

    @field_validator("bucket_s")
    @classmethod
    def _divides_an_hour(cls, bucket_s: int) -> int:
        if 3600 % bucket_s:
            raise ValueError(f"bucket_s must divide 3600; {bucket_s} does not")
        return bucket_s

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return _check_zone(name)

    @model_validator(mode="after")
    def _names_fit(self) -> DetectorSettings:
        for what, names in (("scope", [s.name for s in self.scopes]), ("budget", [b.name for b in self.budgets])):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{what} {', '.join(twice)} is defined twice")
        scopes = {scope.name: scope for scope in self.scopes}
        for budget in self.budgets:
            scope = scopes.get(budget.scope)
            if scope is None:
                raise ValueError(f"budget {budget.name}: no scope {budget.scope!r}; there are {', '.join(scopes)}")
            unknown = sorted(budget.match.keys() - {*scope.group_by, *scope.also_by})
            if unknown:
                raise ValueError(f"budget {budget.name}: scope {scope.name} has no tag {', '.join(unknown)}")
        return self
