"""Settings of the population model, which tells abuse of a principal from its growth."""

from __future__ import annotations

from pydantic import Field

from curb.stream.settings import Settings


class PopulationSettings(Settings):
    """When the use of a principal counts as abusive: it changed in kind, not only in size."""

    enabled: bool = Field(
        default=True, description="Whether alerts that fired are told apart into abuse and growth by how use changed."
    )
    abusive_threshold: float = Field(
        default=2.5,
        gt=0,
        description="Use is abusive from this score on: the length of the vector of changes, in standard deviations "
        "over the first two of each.",
    )
    memory_days: float = Field(default=5.0, gt=0, le=60, description="How long a principal's usual use is remembered.")
    known_hours: int = Field(
        default=12, ge=1, description="Hours of use after which a principal is held against its own past."
    )
    min_requests: int = Field(
        default=5, ge=1, description="An hour of fewer requests says nothing and teaches nothing."
    )
    finding_threshold: float | None = Field(
        default=None,
        gt=0,
        description="From this score on, abusive use opens a digest finding of its own. Without a value it never does.",
    )
