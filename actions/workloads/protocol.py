"""What all actions on running work share: which objects an alert means, and setting and restoring their fields.

A kind finds the objects that carry the alert's tags and says for each what it would change, or why it must be left
alone; reads the fields of one object; and writes fields. Everything else is the same for all of them and stands here.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from curb.actions.action import ActionConfig, DriftError, Effect, Outcome
from curb.actions.calls.compare_and_swap import another, is_another
from curb.actions.target import TargetRate, Verb
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan

#: Why an object that carries the alert's tags is left alone when nobody said that it may be touched.
UNMARKED = "not marked non-critical"
#: Objects named in a message. By hand.
_EXAMPLES = 3


class WorkloadConfig(ActionConfig):
    """Base of the `Config` of every action on running work."""

    at_most: int = Field(default=20, ge=1, le=200, description="Most objects that are planned for one alert at a time.")


class Found(NamedTuple):
    """One object that carries the alert's tags."""

    target: str
    #: For people, such as "Job search/train-7".
    title: str
    #: Fields that would change, were it allowed; none when it is there already.
    before: dict[str, Any]
    after: dict[str, Any]
    #: Why it must be left alone; empty when it may be touched.
    refusal: str = ""
    reversible: bool = True
    warning: str = ""
    population: int | None = None
    identity: str = ""


class Seen(NamedTuple):
    """One object as it is now: the plan's fields, whether it is still marked, and its version where it has one."""

    values: dict[str, Any]
    marked: bool
    version: str = ""
    #: What distinguishes it from another of the same name, where there is such a thing.
    identity: str = ""
    #: It is marked as what must never be touched.
    critical: bool = False
    #: The object itself says that this action holds it.
    says_held: bool = False


