"""The action seam: one reversible thing Curb can do; the runner keeps the ledger, retries, verifies and undoes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import aiohttp
from pydantic import Field

from curb.actions.target import TargetRate, Verb
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.kinds import without
from curb.stream.records.spend import Alert, Plan
from curb.stream.settings import Settings

#: The picture of an alert's spend as PNG, by the alert's id; None where there is nothing to draw.
Chart = Callable[[str], Awaitable[bytes | None]]
#: The price of one model, the first, as a part of that of another: 0.06 where it costs 6 % of it. Of several kinds of
#: tokens the highest counts. None where the price book knows one of them not.
PricePart = Callable[[str, str], float | None]


class ActionContext(NamedTuple):
    """What wiring passes to `Config.build`: shared things an action or notifier may use but does not own."""

    clock: Clock
    http: aiohttp.ClientSession
    #: None: nobody draws.
    chart: Chart | None = None
    #: None: no prices are known.
    price_part: PricePart | None = None


class Outcome(NamedTuple):
    """What `apply` did: the values the other side holds now, read from its answer."""

    values: dict[str, Any]
    detail: str = ""


class Effect(NamedTuple):
    """What `verify` read back. `in_force` is True when the target holds the plan's `after` values."""

    in_force: bool
    values: dict[str, Any]
    detail: str = ""
    #: Requests turned away since it was applied, where the target counts them.
    rejected: int | None = None


class GoneError(PermanentError):
    """The target no longer exists: the other side was asked for it, knows its kind and says so itself.

    An answer of something in between, or of a server that does not know the route, is not that.
    """


class DriftError(Exception):
    """The target no longer holds the value Curb set: somebody else changed it, so undo must not touch it."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


class Action(Protocol):
    """Changes one kind of target. Every call may be repeated safely.

    `plan` only reads; it returns one plan per target it would change, the same again for the same world, and nothing
    when there is nothing to do (no such subject, or what is found is at or below what Curb would set). `before` and
    `after` hold absolute values of only the fields Curb changes; `after` is never above what was found. `apply` sets
    `after`. `verify` reads back. `undo` sets `before`, field by field, only where the field still equals `after`;
    where it equals `before` already there is nothing to do; anything else raises DriftError. Of a plan that is not
    `reversible` it gives back what can be given back, which may be nothing; the plan's `warning` says what is lost.
    Where the other side has something that distinguishes a target from another that was made later under its name, the
    plan's `identity` holds it: another one is never touched. `apply` then raises PermanentError, `verify` says not in
    force, `undo` raises DriftError. A plan without identity, of an older ledger, is undone by its values alone.
    They raise TransientError or PermanentError, and never retry or sleep.
    """

    #: What its credentials must be allowed to do; nothing else is called.
    permissions: ClassVar[tuple[str, ...]]
    #: What it can do; `plan` is called with no other verb.
    verbs: ClassVar[frozenset[Verb]]

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]: ...

    async def apply(self, plan: Plan) -> Outcome: ...

    async def verify(self, plan: Plan) -> Effect: ...

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None: ...

    async def close(self) -> None: ...


class Enforced(NamedTuple):
    """The limit that a gateway enforces on one subject now."""

    #: Requests, and dollars, that pass within an hour at most; None: nothing limits them.
    requests_per_hour: float | None = None
    usd_per_hour: float | None = None
    #: Why the gateway does not know the subject, or "".
    unknown: str = ""


@runtime_checkable
class ReadsLimits(Protocol):
    """An action that can also say what is enforced, for `curb exposure`. It only reads."""

    @property
    def subject_tags(self) -> tuple[str, ...]:
        """Tags that name a subject."""

    async def enforced(self, subjects: Sequence[Mapping[str, str]]) -> list[Enforced]:
        """What holds for each subject, which are given by their tags. Raises as the other calls do."""


class HoldsNothing:
    """Base of actions and notifiers with nothing to close: the HTTP session belongs to the caller."""

    async def close(self) -> None:
        return None


class ActionConfig(Settings):
    """Base of every kind's `Config`: it narrows `kind` to a Literal, adds its own keys and builds the action."""

    kind: str = Field(description="The kind of action.")
    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this action.")

    def cheaper_models(self) -> Mapping[str, str]:
        """Model → the cheaper model it is routed to; the price book must agree. Empty for whatever routes nothing."""
        return {}

    @abstractmethod
    def build(self, context: ActionContext) -> Action:
        """The configured action; whoever calls this closes it."""


def open_action(config: ActionConfig, context: ActionContext) -> Action:
    """The action that `config` builds. Raises PermanentError saying which promise of this page is not kept."""
    action = config.build(context)
    missing = without(action, Action, "plan", "apply", "verify", "undo", "close")
    # Both are read when an action is planned or listed, long after the start.
    missing += [
        f"{type(action).__name__} does not declare {name}"
        for name in ("verbs", "permissions")
        if getattr(action, name, None) is None
    ]
    if missing:
        raise PermanentError(f"action {config.name} of kind {config.kind}: {'; '.join(missing)}")
    return action


class RateConfig(ActionConfig):
    """Base of the `Config` of every action that limits a rate of requests."""

    headroom: float = Field(
        default=1.0, gt=0, le=100, description="The limit is the requests per minute the rung leaves times this."
    )
    floor_rpm: int = Field(default=1, ge=1, description="Never set less than this many requests per minute.")
    new_principal_rpm: int = Field(
        default=10, ge=1, description="Requests per minute for a subject whose normal level is not known."
    )

    @property
    def subject_tag(self) -> str:
        """The tag by which it finds its subject, its key `tag`; "" where it has none."""
        return str(getattr(self, "tag", ""))

    def rpm_for(self, rate: TargetRate) -> int:
        """Requests per minute to set for a target rate to shave to, rounded up."""
        if rate.requests_per_minute is None:
            return max(self.floor_rpm, self.new_principal_rpm)
        headroom = 1.0 if rate.standing else self.headroom
        limit = math.ceil(rate.requests_per_minute * headroom)
        return max(self.floor_rpm, limit if rate.at_most is None else min(limit, rate.at_most))
