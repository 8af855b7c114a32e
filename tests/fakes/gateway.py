"""An action and a notifier that act on plain dictionaries, for tests of the runner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from curb.actions.action import DriftError, Effect, Outcome
from curb.actions.notify.protocol import Notice
from curb.actions.target import TargetRate, Verb
from curb.stream.records.spend import Alert, Plan

#: Called before and after every change of the outside world; a test raises from it to break or kill the caller.
Hook = Callable[[str], Awaitable[None]]


async def nothing(_point: str) -> None:
    return None


class Gateway:
    """Keys with one limit each. `calls` records (verb, key, value)."""

    permissions: ClassVar[tuple[str, ...]] = ()
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave"})

    def __init__(self, limits: dict[str, int | None], *, to: int = 10, hook: Hook = nothing, name: str = "gate"):
        self.limits, self.to, self.hook, self.name = limits, to, hook, name
        self.calls: list[tuple[str, str, Any]] = []

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        await self.hook("plan")
        key = alert.tags["api_key"]
        if key not in self.limits:
            return ()
        before, after = {"rpm": self.limits[key]}, {"rpm": self.to}
        return (Plan(action=self.name, target=f"gate/{key}", summary=f"limit {key}", before=before, after=after),)

    async def apply(self, plan: Plan) -> Outcome:
        await self._set("apply", plan, plan.after["rpm"])
        return Outcome(dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        await self.hook("verify")
        values = {"rpm": self.limits[_key(plan)]}
        return Effect(values == plan.after, values)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        found = self.limits[_key(plan)]
        if found == plan.after["rpm"]:
            await self._set("undo", plan, plan.before["rpm"])
        elif found != plan.before["rpm"]:
            raise DriftError("changed by hand", {"rpm": found})

    async def close(self) -> None: ...

    async def _set(self, verb: str, plan: Plan, value: Any) -> None:
        await self.hook(f"before {verb}")
        self.limits[_key(plan)] = value
        self.calls.append((verb, _key(plan), value))
        await self.hook(f"after {verb}")


def _key(plan: Plan) -> str:
    return plan.target.removeprefix("gate/")


class Channel:
    """Messages by reference. `posts` counts every new message, `edits` every edit."""

    def __init__(self, *, hook: Hook = nothing, can_edit: bool = True) -> None:
        self.hook, self.can_edit = hook, can_edit
        self.messages: dict[str, Notice] = {}
        self.history: list[tuple[str, Notice]] = []

    @property
    def posts(self) -> list[Notice]:
        return [notice for how, notice in self.history if how == "post"]

    @property
    def edits(self) -> list[Notice]:
        return [notice for how, notice in self.history if how == "edit"]

    async def send(self, notice: Notice, ref: str) -> str:
        await self.hook("before send")
        if not (ref and self.can_edit):
            ref = f"m{len(self.messages) + 1}"
            self.history.append(("post", notice))
        else:
            self.history.append(("edit", notice))
        self.messages[ref] = notice
        await self.hook("after send")
        return ref if self.can_edit else ""

    async def find(self, key: str) -> str | None:
        await self.hook("find")
        if not self.can_edit:
            return None
        return next((ref for ref, notice in self.messages.items() if notice.key == key), None)

    async def close(self) -> None: ...
