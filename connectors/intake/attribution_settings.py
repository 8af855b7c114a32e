"""Configuration of attribution: whose spend is whose, by normal spelling, owners, rules and shares."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.settings import Settings

#: What a matcher may name beside tags, where the record has no tag of that name.
#: `records` is usage, costs or gpu, by the kind of record.
FIELDS = ("records", "source", "request_model", "service_name", "sub_account_id", "resource_id", "charge_category")
#: The longest tag name and value the door lets through.
TagName = Annotated[str, Field(min_length=1, max_length=128)]
TagValue = Annotated[str, Field(min_length=1, max_length=256)]
#: Tag → shell-style pattern with * and ?; all of them must match.
Patterns = dict[TagName, TagValue]
Criticality = Literal["critical", "high", "normal", "low"]
#: What consumers of a shared resource are measured by.
Measure = Literal["gpu_seconds", "tokens", "requests"]


class AllowList(Settings):
    """The values a tag may have."""

    values: tuple[TagValue, ...] = Field(min_length=1, description="Every value that is right, in its right spelling.")
    otherwise: TagValue | None = Field(
        default=None, description="What any other value becomes; default: the tag is taken away, so it is untagged."
    )


class Owner(Settings):
    """Who answers for what carries a tag."""

    match: Patterns = Field(min_length=1, description="Tag → pattern; all must match.")
    team: TagValue | None = Field(default=None, description="Becomes the tag `team` where there is none.")
    slack_channel: str | None = Field(
        default=None, pattern=r"^[CGD][A-Z0-9]{6,}$", description="Id of a channel that gets their alerts as well."
    )
    criticality: Criticality | None = Field(
        default=None, description="Becomes the tag `criticality` where there is none; Curb never acts on `critical`."
    )


class Rule(Settings):
    """Tags that a record gets because of others."""

    match: Patterns = Field(
        default={}, description=f"Tag or field → pattern; all must match. Fields: {', '.join(FIELDS)}."
    )
    tags: dict[TagName, TagValue] = Field(min_length=1, description="The tags to give.")
    override: bool = Field(default=False, description="true: also where the record carries another value.")


class Share(Settings):
    """A shared resource, and how what it costs is split over those who use it."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name.")
    match: Patterns = Field(min_length=1, description="Tag or field → pattern: the records to split.")
    tag: TagName = Field(default="team", description="The tag that each part gets.")
    fixed: dict[TagValue, float] = Field(
        default={}, description="Value of the tag → weight. With `by`: the weights until there is usage."
    )
    by: Measure | None = Field(
        default=None, description="Split by what consumers used: gpu_seconds, tokens or requests."
    )
    consumers: Patterns = Field(default={}, description="Which records count as use; default: all that carry the tag.")
    window_s: int = Field(
        default=3600, ge=60, le=86400, description="Use is summed over windows of this length, in seconds."
    )

    @model_validator(mode="after")
    def _splits(self) -> Share:
        if not self.fixed and self.by is None:
            raise ValueError(f"share {self.name}: give `fixed` weights, or `by` what to split")
        if self.fixed and not all(math.isfinite(weight) and weight > 0 for weight in self.fixed.values()):
            raise ValueError(f"share {self.name}: every weight must be a number above 0")
        return self


class AttributionSettings(Settings):
    """How every record is tagged before it is on the log. The order here is the order in which it is done."""

    keys: dict[TagName, tuple[TagName, ...]] = Field(
        default={}, description="Tag → other names it comes under. Names are compared without regard to case."
    )
    lower_case: tuple[TagName, ...] = Field(default=(), description="Tags whose values are made lower case.")
    values: dict[TagName, dict[TagValue, tuple[TagValue, ...]]] = Field(
        default={}, description="Tag → value → other spellings of it, compared without regard to case."
    )
    allowed: dict[TagName, AllowList] = Field(default={}, description="Tag → the only values it may have.")
    defaults: dict[str, dict[TagName, TagValue]] = Field(
        default={}, description="Name of a connector → tags for its records that do not carry them."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Virtual tags, in order: a later rule sees what an earlier one gave."
    )
    owners: tuple[Owner, ...] = Field(default=(), description="Who answers for what; the first that matches decides.")
    shares: tuple[Share, ...] = Field(default=(), description="Shared resources; the first that matches splits.")
    required: tuple[TagName, ...] = Field(
        default=("team",), description="Tags that all usage should carry: curb_untagged_percent says how much does not."
    )

    @model_validator(mode="after")
    def _unambiguous(self) -> AttributionSettings:
        _one_home("keys", self.keys)
        for tag, spellings in self.values.items():
            _one_home(f"values.{tag}", spellings)
        names = [share.name for share in self.shares]
        if len(set(names)) < len(names):
            raise ValueError("two shares have the same name")
        return self

    @model_validator(mode="after")
    def _no_reserved_values(self) -> AttributionSettings:
        given = [value for rule in self.rules for value in rule.tags.values()]
        given += [value for tags in self.defaults.values() for value in tags.values()]
        given += [value for share in self.shares for value in share.fixed]
        if {UNTAGGED, OTHER} & set(given):
            raise ValueError(f"{UNTAGGED} and {OTHER} stand for missing and folded values and cannot be given")
        return self


def _one_home(where: str, aliases: dict[str, tuple[str, ...]]) -> None:
    home: dict[str, str] = {}
    for name, others in aliases.items():
        for spelling in {each.casefold() for each in (name, *others)}:
            if spelling in home:
                raise ValueError(f"{where}: {spelling!r} stands for both {home[spelling]} and {name}")
            home[spelling] = name
