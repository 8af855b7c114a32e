"""A route: which alerts it is for, who is notified, and its ladder, one rung after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from curb.actions.policy.limits import Criticality, TagMatcher
from curb.stream.records.spend import AlertKind, Tier
from curb.stream.settings import Settings, TimeZone

#: shadow: recorded, nothing is changed. approve: a person is asked first. auto: done.
Mode = Literal["shadow", "approve", "auto"]
#: What a rung wants, from the gentlest.
Do = Literal["notify", "cheaper_model", "shave_to_normal", "shave_to_budget", "pause", "block"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME_OF_DAY = r"^([01]\d|2[0-3]):[0-5]\d$"


class Match(Settings):
    """Which alerts a route is for. What is left out matches everything."""

    kind: tuple[AlertKind, ...] = Field(default=(), description="Alert kinds.")
    tier: tuple[Tier, ...] = Field(default=(), description="Alert tiers.")
    scope: str | None = Field(default=None, description="Scope the alert was found in.")
    tags: TagMatcher = Field(default_factory=dict, description="Tag → glob; all must match.")
    criticality: tuple[Criticality, ...] = Field(
        default=(), description="What limits.criticality or the tag says; a subject without a mark is critical."
    )
    environment: tuple[str, ...] = Field(default=(), description="Globs on the tag `env` (or `environment`).")
    confidence_min: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Alerts that are at least this sure. Those of rules that nobody measured never match.",
    )
    dollars_at_risk_min: float | None = Field(default=None, ge=0, description="At least this many dollars at risk.")
    dollars_at_risk_max: float | None = Field(default=None, ge=0, description="At most this many dollars at risk.")
    budget_left_below: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Less than this share of the alert's budget is left; alerts without a budget do not match.",
    )


class QuietTime(Settings):
    """Hours without automatic actions. Actions in force continue, and approvals count."""

    days: tuple[Weekday, ...] = Field(default=WEEKDAYS, description="Days of the week on which it starts.")
    from_: str = Field(alias="from", pattern=_TIME_OF_DAY, description="Local time at which it starts, such as 22:00.")
    to: str = Field(pattern=_TIME_OF_DAY, description="Local time at which it ends; before `from`: on the next day.")
    time_zone: TimeZone = Field(default="UTC", description="Whose local time, such as Europe/Berlin.")

    def covers(self, at: float) -> bool:
        """Whether the moment `at` (epoch seconds) is within it."""
        local = datetime.fromtimestamp(at, UTC).astimezone(ZoneInfo(self.time_zone))
        time_of_day, today = f"{local:%H:%M}", WEEKDAYS[local.weekday()]
        if self.from_ < self.to:
            return today in self.days and self.from_ <= time_of_day < self.to
        yesterday = WEEKDAYS[(local - timedelta(days=1)).weekday()]
        return (today in self.days and time_of_day >= self.from_) or (yesterday in self.days and time_of_day < self.to)


class Rung(Settings):
    """One step of a ladder. The next one comes when this one did not make the burn fall."""

    do: Do = Field(
        description="notify (wait for people), cheaper_model (every call passes, to a cheaper model), shave_to_normal "
        "(the 95th percentile of its own past), shave_to_budget (the rate at which the remaining budget lasts), pause, "
        "or block."
    )
    act: tuple[str, ...] = Field(default=(), description="Names of the actions that do it; none for notify.")
    mode: Literal["inherit", "shadow", "approve", "auto"] = Field(
        default="inherit",
        description="shadow only records, approve asks a person first, auto does it; inherit takes the route's.",
    )
    lease_minutes: float = Field(default=60.0, gt=0, le=7 * 1440, description="After this long the action is undone.")
    verify_within_minutes: float | None = Field(
        default=None,
        gt=0,
        description="The burn must have fallen by then, else the next rung comes; for notify, how long people have. "
        "Default: limits.verify_within_minutes.",
    )
    headroom: float = Field(default=1.0, gt=0, le=100, description="Rates that a shave leaves are times this.")
    approvers: tuple[str, ...] = Field(
        default=(), description="Roles of actions.approvers that may say yes; none named: all of them."
    )
    answer_within_minutes: float = Field(
        default=240.0, gt=0, le=7 * 1440, description="Who was asked for an approval has so long to give it."
    )
    quiet_times: tuple[QuietTime, ...] = Field(default=(), description="Times without automatic actions.")
    cool_down_minutes: float | None = Field(
        default=None,
        ge=0,
        description="Rest after its lease ended before it comes again. Default: limits.cool_down_minutes.",
    )

    @model_validator(mode="after")
    def _acts_unless_it_only_notifies(self) -> Rung:
        if self.do == "notify" and self.act:
            raise ValueError("do: notify changes nothing, so it takes no `act`")
        if self.do != "notify" and not self.act:
            raise ValueError(f"do: {self.do} needs `act`, the names of the actions that do it")
        return self


class Route(Settings):
    """What happens to the alerts it matches."""

    match: Match = Field(default_factory=Match, description="Which alerts; empty matches all.")
    notify: tuple[str, ...] = Field(default=(), description="Names of the notifiers.")
    ladder: tuple[Rung, ...] = Field(
        default=(), description="What is done, gentlest first; the next rung comes when one did not help."
    )
    act: tuple[str, ...] = Field(
        default=(),
        description="Instead of a ladder: names of actions for its only rung, which does the gentlest each can do.",
    )
    mode: Literal["inherit", "shadow", "approve", "auto"] = Field(
        default="inherit", description="For rungs that inherit theirs; inherit takes the mode above."
    )
    lease_minutes: float = Field(
        default=60.0, gt=0, le=7 * 1440, description="With `act`: after this long the action is undone."
    )
    continue_: bool = Field(default=False, alias="continue", description="Go on to the next routes after this one.")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Route:
        if self.ladder and self.act:
            raise ValueError("give either `ladder` or its short form `act`, not both")
        return self

    @cached_property
    def only_rung(self) -> Rung:
        """The rung of the short form."""
        return Rung.model_construct(do="shave_to_normal", act=self.act, lease_minutes=self.lease_minutes)

    def modes(self, inherited: Mode) -> tuple[Mode, ...]:
        """The mode of each rung, lowest first; of its only one where it has the short form."""
        above: Mode = inherited if self.mode == "inherit" else self.mode
        rungs: list[Mode] = [above if rung.mode == "inherit" else rung.mode for rung in self.ladder]
        return tuple(rungs) or ((above,) if self.act else ())

    def names(self) -> tuple[str, ...]:
        """Every action it names."""
        return (*self.act, *(name for rung in self.ladder for name in rung.act))
