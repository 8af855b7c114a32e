"""Scopes: the tags that make a series, and the series of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from zlib import crc32

from pydantic import Field, model_validator

from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.settings import Settings

Source = Literal["usage", "costs", "gpu"]
#: Meaning of the series of a scope; it decides which rules look at them.
Role = Literal["principal", "origin", "node", "group", "total", "bill"]

#: Tag names and values of one series, in the order of the scope: part of its identity.
SeriesTags = tuple[tuple[str, str], ...]


class Scope(Settings):
    """One way of grouping spend. Every combination of the tags' values is a series of its own."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$", description="Name of the scope, shown in alerts.")
    group_by: tuple[str, ...] = Field(
        min_length=1, description="Tags that make a series. A record without one of them gets the value __untagged__."
    )
    sources: tuple[Source, ...] = Field(
        default=("usage",), min_length=1, description="Kinds of records in this scope: usage, costs, gpu."
    )
    also_by: tuple[str, ...] = Field(
        default=(),
        description="Tags that set a record apart when it carries them, such as job: planned work gets its own series.",
    )
    identified_by: str = Field(
        default="",
        description="Tag that names the principal, such as api_key: its records belong to the series in which it was "
        "first seen even where a tag before it in group_by is missing, spelt otherwise or has moved. Empty: every tag "
        "counts.",
    )
    detect: bool = Field(
        default=True, description="Whether its series may raise alerts of their own; budgets work either way."
    )

    role: Role = Field(
        default="principal",
        description="Role of its series: principal (who spends: a key, a user), origin (a principal's model or "
        "region), node (one machine), group (machines that scale together), total (a sum for budgets and people) or "
        "bill (a part of a bill; a principal of costs alone is one).",
    )

    @model_validator(mode="after")
    def _tags_once(self) -> Scope:
        tags = (*self.group_by, *self.also_by)
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if twice:
            raise ValueError(f"scope {self.name} names {', '.join(twice)} twice")
        if self.identified_by and self.identified_by not in self.group_by:
            raise ValueError(f"scope {self.name} is identified_by {self.identified_by}, which group_by does not name")
        return self

    @property
    def is_billed(self) -> bool:
        """Whether it is made of bills alone."""
        return set(self.sources) == {"costs"}

    @property
    def attributes(self) -> int:
        """How many leading tags of a series say whose the principal is; the others identify it."""
        return self.group_by.index(self.identified_by) if self.identified_by else 0

    def series(self, tags: Mapping[str, str]) -> SeriesTags:
        """The series of a record with `tags`."""
        own = [(tag, tags.get(tag, UNTAGGED)) for tag in self.group_by]
        if self.also_by:
            own += [(tag, tags[tag]) for tag in self.also_by if tag in tags]
        return tuple(own)

    @property
    def folded(self) -> SeriesTags:
        """The series into which the cardinality guard folds new tag values past its limit."""
        return tuple((tag, OTHER) for tag in self.group_by)


#: Key level finds the incidents; team and model carry budgets and the overview. Bills (costs) are in no default scope:
#: the same dollars are already estimated from usage.
DEFAULT_SCOPES = (
    Scope(
        name="key",
        group_by=("team", "project", "api_key"),
        also_by=("job",),
        sources=("usage",),
        identified_by="api_key",
    ),
    Scope(name="team", group_by=("team",), sources=("usage", "gpu"), detect=False, role="total"),
    Scope(name="model", group_by=("model",), sources=("usage",), detect=False, role="total"),
    # The models and regions of a key: new ones are suspicious, and explain its spend.
    Scope(
        name="origin",
        group_by=("team", "project", "api_key", "model", "region"),
        sources=("usage",),
        detect=False,
        role="origin",
        identified_by="api_key",
    ),
    Scope(name="node", group_by=("team", "group", "node"), sources=("gpu",), role="node"),
    # An autoscaler that runs away adds nodes; none of them alone spends more than a node does.
    Scope(name="group", group_by=("team", "group"), sources=("gpu",), role="group"),
)


def partition_of(tags: SeriesTags, partitions: int) -> int:
    """The partition of the spend topic that holds a series: always the same one, on every machine.

    The first tag decides alone. So a key, its models, its jobs and the team's machines are scored side by side, and
    the rules that compare them see both.
    """
    tag, value = tags[0]
    return crc32(f"{tag}={value}".encode()) % partitions
