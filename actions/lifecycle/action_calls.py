"""The calls to one configured action, bounded in time, and the entries of its steps in the ledger."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from curb.actions.action import Action, Effect, GoneError, Outcome
from curb.actions.calls.bounded import Backoff, within
from curb.actions.ledger.ledger import ActionState, action_id_for
from curb.actions.ledger.memory import Memory
from curb.actions.lifecycle.give_back import undo_backoff
from curb.actions.policy.routing import Act
from curb.actions.policy.standing import Ceiling, StandingPolicy, ceilings
from curb.actions.settings import ActionsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import Alert, LedgerEntry, LedgerState, Plan
from curb.stream.retry import RetryPolicy
from curb.stream.time import HOUR_S, utc

T = TypeVar("T")

#: Seconds between tries of a step. By hand: soon for a blip, and at least once a minute, since a lease may be ending.
_POLICY = RetryPolicy(first_s=1.0, cap_s=60.0)

#: Seconds for which a soft cap explains that a burn is low. By hand: three of ten minutes, and the pauses between.
_SOFT_CAP_COUNTS_S = 3600.0
#: States of a soft cap that was in force.
_HELD = frozenset({"applied", "effective", "ineffective", "restored", "drift"})


class ActionCalls:
    """What all steps of one action share. Nothing in it has to survive the process."""

    def __init__(
        self,
        name: str,
        action: Action,
        memory: Memory,
        clock: Clock,
        settings: ActionsSettings,
        *,
        call_timeout_s: float,
    ) -> None:
        self.name, self.action, self.memory, self.clock, self.settings = name, action, memory, clock, settings
        self._call_timeout_s = call_timeout_s
        self.backoff = Backoff(clock, _POLICY)
        self.undo_backoff = undo_backoff(clock)
        #: Planned by this process and not applied yet: the target cannot hold our value already.
        self.fresh: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}
        #: Requests turned away, as last counted, by action id.
        self._rejected: dict[str, int] = {}
        #: When the lease of each action is over at the latest, on the clock that nobody can set.
        self._lease_ends: dict[str, float] = {}
        self._ceilings: dict[str, Ceiling] = {}
        self._ceilings_of: tuple[object, float] = (None, 0.0)

    def ceilings(self) -> dict[str, Ceiling]:
        """What each principal that opted in should have at this action, by fingerprint."""
        now = self.clock.now()
        known_of, at = self._ceilings_of
        if known_of is not self.memory.peaks or now >= at + HOUR_S:
            self._ceilings = ceilings(self.memory.peaks or (), self.settings.standing, self.name, now)
            self._ceilings_of = (self.memory.peaks, now)
        return self._ceilings

    def ceiling_of(self, alert: Alert) -> int | None:
        """Requests per minute of the ceiling on an alert's subject, where it would stand but for the alert's action."""
        limits = (
            self.limit_of(fingerprint, ceiling)
            for fingerprint, ceiling in self.ceilings().items()
            if alert.tags.get(ceiling.policy.by) == ceiling.value and self.may_set(ceiling.policy)
        )
        return min(limits, default=None)

    def may_set(self, policy: StandingPolicy) -> bool:
        """Whether ceilings of a policy are set now: by mode, or since somebody approved them."""
        mode = policy.mode_within(self.settings.mode)
        said = self.memory.inbox.allowed.get(policy.digest)
        return mode == "auto" or (mode == "approve" and said is not None and said.kind == "approve")

    def limit_of(self, fingerprint: str, ceiling: Ceiling) -> int:
        """Requests per minute that it should be, with what a person has raised."""
        raised = self.memory.inbox.raised.get(fingerprint)
        return ceiling.limit(raised.per_minute if raised is not None else 0.0)

    def take_over(self) -> None:
        """Another process may have acted since: trust nothing but the ledger."""
        self.fresh.clear()
        self.outcomes.clear()
        self._lease_ends.clear()

    def let_go(self, action_id: str) -> None:
        """It is over: forget what was kept about it."""
        self.fresh.discard(action_id)
        self.outcomes.pop(action_id, None)
        self._rejected.pop(action_id, None)
        self._lease_ends.pop(action_id, None)

    def renewed(self, action_id: str) -> None:
        """Its lease ends later than was counted."""
        self._lease_ends.pop(action_id, None)

    def lease_is_over(self, entry: LedgerEntry) -> bool:
        """By the wall clock, or by the seconds counted: a clock that is set back lengthens no lease."""
        left_s = self.lease_left_s(entry)
        return left_s is not None and left_s <= 0

    def lease_left_s(self, entry: LedgerEntry) -> float | None:
        """Seconds until it is over by either; None for what has no end."""
        if entry.lease_expires_at is None:
            return None
        left_s = entry.lease_expires_at - self.clock.now()
        if left_s <= 0:
            return left_s
        if entry.lease_s is not None:
            left_s = min(left_s, entry.lease_s)
        ends = self._lease_ends.setdefault(entry.action_id, self.clock.steady() + left_s)
        return min(left_s, ends - self.clock.steady())

    # --- calls ---

    async def call(self, what: str, call: Awaitable[T]) -> T:
        """The result, or TransientError when it takes too long."""
        return await within(call, self._call_timeout_s, f"{self.name}.{what}")

    async def read_back(self, entry: LedgerEntry) -> Effect:
        """What the target holds; a refusal to say so counts as not in force."""
        try:
            return await self.look(entry)
        except PermanentError as error:
            return Effect(in_force=False, values={}, detail=str(error))

    async def look(self, entry: LedgerEntry) -> Effect:
        """What the target holds, which is nothing when it is gone; PermanentError when the target does not say."""
        try:
            effect = await self.call("verify", self.action.verify(entry.plan))
        except GoneError as error:
            return Effect(in_force=False, values={}, detail=str(error))
        if effect.rejected is not None:
            self._rejected[entry.action_id] = effect.rejected
        return effect

    async def last_count(self, entry: LedgerEntry) -> None:
        """Count what was turned away once more before the target forgets it, where it counts at all."""
        if entry.tries == 0 and (entry.rejected is not None or entry.action_id in self._rejected):
            with contextlib.suppress(TransientError):
                await self.read_back(entry)

    # --- the ledger ---

    def _before_soft_cap(self, target: str, alert: Alert) -> dict[str, Any]:
        """The burn before a soft cap that held a target down until lately: what an action after it is measured by."""
        since = self.clock.now() - _SOFT_CAP_COUNTS_S
        capped = [state.last for state in self.memory.ledger.begun() if state.last.plan.target == target]
        soft = [
            each for each in capped if each.rung == 0 and each.state in _HELD and (each.measured_at or 0.0) >= since
        ]
        most = max(soft, key=lambda each: each.usd_per_hour_before or 0.0, default=None)
        if most is None or (most.usd_per_hour_before or 0.0) <= alert.usd_per_hour:
            return {}
        rate = most.requests_per_minute_before
        return {"usd_per_hour_before": most.usd_per_hour_before, "requests_per_minute_before": rate}

    async def start(
        self, alert: Alert, plan: Plan, state: LedgerState, act: Act | None = None, **fields: Any
    ) -> LedgerEntry:
        """The first entry of a new action. Its id follows from what is on the ledger already."""
        attempts = self.memory.ledger.attempts(alert.alert_id, self.name)
        episode = 1 + sum(attempt.last.plan.target == plan.target for attempt in attempts)
        if act is not None:
            fields |= {"rung": act.rung, "do": act.do}
        if state == "planned" and fields.get("standing"):
            plan = msgspec.structs.replace(plan, note=f"ceiling of {fields['standing']}, renewed while Curb runs")
        elif state == "planned":
            plan = noted(plan, alert, fields.get("lease_expires_at"))
        if alert.tier != "soft" and not fields.get("standing"):
            fields = self._before_soft_cap(plan.target, alert) | fields
        entry = LedgerEntry(
            action_id=action_id_for(alert.alert_id, self.name, episode, plan.target),
            state=state,
            at=self.clock.now(),
            alert_id=alert.alert_id,
            fingerprint=alert.fingerprint,
            plan=plan,
            tags=dict(alert.tags),
            **(measured(alert) | fields),
        )
        await self.memory.record(entry)
        return entry

    async def record(
        self, state: ActionState, to: LedgerState, *, by: str = "curb", detail: str = "", **fields: Any
    ) -> LedgerEntry:
        """The next entry of an action, with what it saved and turned away so far."""
        entry, now = state.last, self.clock.now()
        if state.in_force or to in ("applied", "effective", "ineffective"):
            fact = self.memory.inbox.alerts.get(entry.alert_id)
            fields.setdefault("rejected", self._rejected.get(entry.action_id, entry.rejected))
            alert, rejected = fact.alert if fact else None, fields["rejected"]
            fields.setdefault("saved_usd", saved_usd(entry, alert, now, rejected))
        # These belong to the entry that says them.
        fields = {"command_id": "", "overdue": False, "refusal": "", "next_try_at": None} | fields
        changed = msgspec.structs.replace(entry, state=to, at=now, by=by, detail=detail, **fields)
        await self.memory.record(changed)
        return changed


def noted(plan: Plan, alert: Alert, until: float | None) -> Plan:
    """The plan with what its target may say of it: the alert, and when it is given back."""
    ends = f", until {utc(until)}" if until is not None else ""
    return msgspec.structs.replace(plan, note=f"alert {alert.alert_id}{ends}")


def no_plan(action: str) -> Plan:
    """The plan of an entry that changes nothing."""
    return Plan(action=action, target="", summary="", before={}, after={})


def measured(alert: Alert) -> dict[str, Any]:
    """What is known of the subject before an action, as fields of its entry."""
    return {
        "usd_per_hour_before": alert.usd_per_hour,
        "requests_per_minute_before": alert.requests_per_minute,
        "spent_usd_before": alert.actual_usd,
        "failed_requests_before": alert.failed_requests,
        "spent_since": alert.started_at,
        "measured_at": alert.updated_at,
    }


def saved_usd(entry: LedgerEntry, alert: Alert | None, now: float, rejected: int | None = None) -> float | None:
    """Dollars saved since `entry` was planned, up to the newest revision of its alert; None when nothing is known.

    saved = min(burn before x hours - dollars spent, requests refused x dollars per request before)

    Without the action the burn before would have gone on; what was really spent is subtracted. Where that is not
    counted on (the start of the incident was estimated again), the present burn stands for all of the time. A cause
    that has ended is refused nothing more, so it saves nothing more. `rejected` is what the target counted; else
    requests that failed since then are taken; without either only the burn is compared. Where calls are routed to
    cheaper models nothing is refused, and `_price_difference` stands for the second term. Several targets of one
    proposal share what they saved. Never negative, and never for time of which nothing was heard.
    """
    before, since = entry.usd_per_hour_before, entry.measured_at
    if alert is None or before is None or since is None:
        return entry.saved_usd
    hours, is_counted_on = max(0.0, min(alert.updated_at, now) - since) / 3600.0, alert.started_at == entry.spent_since
    spent = alert.usd_per_hour * hours
    if entry.spent_usd_before is not None and is_counted_on:
        counted = alert.actual_usd - entry.spent_usd_before
        spent = counted if counted > 0 else spent
    shares = 1 + len(entry.also)
    by_burn, requests_per_hour = (
        max(0.0, before * hours - spent) / shares,
        60.0 * (entry.requests_per_minute_before or 0),
    )
    if entry.do == "cheaper_model":
        return min(by_burn, _price_difference(entry, alert, spent) / shares)
    if rejected is not None:
        refused: float | None = rejected
    else:
        refused = _failed_since(entry, alert, shares) if is_counted_on else None
    if refused is None or requests_per_hour <= 0:
        return by_burn
    return min(by_burn, refused * before / requests_per_hour)


def _price_difference(entry: LedgerEntry, alert: Alert, spent: float) -> float:
    """What the calls since planning, which cost `spent` dollars, would have cost more at the models before.

    saved = spent x (times - 1)

    `times` is the price before over that now: by the price book, and by dollars per request before and now, which is
    less where a part of the calls goes to other models. The lower of the two; inf where neither is known.
    """
    times = [1.0 / entry.plan.price_part] if entry.plan.price_part else []
    requests_before, requests_now = entry.requests_per_minute_before, alert.requests_per_minute
    if requests_before and requests_now and alert.usd_per_hour > 0:
        times.append((entry.usd_per_hour_before or 0.0) / requests_before * requests_now / alert.usd_per_hour)
    return max(0.0, spent * (min(times) - 1.0)) if times else math.inf


def _failed_since(entry: LedgerEntry, alert: Alert, shares: int) -> float | None:
    """Requests that failed since planning, for one of so many targets; None where none is ever reported."""
    if alert.failed_requests is None or entry.failed_requests_before is None:
        return None
    failed = alert.failed_requests - entry.failed_requests_before
    return failed / shares if failed > 0 else None
