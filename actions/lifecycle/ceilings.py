"""Standing ceilings of one configured action: set, renewed, moved with use, and given back; and what people are asked.

A ceiling is an entry in the ledger like any other, below every ladder (rung -1), with a lease that is renewed while its
policy wants it and its target reads back. It holds its target like any action: what a rung asks for takes its place,
computed from the value that the ceiling found, and when that is over the ceiling comes again. So at every moment one
plan is in force, and every undo gives back the original.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import msgspec

from curb.actions.ledger.inbox_state import ALLOWED_PREFIX, RAISED_PREFIX, HonestMinute
from curb.actions.ledger.ledger import CURB_ITSELF, RESPECTED_S, ActionState
from curb.actions.lifecycle.action_calls import ActionCalls
from curb.actions.policy.guards import freeze, must_not_touch, never_changed, raises_a_limit
from curb.actions.policy.limits import MARKS
from curb.actions.policy.roles import may_approve, people_of, roles_for
from curb.actions.policy.standing import Ceiling, StandingPolicy, has_moved, must_not_have
from curb.actions.target import TargetRate
from curb.stream.errors import PermanentError
from curb.stream.records.revisions import alert_id_of, fingerprint_of, first_without_spend, resolved
from curb.stream.records.spend import Alert, Command, LedgerEntry, Plan
from curb.stream.time import HOUR_S

logger = logging.getLogger(__name__)

#: Seconds between two looks at who should have a ceiling, and until one is looked at again that must wait, that has
#: nothing to gain from it, or that the other side does not know. By hand: nothing here is in a hurry.
_LOOK_S, _WAIT_S, _LATER_S, _UNKNOWN_S = 5.0, 60.0, HOUR_S, 6 * HOUR_S
#: What the three kinds of entries want, as their `do`.
CEILING, ALLOW, RAISE = "ceiling", "allow ceilings", "raise ceiling"


class _Question(NamedTuple):
    """An alert that should fire, and the ledger entry that carries its button."""

    alert: Alert
    plan: Plan
    do: str
    policy: StandingPolicy


class Ceilings:
    """What is due about the ceilings of one action; whoever runs its leases carries the entries out."""

    #: Under which `ask` is postponed.
    ASK: ClassVar[str] = "ceilings/ask"

    def __init__(self, calls: ActionCalls) -> None:
        self._calls, self._memory, self._settings = calls, calls.memory, calls.settings
        self._channel = f"ceiling/{calls.name}"
        self._look_at = float("-inf")
        #: Keys of ceilings whose target another action holds.
        self._blocked: set[str] = set()
        #: Alerts that were appended and not read yet, and when on the steady clock.
        self._sent: dict[str, float] = {}

    # --- who should have one ---

    def due(self) -> list[Ceiling]:
        """Those without a ceiling that are to be considered now, the most expensive first."""
        steady = self._calls.clock.steady()
        if steady < self._look_at or not self._calls.ceilings():
            return []
        self._look_at = steady + _LOOK_S
        standing = self._memory.ledger.standing(self._calls.name)
        without = [
            ceiling
            for fingerprint, ceiling in self._calls.ceilings().items()
            if self._calls.backoff.is_due(self.key(ceiling)) and not _held(standing.get(fingerprint, []))
        ]
        return sorted(without, key=lambda each: -each.usd_per_hour(each.highest))

    @staticmethod
    def key(ceiling: Ceiling) -> str:
        """Under which it is postponed."""
        return f"{ceiling.fingerprint}/ceiling"

    def states(self, ceiling: Ceiling) -> list[ActionState]:
        """What the ledger has of it."""
        return self._memory.ledger.standing(self._calls.name).get(ceiling.fingerprint, [])

    def let_go(self, state: ActionState, *, makes_way: bool) -> None:
        """An action is over: a ceiling that made way waits, and what waited for another's target is looked at."""
        key = f"{state.last.fingerprint}/ceiling"
        if state.is_standing and makes_way:
            self._calls.backoff.postpone(key, _WAIT_S)
            self._blocked.add(key)
        elif state.is_standing:
            self._calls.backoff.reset(key)
        else:
            for key in self._blocked:
                self._calls.backoff.reset(key)
            self._blocked.clear()
        self.look_again()

    def look_again(self) -> None:
        """Do not wait for the next look."""
        self._look_at = float("-inf")

    async def consider(self, ceiling: Ceiling) -> None:
        """Plan for one principal, and enter it as its policy's mode says."""
        key, policy, limit = self.key(ceiling), ceiling.policy, self._calls.limit_of(ceiling.fingerprint, ceiling)
        if not self._may_begin():
            return
        if self._why_not(ceiling, limit):
            self._calls.backoff.postpone(key, _WAIT_S)
            return
        rate = TargetRate("shave", float(limit), standing=True, why=_why(ceiling))
        now, held = self._calls.clock.now(), self._memory.ledger.held_targets()
        alert = self._about(ceiling, now)
        try:
            plans = await self._calls.call("plan", self._calls.action.plan(alert, rate))
        except PermanentError as error:  # of another gateway, or deleted
            logger.info("no ceiling", extra={"action": self._calls.name, "subject": ceiling.value, "why": str(error)})
            self._calls.backoff.postpone(key, _UNKNOWN_S)
            return
        async with self._memory.planning:
            if not self._memory.may_work or not self._may_begin():
                return
            free = [plan for plan in plans if plan.target not in held and not self._memory.ledger.holder(plan.target)]
            allowed = [plan for plan in free if not self._forbidden(plan)]
            self._calls.backoff.postpone(key, _LATER_S if len(free) == len(plans) else _WAIT_S)
            if len(free) < len(plans):
                self._blocked.add(key)
            for plan in allowed:
                await self._enter(ceiling, alert, plan, limit, policy)

    def _may_begin(self) -> bool:
        memory, now = self._memory, self._calls.clock.now()
        frozen = freeze(memory.ledger, self._settings.limits, resumed_at=memory.inbox.resumed_at, now=now)
        return memory.caught_up and memory.inbox.halted is None and not frozen

    def _why_not(self, ceiling: Ceiling, limit: int) -> str:
        """Why none is set now, or ""."""
        policy, now = ceiling.policy, self._calls.clock.now()
        mode = policy.mode_within(self._settings.mode)
        states = [state for state in self.states(ceiling) if state.last.state != "skipped"]
        last = states[-1].last if states else None
        if why := must_not_have(ceiling, self._settings.limits):
            return why
        if mode == "approve" and not self._calls.may_set(policy):
            return "nobody has approved the policy"
        if last is not None and now - last.at < RESPECTED_S and _is_a_persons_word(last):
            return "a person gave it back, or changed it"
        if last is not None and last.state == "failed" and now - last.at < _LATER_S:
            return "it failed a while ago"
        if mode == "shadow" and last is not None and last.state == "shadow":
            return "" if has_moved(last.limit_per_minute or 0, limit) else "recorded already"
        every = self._memory.ledger.standing().values()
        count = sum(state.is_held and state.last.standing == policy.name for each in every for state in each)
        return "no more at one time (standing.max_open)" if count >= policy.max_open else ""

    def _forbidden(self, plan: Plan) -> bool:
        is_critical = MARKS.get(plan.criticality) == "critical"
        never = is_critical or bool(never_changed(plan, self._settings.limits))
        return never or not plan.reversible or raises_a_limit(plan)

    async def _enter(self, ceiling: Ceiling, alert: Alert, plan: Plan, limit: int, policy: StandingPolicy) -> None:
        now, lease_s = self._calls.clock.now(), policy.lease_minutes * 60.0
        said = self._memory.inbox.allowed.get(policy.digest)
        about: dict[str, Any] = {
            "rung": -1,
            "do": CEILING,
            "standing": policy.name,
            "limit_per_minute": limit,
            "why": _why(ceiling),
        }
        # A ceiling is about no burn.
        about |= {"usd_per_hour_before": None, "measured_at": None, "lease_s": lease_s}
        if policy.mode_within(self._settings.mode) == "shadow":
            await self._calls.start(alert, plan, "shadow", detail="shadow mode: nothing was changed", **about)
            return
        by = said.by if said is not None and policy.mode_within(self._settings.mode) == "approve" else ""
        entry = await self._calls.start(
            alert, plan, "planned", lease_expires_at=now + lease_s, approved_by=by, detail=_why(ceiling), **about
        )
        self._calls.fresh.add(entry.action_id)

    def _about(self, ceiling: Ceiling, now: float) -> Alert:
        """The subject of a ceiling, in the words in which actions are given theirs."""
        return first_without_spend(
            alert_id_of(ceiling.fingerprint, now),
            now,
            fingerprint=ceiling.fingerprint,
            kind="ceiling",
            tier="digest",
            scope=ceiling.scope,
            tags=ceiling.tags,
            channel=self._channel,
        )

    # --- those in force ---

    def why_end(self, state: ActionState) -> str:
        """Why a ceiling is given back before its lease is over, or ""."""
        entry, memory = state.last, self._memory
        if why := must_not_touch(entry, self._settings.limits):
            return why
        if memory.peaks is None or not memory.caught_up or memory.inbox.halted:
            return ""
        ceiling = self._calls.ceilings().get(entry.fingerprint)
        if ceiling is None or ceiling.policy.name != entry.standing or not self._calls.may_set(ceiling.policy):
            return f"the policy {entry.standing} does not ask for it any more"
        if why := must_not_have(ceiling, self._settings.limits):
            return why
        was, limit = entry.limit_per_minute or 0, self._calls.limit_of(entry.fingerprint, ceiling)
        return f"follows its use: {was} → {limit} requests a minute" if has_moved(was, limit) else ""

    def must_renew(self, entry: LedgerEntry) -> bool:
        """Whether half of the lease is over; while Curb is halted nothing is renewed."""
        left_s = self._calls.lease_left_s(entry)
        return left_s is not None and left_s < 0.5 * (entry.lease_s or 0.0) and self._memory.inbox.halted is None

    async def renew(self, state: ActionState) -> None:
        """Its target reads back: the lease begins again."""
        entry, now = state.last, self._calls.clock.now()
        ceiling = self._calls.ceilings().get(entry.fingerprint)
        lease_s = ceiling.policy.lease_minutes * 60.0 if ceiling is not None else entry.lease_s or 0.0
        ends: dict[str, Any] = {"lease_expires_at": now + lease_s, "lease_s": lease_s, "renewals": entry.renewals + 1}
        await self._calls.record(state, entry.state, detail="renewed", **ends)
        self._calls.renewed(entry.action_id)

    # --- people ---

    async def ask(self) -> None:
        """Have the alerts fire that should, with their buttons, and end the others."""
        if not self._memory.caught_up or self._memory.peaks is None:
            return
        self._calls.backoff.postpone(self.ASK, _LOOK_S)
        questions = {question.alert.fingerprint: question for question in self._questions()}
        firing: dict[str, Alert] = {}
        for fact in self._memory.inbox.alerts.values():
            if fact.alert.channel != self._channel or fact.alert.status != "firing":
                continue
            if firing.setdefault(fact.alert.fingerprint, fact.alert) is not fact.alert:
                # Appended twice, where nobody knew whether the first had been written.
                await self._publish(resolved(fact.alert, self._calls.clock.now()))
        for fingerprint, question in questions.items():
            if fingerprint not in firing:
                await self._publish(question.alert)
            elif not any(each.is_standing for each in self._memory.ledger.for_alert(firing[fingerprint].alert_id)):
                await self._propose(firing[fingerprint], question)
        for fingerprint in firing.keys() - questions.keys():
            await self._publish(resolved(firing[fingerprint], self._calls.clock.now()))

    async def _publish(self, alert: Alert) -> None:
        """Append a revision once; it is in the inbox when it is read."""
        steady, said = (
            self._calls.clock.steady(),
            f"{alert.alert_id if alert.status == 'resolved' else alert.fingerprint}",
        )
        self._sent = {each: at for each, at in self._sent.items() if steady < at + _WAIT_S}
        if said not in self._sent:
            await self._memory.publish(alert)
            self._sent[said] = steady

    async def _propose(self, alert: Alert, question: _Question) -> None:
        roles = roles_for(self._settings.approvers, question.policy.approvers, alert.dollars_at_risk)
        who = f"{', '.join(roles)} may approve" if roles else "nobody is named in actions.approvers who may approve"
        about: dict[str, Any] = {
            "rung": -1,
            "do": question.do,
            "standing": question.policy.name,
            "usd_per_hour_before": None,
        }
        people = people_of(roles)
        await self._calls.start(alert, question.plan, "proposed", detail=who, approvers=people, **about)

    def _questions(self) -> Iterator[_Question]:
        for policy in self._settings.standing:
            if policy.act == self._calls.name:
                yield from self._about_policy(policy)
        standing = self._memory.ledger.standing(self._calls.name)
        for fingerprint, ceiling in self._calls.ceilings().items():
            for state in standing.get(fingerprint, []):
                if state.in_force and (question := self._about_growth(ceiling, state.last)):
                    yield question
                    break

    def _about_policy(self, policy: StandingPolicy) -> Iterator[_Question]:
        """Whether the ceilings of a policy may be set, asked once."""
        mine = [ceiling for ceiling in self._calls.ceilings().values() if ceiling.policy.name == policy.name]
        is_open = (
            policy.mode_within(self._settings.mode) == "approve" and policy.digest not in self._memory.inbox.allowed
        )
        if not is_open or not mine:
            return
        count = f"{len(mine)} {policy.by}" + ("" if len(mine) == 1 else "s")
        what = f"keep the limits of {count} at {policy.factor:g} times the highest minute of a month"
        text = (
            f"The policy {policy.name} would {what}, never below {policy.floor_rpm} requests a minute and never above "
            f"what is found. One approval is for all of them, also for those that match later."
        )
        tags = {"ceilings": policy.name, **{tag: glob for tag, glob in policy.match.items() if "*" not in glob}}
        alert = self._notice(fingerprint_of("ceilings", policy.digest), tags, what, text)
        plan = Plan(action=self._calls.name, target=f"ceilings/{policy.name}", summary=what, before={}, after={})
        yield _Question(alert, plan, ALLOW, policy)

    def _about_growth(self, ceiling: Ceiling, entry: LedgerEntry) -> _Question | None:
        """Whether a ceiling should be raised before it bites: its use comes near."""
        policy, limit = ceiling.policy, entry.limit_per_minute or 0
        raised = ceiling.limit(ceiling.today)
        wanted = self._calls.limit_of(entry.fingerprint, ceiling)
        if ceiling.today < policy.near * limit or max(raised, wanted) <= limit or wanted >= raised:
            return None
        share = ceiling.today / limit
        what = f"its highest minute today had {ceiling.today:,.0f} requests, {share:.0%} of its ceiling of {limit:,}"
        text = (
            f"{ceiling.value}: {what}. Unless an alert fires on it, the ceiling becomes {raised:,} when the day (UTC) "
            f"is over. An approval raises it now; `curb actions undo {entry.action_id}` takes it away for a week."
        )
        alert = self._notice(fingerprint_of("ceiling growth", entry.fingerprint), ceiling.tags, what, text)
        pace, usual = ceiling.usd_per_hour(ceiling.today), ceiling.usd_per_hour(ceiling.highest)
        alert = msgspec.structs.replace(alert, usd_per_hour=pace, expected_usd_per_hour=usual)
        plan = Plan(
            action=self._calls.name,
            target=f"ceilings/{entry.fingerprint}",
            summary=f"raise the ceiling of {ceiling.value[:40]} from {limit} to {raised} requests per minute",
            before={"requests_per_minute": limit},
            after={"requests_per_minute": raised},
        )
        return _Question(alert, plan, RAISE, policy)

    def _notice(self, fingerprint: str, tags: dict[str, str], reason: str, text: str) -> Alert:
        now = self._calls.clock.now()
        return first_without_spend(
            alert_id_of(fingerprint, now),
            now,
            fingerprint=fingerprint,
            kind="ceiling",
            tier="notice",
            scope="ceilings",
            tags=tags,
            channel=self._channel,
            confidence=1.0,
            needs_warmup=False,
            reason=reason,
            explanation=text,
        )

    def refusal_of(self, entry: LedgerEntry, command: Command, alert: Alert) -> str:
        """Why an approval does not count, or ""."""
        policy = self._policy(entry)
        if policy is None:
            return f"there is no policy {entry.standing} any more"
        return may_approve(self._settings.approvers, command.by, policy.approvers, alert.dollars_at_risk)

    async def answered(self, state: ActionState, command: Command) -> None:
        """Somebody who may has approved or denied what an entry asks for: kept first, then on the ledger."""
        entry, policy = state.last, self._policy(state.last)
        if entry.do == ALLOW and policy is not None:
            await self._memory.keep(ALLOWED_PREFIX + policy.digest.encode(), command)
        elif entry.do == RAISE and policy is not None and command.kind == "approve":
            per_minute = entry.plan.after["requests_per_minute"] / policy.factor
            key = RAISED_PREFIX + entry.plan.target.removeprefix("ceilings/").encode()
            await self._memory.keep(key, HonestMinute(per_minute, self._calls.clock.now(), command.by))

    def _policy(self, entry: LedgerEntry) -> StandingPolicy | None:
        return next((policy for policy in self._settings.standing if policy.name == entry.standing), None)


def _held(states: list[ActionState]) -> bool:
    return any(state.is_held for state in states)


def _is_a_persons_word(entry: LedgerEntry) -> bool:
    undone = entry.state == "restored" and entry.by not in CURB_ITSELF
    return undone or entry.state == "drift"


def _why(ceiling: Ceiling) -> str:
    return f"{ceiling.policy.factor:g} times its highest minute of a month ({ceiling.highest:,.0f} requests)"
