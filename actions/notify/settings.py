"""Configuration of telling: how alerts are put together, when they are told again, and what a wait is priced at."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from curb.stream.settings import Settings

_LOUDNESS = ("page", "notice", "digest")


class Digest(Settings):
    """One message a day with what was not worth a message of its own, and with what Curb did."""

    notify: tuple[str, ...] = Field(
        default=(), description="Names of the notifiers that get it; none: alerts of the digest tier are told at once."
    )
    at: str = Field(
        default="09:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="Local time of day at which it is sent."
    )


class Telling(Settings):
    """How people are told."""

    people_answer_after_minutes: float = Field(
        default=15.0, gt=0, le=1440, description="How long a person typically takes to answer; waiting is priced by it."
    )
    dashboard_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s<>|]+$",
        description="Where a message links to; {alert_id} in it becomes the id, else /alerts/ID is added.",
    )
    group_by: tuple[str, ...] = Field(
        default=("team",), description="Alerts with the same values of these tags are one owner's; () groups nothing."
    )
    group_wait_seconds: float = Field(
        default=5.0, ge=0, le=300, description="An owner's first alert waits this long for others to be told with it."
    )
    group_interval_minutes: float = Field(
        default=5.0, ge=0, description="Alerts of the same owner, no louder, within this long after a message join it."
    )
    inhibit: bool = Field(
        default=True,
        description="A wider alert that covers a narrower one is told with it in one message; actions are untouched.",
    )
    repeat_hours: float = Field(
        default=4.0, ge=0, description="A page that still fires is told again after this long; 0: never."
    )
    repeat_tier: Literal["page", "notice"] = Field(default="page", description="The least tier that is told again.")
    charts: bool = Field(default=True, description="Put a picture of the spend into the thread, where a channel can.")
    time_zone: str = Field(default="UTC", description="Local times of people and of the digest, such as Europe/Berlin.")
    digest: Digest = Field(default=Digest(), description="The daily digest.")

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone is named {name!r}; such as UTC or Europe/Berlin") from None
        return name

    @model_validator(mode="after")
    def _no_tag_twice(self) -> Telling:
        if len(set(self.group_by)) < len(self.group_by):
            raise ValueError("group_by names a tag twice")
        return self

    def repeats(self, tier: str) -> bool:
        """Whether an alert of this tier is told again while it fires."""
        return self.repeat_hours > 0 and _LOUDNESS.index(tier) <= _LOUDNESS.index(self.repeat_tier)