class WorkloadAction(ABC):
    """An action on running work. Calls raise TransientError or PermanentError and never retry or sleep."""

    permissions: ClassVar[tuple[str, ...]]
    verbs: ClassVar[frozenset[Verb]]

    def __init__(self, name: str, at_most: int) -> None:
        self._name, self._at_most = name, at_most

    # --- what a kind says ---

    @abstractmethod
    async def find(self, alert: Alert, rate: TargetRate) -> list[Found] | None:
        """Objects that carry the alert's tags; None when the alert has none of the tags that are mapped."""

    @abstractmethod
    async def read(self, plan: Plan) -> Seen | None:
        """The plan's fields as they are now, or None when the object is gone."""

    @abstractmethod
    async def write(self, plan: Plan, values: dict[str, Any], seen: Seen) -> None:
        """Set `values`, some of the plan's fields, to those of its `after` or of its `before`."""

    async def no_longer_held(self, plan: Plan, seen: Seen) -> None:
        """Take away what the object says of being held, where a kind says it there; its fields stay as they are."""
        return None

    @abstractmethod
    async def close(self) -> None: ...

    # --- what is the same for all ---

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """PermanentError when nothing carries the tags, or none of what does may be touched."""
        found = await self.find(alert, rate)
        if found is None:
            return ()
        if not found:
            raise PermanentError("nothing carries the tags of the alert")
        refused = [each for each in found if each.refusal and each.after]
        if refused and all(each.refusal for each in found):
            raise PermanentError(f"nothing may be touched: {_left_alone(refused)}")
        able = sorted((each for each in found if each.after and not each.refusal), key=lambda each: each.target)
        return [self._plan(each, refused) for each in able[: self._at_most]]

    def _plan(self, found: Found, refused: list[Found]) -> Plan:
        changes = ", ".join(f"{field} {found.before[field]} → {value}" for field, value in found.after.items())
        said = [found.warning, f"Left alone: {_left_alone(refused)}." if refused else ""]
        return Plan(
            action=self._name,
            target=found.target,
            summary=f"{found.title}: {changes}",
            before=found.before,
            after=found.after,
            reversible=found.reversible,
            warning=" ".join(each for each in said if each),
            population=found.population,
            criticality="non_critical",  # what is not marked so itself was refused
            identity=found.identity,
        )

    async def apply(self, plan: Plan) -> Outcome:
        """PermanentError when the object is gone, was changed since it was planned, or is not marked any more."""
        seen = await self.read(plan)
        if seen is None:
            raise PermanentError(f"{plan.target} no longer exists")
        if is_another(plan, seen.identity):
            raise PermanentError(str(another(plan)))
        todo = {field: value for field, value in plan.after.items() if seen.values[field] != value}
        others = {field: seen.values[field] for field in todo if seen.values[field] != plan.before[field]}
        if others:
            raise PermanentError(f"{plan.target} was changed since it was planned, left alone; found {others}")
        if todo and not seen.marked:
            raise PermanentError(f"{plan.target} is {UNMARKED} any more, left alone")
        if todo:
            try:
                await self.write(plan, todo, seen)
            except PermanentError:
                # It may have taken several calls: what was done before one was refused must not stay. Where that is in
                # vain as well, whoever keeps the ledger reads it back and goes on.
                with contextlib.suppress(DriftError, PermanentError, TransientError):
                    await self.undo(plan, None)
                raise
        return Outcome(values=dict(plan.after), detail="" if plan.reversible else plan.warning)

    async def verify(self, plan: Plan) -> Effect:
        seen = await self.read(plan)
        if seen is None:
            return Effect(in_force=False, values={}, detail="it no longer exists")
        if is_another(plan, seen.identity):
            return Effect(in_force=False, values={}, detail=str(another(plan)))
        return Effect(in_force=seen.values == plan.after, values=seen.values)

    def restores(self, plan: Plan) -> bool:
        """Whether undo sets anything back. A plan that loses something may still give back the rest."""
        return plan.reversible

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        """An undo starts work again, so the marks are looked at as before any other change.

        What is marked critical by now is started by nobody but its owner. Where nothing says that it is the object that
        was held back, it must still be marked.
        """
        if not self.restores(plan):
            return
        seen = await self.read(plan)
        if seen is None:
            raise DriftError("it no longer exists", found=dict.fromkeys(plan.after))
        if is_another(plan, seen.identity):
            raise another(plan)
        ours = {field: plan.before[field] for field, value in plan.after.items() if seen.values[field] == value}
        if ours and seen.critical:
            raise DriftError("it is marked critical now: Curb starts nothing there, please do", found=seen.values)
        if ours and not plan.identity and not seen.marked:
            raise DriftError(f"it is {UNMARKED} any more and may be another of that name", found=seen.values)
        if ours:
            await self.write(plan, ours, seen)
        elif seen.says_held and not seen.critical:  # somebody else has set it back, or to something else
            with contextlib.suppress(PermanentError, TransientError):  # nothing depends on it
                await self.no_longer_held(plan, seen)
        drifted = {
            field: value for field, value in seen.values.items() if field not in ours and value != plan.before[field]
        }
        if drifted:
            raise DriftError("somebody changed it since", found=drifted)


def wanted_tags(select: Mapping[str, str], alert: Alert) -> dict[str, str] | None:
    """The tags (or labels) an object must carry: those of the alert that `select` maps, under the mapped names.

    None when the alert has none of them, or one without a value: what it stands for cannot be said by a tag.
    """
    wanted = {name: alert.tags[tag] for tag, name in select.items() if tag in alert.tags}
    return None if not wanted or any(value in ("", UNTAGGED, OTHER) for value in wanted.values()) else wanted


def says_critical(value: str | None) -> bool:
    """Whether a mark says that the object must never be touched, however it is spelled."""
    return (value or "").strip().lower() == "critical"


def carries(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(tags.get(name) == value for name, value in wanted.items())


def _left_alone(refused: list[Found]) -> str:
    reasons = Counter(each.refusal for each in refused)
    said = []
    for reason, count in sorted(reasons.items()):
        names = sorted(each.title for each in refused if each.refusal == reason)
        more = f" and {count - _EXAMPLES} more" if count > _EXAMPLES else ""
        said.append(f"{', '.join(names[:_EXAMPLES])}{more} ({reason})")
    return "; ".join(said)
