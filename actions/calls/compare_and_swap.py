"""Compare and swap: which fields of a plan undo may set back, and which somebody else has changed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from curb.actions.action import DriftError, GoneError
from curb.stream.records.spend import Plan


class Swap(NamedTuple):
    """What to do with the fields of a plan, given what was found."""

    #: Field → what Curb set.
    after: dict[str, Any]
    #: Field → value to set back: those that still hold what Curb set.
    back: dict[str, Any]
    #: Field → value found: neither Curb's nor the one before.
    drifted: dict[str, Any]

    def raise_drift(self, message: str = "somebody changed the limits since") -> None:
        """DriftError when there is any; call it after the other fields are set back."""
        if self.drifted:
            raise DriftError(message, found=self.drifted)


def swap(plan: Plan, found: Mapping[str, Any]) -> Swap:
    """Compares each field of the plan with what was found; a missing field counts as None."""
    back = {name: plan.before[name] for name, value in plan.after.items() if found.get(name) == value}
    drifted = {
        name: found.get(name) for name in plan.after if name not in back and found.get(name) != plan.before[name]
    }
    return Swap(plan.after, back, drifted)


def is_another(plan: Plan, identity: str) -> bool:
    """Whether what was found is another thing under the name of the plan's target; `identity` is that of the found."""
    return bool(plan.identity) and plan.identity != identity


def another(plan: Plan) -> DriftError:
    """What an undo raises then."""
    return DriftError(f"{plan.target} was deleted and made again under the same name, it is another one", found={})


@contextmanager
def gone_is_drift(plan: Plan) -> Iterator[None]:
    """Around what an undo reads: a target that is gone ends the lease, as there is nothing left to give back."""
    try:
        yield
    except GoneError as error:
        raise DriftError(f"{plan.target} no longer exists", found=dict.fromkeys(plan.after)) from error


def tightened(found: Mapping[str, Any], wanted: Mapping[str, float]) -> dict[str, float]:
    """The wanted limits that are lower than what was found, or set where there is none."""
    return {name: value for name, value in wanted.items() if found.get(name) is None or found[name] > value}


def arrows(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The changes for people: "minute none → 20"."""
    return ", ".join(f"{name} {_shown(before.get(name))} → {_shown(value)}" for name, value in after.items())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
