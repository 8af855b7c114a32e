"""A gateway of several keys whose action follows every target rate, and a house with a ladder around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from curb.actions.action import DriftError, Effect, GoneError, Outcome
from curb.actions.ledger.ledger import action_id_for
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.actions.target import TargetRate, Verb
from curb.stream.records.spend import Alert, Plan
from tests.fakes.actions_house import House, settings
from tests.fakes.gateway import Hook, nothing


class PolicyGate:
    """Keys with a rate and a lock. An alert's `api_key` may name several, joined with "+"."""

    permissions: ClassVar[tuple[str, ...]] = ()
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "block"})

    def __init__(self, *keys: str, rpm: int | None = 500, hook: Hook = nothing, name: str = "gate") -> None:
        self.keys: dict[str, dict[str, Any]] = {key: {"rpm": rpm, "blocked": False} for key in keys}
        self.hook, self.name = hook, name
        self.aims: list[TargetRate] = []
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.reversible, self.deaf = True, False
        self.rejected: int | None = None

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        await self.hook("plan")
        self.aims.append(rate)
        plans = [self._plan(key, rate) for key in alert.tags["api_key"].split("+") if key in self.keys]
        await self.hook("after plan")
        return tuple(plan for plan in plans if plan is not None)

    def _plan(self, key: str, rate: TargetRate) -> Plan | None:
        found = self.keys[key]
        after: dict[str, Any] = {"blocked": True}
        if rate.verb == "shave":
            after = {"rpm": 10 if rate.requests_per_minute is None else max(1, math.ceil(rate.requests_per_minute))}
            after["rpm"] = min(after["rpm"], after["rpm"] if rate.at_most is None else rate.at_most)
            if found["rpm"] is not None and found["rpm"] <= after["rpm"]:
                return None
        if all(found[field] == value for field, value in after.items()):
            return None
        before = {field: found[field] for field in after}
        warning = "" if self.reversible else "what it did so far is lost"
        return Plan(
            action=self.name,
            target=f"gate/{key}",
            summary=f"{rate.verb} {key}",
            before=before,
            after=after,
            reversible=self.reversible,
            warning=warning,
        )

    async def apply(self, plan: Plan) -> Outcome:
        await self._set("apply", plan, plan.after)
        return Outcome(dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        await self.hook("verify")
        if _key(plan) not in self.keys:
            raise GoneError("HTTP 404: no such key")
        values = {field: self.keys[_key(plan)][field] for field in plan.after}
        return Effect(values == plan.after, values, rejected=self.rejected)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        await self.hook("before undo")
        if _key(plan) not in self.keys:
            raise DriftError("the key no longer exists", {})
        found = {field: self.keys[_key(plan)][field] for field in plan.after}
        ours = {field: plan.before[field] for field, value in plan.after.items() if found[field] == value}
        if ours:
            await self._set("undo", plan, ours)
        drifted = {f: value for f, value in found.items() if f not in ours and value != plan.before[f]}
        if drifted:
            raise DriftError("changed by hand", drifted)

    async def close(self) -> None: ...

    async def _set(self, verb: str, plan: Plan, values: dict[str, Any]) -> None:
        if verb == "apply":
            await self.hook("before apply")
        self.calls.append((verb, _key(plan), dict(values)))
        if not self.deaf:
            self.keys[_key(plan)].update(values)
        await self.hook(f"after {verb}")


def _key(plan: Plan) -> str:
    return plan.target.removeprefix("gate/")


def id_of(key: str, episode: int = 1, alert_id: str = "a1") -> str:
    return action_id_for(alert_id, "gate", episode, f"gate/{key}")


class PolicyHouse(House):
    """A house whose only gate is a `PolicyGate`."""

    def __init__(self, config: ActionsSettings, *keys: str, log: Any = None, rpm: int | None = 500) -> None:
        self.policy_gate = PolicyGate(*(keys or ("k1",)), rpm=rpm)
        super().__init__(config, log)

    def new_runner(self) -> ActionsRunner:
        return ActionsRunner(self.log, self.clock, self.config, {"gate": self.policy_gate}, {"chat": self.chat})

    def steps(self, key: str = "k1", episode: int = 1) -> list[str]:
        return self.states(id_of(key, episode))

    def last(self, key: str = "k1", episode: int = 1) -> Any:
        return [entry for entry in self.ledger() if entry.action_id == id_of(key, episode)][-1]


def ladder(*rungs: dict[str, Any], **changes: Any) -> ActionsSettings:
    """Settings with one route of these rungs; `act` is the gate unless a rung only tells."""
    full = [({} if rung["do"] == "notify" else {"act": ["gate"]}) | rung for rung in rungs]
    return settings(routes=[{"notify": ["chat"], "ladder": full}], **changes)
