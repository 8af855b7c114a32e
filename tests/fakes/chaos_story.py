"""One story in a world where anything goes wrong: a daemon, a reaper, alerts, people, and what must hold in the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from typing import Any

from curb.actions.ledger.inbox_state import ALERT_PREFIX, APPROVALS_PREFIX, UNDO_PREFIX
from curb.actions.ledger.ledger import OPEN, Ledger
from curb.actions.lifecycle.reaper import Reaper
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.settings import ActionsSettings
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import PEAKS, STATE
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.spend import Alert, LedgerEntry, Plan
from tests.fakes.actions_house import NamedAction, NamedNotifier, NamedRate
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.chaos import ChaoticLog, Gate, KilledError, Trouble, decoded
from tests.fakes.gateway import Channel

#: Alert → team and key. Only what is of `search` is marked as what may be stopped; `pay` is critical, `ads` unmarked.
SUBJECTS = {
    "a1": ("search", "k1"),
    "a2": ("search", "k2"),
    "a3": ("search", "k3"),
    "a4": ("pay", "k4"),
    "a5": ("ads", "k5"),
}
LIMITS = {"k1": None, "k2": 500, "k3": 60, "k4": None, "k5": 700}
JOBS = {"search-1": 4, "search-2": 2, "search-3": 9, "search-4": 1, "pay-1": 3, "ads-1": 5}
_CALM_STEPS, _CALM_S, _WEEK_S = 14, 600.0, 8 * 86400.0
#: Highest minutes that a key may have; no ceiling looks like what the gate or a person sets.
_HIGHEST = (8.0, 9.0, 15.0, 25.0)
_POLICY = {"name": "keys", "act": "gate", "match": {"team": "search"}, "floor_rpm": 16, "lease_minutes": 30}
_LADDER = [
    {"do": "shave_to_normal", "act": ["gate"], "lease_minutes": 30, "verify_within_minutes": 5},
    {"do": "pause", "act": ["jobs"], "lease_minutes": 20, "verify_within_minutes": 5},
]


def settings(mode: str, *, ladder: bool, standing: bool = False) -> ActionsSettings:
    """One action on keys and one on jobs; everything else at its default but the marks and who approves.

    `standing`: the keys of `search` have ceilings as well.
    """
    what: dict[str, Any] = {"ladder": _LADDER} if ladder else {"act": ["gate"], "lease_minutes": 30}
    return ActionsSettings.model_validate(
        {
            "mode": mode,
            "actions": [NamedRate(kind="x", name="gate"), NamedAction(kind="x", name="jobs")],
            "standing": [_POLICY] if standing else [],
            "notifiers": [NamedNotifier(kind="x", name="chat")],
            "routes": [{"notify": ["chat"], **what}],
            "approvers": {"owners": {"people": ["ana"]}},
            "telling": {"group_wait_seconds": 0, "group_by": [], "inhibit": False, "repeat_hours": 0},
            "limits": {
                "criticality": [
                    {"match": {"team": "search"}, "is": "non_critical"},
                    {"match": {"team": "pay"}, "is": "critical"},
                ],
                "max_percent_of_jobs": 75,
            },
        }
    )


class Story:
    """`run` tells it; `wrong` then says all that does not hold."""

    def __init__(
        self,
        seed: int,
        mode: str,
        *,
        ladder: bool,
        kill_first_at: str = "",
        refuse_first_at: tuple[str, str] = ("", ""),
        standing: bool = False,
    ) -> None:
        self.standing = standing
        self.trouble = Trouble(seed, kill_first_at, refuse_first_at)
        self.rng, self.mode = self.trouble.rng, mode
        self.log, self.clock = ChaoticLog(self.trouble), ManualClock(T0)
        self.trouble.steady = self.clock.steady
        self.settings = settings(mode, ladder=ladder, standing=standing)
        self.gate = Gate("gate", "shave", LIMITS, 10, lambda alert: [alert.tags["api_key"]])
        self.jobs = Gate(
            "jobs", "pause", dict(JOBS), 0, lambda alert: [j for j in JOBS if j.startswith(alert.tags["team"])]
        )
        self.chat = Channel(hook=self.trouble.at)
        for gate in (self.gate, self.jobs):
            gate.trouble, gate.watch = self.trouble, self._about_to_apply
        self.runner, self.is_open = self._new_runner(), False
        self.firing: dict[str, Alert] = {}
        self.over: dict[str, Alert] = {}
        self.commands: list[Message] = []
        #: Its burn does not fall, whatever is done.
        self.stubborn = self.rng.choice(["", "a1", "a2", "a3"])
        #: Actions a person with the right to do so has said yes to, and alerts whose action a person undid.
        self.approved: set[str] = set()
        self._numbers = itertools.count(1000)
        self.wrong: list[str] = []

    def _new_runner(self) -> ActionsRunner:
        actions = {"gate": self.gate, "jobs": self.jobs}
        return ActionsRunner(self.log, self.clock, self.settings, actions, {"chat": self.chat})

    async def run(self) -> None:
        for _ in range(self.rng.randint(8, 24)):
            await self.clock.advance(self.rng.choice([1.0, 20.0, 60.0, 60.0, 300.0, 900.0]))
            await self._alerts()
            if self.standing and self.rng.random() < 0.3:
                await self._use(self.rng.choice(_HIGHEST))
            if self.rng.random() < 0.3:
                await self._person()
            if self.rng.random() < 0.08:
                self.clock.jump(self.rng.choice([-7200.0, -1200.0, -60.0, 60.0, 7200.0]))
            if self.rng.random() < 0.1:
                self.trouble.refuse_for_a_while(self.rng.choice(["gate", "jobs"]))
            if self.rng.random() < 0.1:
                await self._reap()
            if self.rng.random() < 0.9:
                await self._live(self.rng.randint(1, 3))
        await self._calm_down()
        self._look()

    # --- the daemon and the reaper ---

    async def _live(self, passes: int) -> None:
        for _ in range(passes):
            try:
                if not self.is_open:
                    await self.runner.open()
                    self.is_open = True
                await self._step()
            except KilledError:
                self.runner, self.is_open = self._new_runner(), False
                if self.rng.random() < 0.4:
                    await self._person()
            except TransientError:  # as `run` does when the log is out of reach
                with contextlib.suppress(TransientError):
                    await self.runner.close()
                self.is_open = False

    async def _step(self) -> None:
        """As `run` does: facts are taken in while the workers are at work, in the middle of any call."""
        await self.runner.take_in(0.0)
        meanwhile = self._meanwhile() if self.trouble.on and self.rng.random() < 0.15 else None
        works = [passes.once() for passes in self.runner._passes]
        results = await asyncio.gather(*works, *([meanwhile] if meanwhile else []), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _meanwhile(self) -> None:
        for _ in range(self.rng.randint(0, 12)):
            await asyncio.sleep(0)
        if self.firing and self.rng.random() < 0.3:
            await self._resolve(self.rng.choice(sorted(self.firing)))
        else:
            await self._command(self.rng.choice(["halt", "resume", "resume"]))
        await self.runner.take_in(0.0)

    async def _reap(self) -> None:
        reaper = Reaper(self.log, self.clock, {"gate": self.gate, "jobs": self.jobs})
        with contextlib.suppress(KilledError, TransientError):
            await reaper.once()

    async def _restore_all(self) -> None:
        """As the command does: the daemon is asked, and what it does not do is done without it."""
        reaper = Reaper(self.log, self.clock, {"gate": self.gate, "jobs": self.jobs})
        with contextlib.suppress(KilledError, TransientError):
            for entry in await reaper.held():
                await self._command("undo", action_id=entry.action_id)
            await reaper.restore_all("ana")

    async def _calm_down(self) -> None:
        """Nothing goes wrong any more, all incidents end, and nobody asks for anything."""
        self.trouble.on = False
        self.gate.deaf, self.jobs.deaf = set(), set()
        self.clock.jump(self.clock.steady() - self.clock.now())
        for alert_id in list(self.firing):
            await self._resolve(alert_id)
        if self.standing:
            await self._use(0.0)  # nobody wants a ceiling any more
            await self._command("resume")
        for _ in range(_CALM_STEPS):
            await self.clock.advance(_CALM_S)
            await self._live(1)
        if self.standing:  # what a person undid counts for a week
            await self.clock.advance(_WEEK_S)
            await self._live(3)

    async def _use(self, highest: float) -> None:
        """Every key has a highest minute, and comes near its ceiling today."""
        for team, key in SUBJECTS.values():
            tags, now = {"team": team, "project": "p", "api_key": key}, self.clock.now()
            peak = PrincipalPeak(
                scope="key", tags=tags, at=now, highest_per_minute=highest, today_per_minute=1.7 * highest, known_days=9
            )
            await self.log.say(Message(PEAKS, encode(peak), key=key.encode()))

    # --- the incidents ---

    async def _alerts(self) -> None:
        """Each minute something new: an incident begins, goes on at a rate that the limits leave, or is over."""
        fresh = [alert_id for alert_id in SUBJECTS if alert_id not in self.firing | self.over]
        if fresh and self.rng.random() < 0.6:
            team, key = SUBJECTS[alert_id := self.rng.choice(fresh)]
            at = self.clock.steady()
            tags = {"team": team, "project": "p", "api_key": key}
            self.firing[alert_id] = an_alert(
                alert_id=alert_id, fingerprint=f"f-{alert_id}", revision=0, tags=tags, fired_at=at, started_at=at
            )
        for alert_id, alert in list(self.firing.items()):
            if self.rng.random() < 0.05:
                await self._resolve(alert_id)
                continue
            key = alert.tags["api_key"]
            limit = self.gate.values.get(key)
            is_low = limit is not None and limit <= 10 and alert_id != self.stubborn
            burn = 14.0 if is_low else 240.0
            await self._tell(alert_id, usd_per_hour=burn)

    async def _resolve(self, alert_id: str) -> None:
        await self._tell(alert_id, status="resolved", usd_per_hour=12.0, resolved_at=self.clock.steady())
        self.over[alert_id] = self.firing.pop(alert_id)

    async def _tell(self, alert_id: str, **changes: Any) -> None:
        known = self.firing[alert_id]
        tags, begun = known.tags, {"fired_at": known.fired_at, "started_at": known.started_at}
        about = {"alert_id": alert_id, "fingerprint": known.fingerprint, "tags": tags, **begun}
        alert = an_alert(revision=known.revision + 1, updated_at=self.clock.steady(), **about, **changes)
        self.firing[alert_id] = alert
        await self.log.say(alert_message(alert))

    # --- people ---

    async def _person(self) -> None:
        """Somebody does something; what they set never looks like what Curb would set or has found."""
        ledger = Ledger(decoded(self.log))
        gate, subject = self._subject(ledger)
        known = [state.last.action_id for state in ledger.actions()]
        asked = [state.last.action_id for state in ledger.actions() if state.is_pending]
        seldom = ["edit", "make again", "delete", "deaf", "undo", "halt", "resume", "resume", "again", "restore all"]
        what = self.rng.choice(seldom + ["answer"] * 4)
        if what == "edit" and subject in gate.values:
            gate.set_by_a_person(subject, next(self._numbers))
        elif what == "make again" and subject in gate.values:
            gate.make_again(subject)
        elif what == "delete" and self.rng.random() < 0.3:
            gate.delete(subject)
        elif what == "deaf":
            gate.deaf ^= {subject}
        elif what == "undo" and known:
            await self._command("undo", action_id=self.rng.choice(known))
        elif what in ("halt", "resume"):
            await self._command(what)
        elif what == "restore all":
            await self._restore_all()
        elif what == "again" and self.commands:
            await self.log.say(self.rng.choice(self.commands))
        elif what == "answer" and (asked or known):
            await self._answer(self.rng.choice(asked or known))

    def _subject(self, ledger: Ledger) -> tuple[Gate, str]:
        """Mostly one that Curb has its hands on."""
        held = [state.last.plan.target for state in ledger.actions() if state.is_open]
        if held and self.rng.random() < 0.8:
            name, _, subject = self.rng.choice(held).partition("/")
            return (self.gate if name == "gate" else self.jobs), subject
        gate = self.rng.choice([self.gate, self.jobs])
        return gate, self.rng.choice(sorted(gate.values) or [""])

    async def _answer(self, action_id: str) -> None:
        by, kind = self.rng.choice(["ana", "ana", "eve"]), self.rng.choice(["approve", "approve", "deny"])
        if (by, kind) == ("ana", "approve"):
            self.approved.add(action_id)
        for _ in range(self.rng.choice([1, 1, 2])):
            await self._command(kind, by=by, action_id=action_id)

    async def _command(self, kind: str, by: str = "ana", **args: str) -> None:
        number = next(self._numbers)
        message = command_message(kind, self.clock.now(), id=f"{kind}-{number}", by=by, **args)
        self.commands.append(message)
        await self.log.say(message)

    # --- what must hold ---

    def _about_to_apply(self, plan: Plan, found: int | None) -> None:
        """It must be on the ledger, allowed, approved, and not stopped by anybody."""
        ledger = Ledger(decoded(self.log))
        holder = ledger.holder(plan.target)
        if holder is None or holder.last.plan != plan:
            self.wrong.append(f"{plan.target} is changed and not on the ledger")
            return
        entry = holder.last
        facts = self.runner._memory.inbox  # what this process knows: what it cannot know yet is no defect
        team = entry.tags["team"]
        checks = {
            "it is not planned": entry.state == "planned",
            "Curb is halted": facts.halted is None,
            "the alert is over": bool(entry.standing) or facts.is_firing(entry.alert_id),
            "it raises a limit": found is None or plan.after["n"] < found,
            f"{team} is not marked non_critical": team == "search",
            "nobody approved it": self.mode != "approve" or self._is_approved(entry),
            "it is shadow mode": self.mode != "shadow",
            "its lease is over": (entry.lease_expires_at or 0.0) > self.clock.now(),
        }
        self.wrong += [f"{plan.target} is changed although {why}" for why, holds in checks.items() if not holds]

    def _is_approved(self, entry: LedgerEntry) -> bool:
        """By who may, for it or for the ask that it belongs to."""
        if entry.standing:
            asks = {e.action_id for e in decoded(self.log) if isinstance(e, LedgerEntry) and e.do == "allow ceilings"}
            return entry.approved_by == "ana" and bool(asks & self.approved)
        return entry.approved_by == "ana" and (
            entry.action_id in self.approved
            or any(
                isinstance(e, LedgerEntry) and e.action_id in self.approved and entry.plan.target in e.also
                for e in decoded(self.log)
            )
        )

    def _look(self) -> None:
        messages = decoded(self.log)
        entries = [each for each in messages if isinstance(each, LedgerEntry)]
        ledger = Ledger(messages)
        self._look_at_the_ledger(entries, ledger)
        self._look_at_the_world(entries)
        self._look_at_messages(ledger)
        left = [k for k, v in {m.key: m.value for m in self.log.of(STATE)}.items() if v]
        for prefix in (ALERT_PREFIX, UNDO_PREFIX, APPROVALS_PREFIX, b"actions/ledger/"):
            self.wrong += [f"{key.decode()} is kept for ever" for key in left if key.startswith(prefix)]

    def _look_at_the_ledger(self, entries: list[LedgerEntry], ledger: Ledger) -> None:
        """Every step follows from the one before; one action at a time per target; nothing is left open."""
        states: dict[str, list[str]] = defaultdict(list)
        so_far = Ledger()
        for entry in entries:
            path = states[entry.action_id]
            is_about_to_end = entry.overdue or (entry.state in OPEN and entry.ending)
            if (not path or path[-1] != entry.state) and not is_about_to_end:
                path.append(entry.state)
            so_far.add(entry)
            held = [s.last.plan.target for s in so_far.actions() if s.is_held]
            if len(set(held)) < len(held):
                self.wrong.append(f"two actions hold one of {sorted(held)}")
        for action_id, path in states.items():
            if not all(after in NEXT[before] for before, after in itertools.pairwise(["", *path])):
                self.wrong.append(f"{action_id} went {' → '.join(path)}")
        for state in ledger.actions():
            if state.is_held or state.is_pending:
                self.wrong.append(f"{state.last.plan.target} is still {state.last.state}")

    def _look_at_the_world(self, entries: list[LedgerEntry]) -> None:
        """Everything is as people left it, no action was done twice, and what a person undid was not done again."""
        for gate in (self.gate, self.jobs):
            if gate.values != gate.people:
                self.wrong.append(f"{gate.name} is {gate.values}, people left {gate.people}")
            applied = [change.plan for change in gate.changes if change.verb == "apply"]
            planned = {e.action_id: e.plan for e in entries if e.state == "planned"}
            for plan in applied:
                times, ids = applied.count(plan), sum(other == plan for other in planned.values())
                if times > ids:
                    self.wrong.append(f"{plan.target} was changed {times} times by {ids} actions")
        undone: set[tuple[str, str]] = set()
        begun: set[str] = set()
        for entry in entries:
            about = (entry.fingerprint if entry.standing else entry.alert_id, entry.plan.target)
            if entry.state == "planned" and entry.action_id not in begun:
                begun.add(entry.action_id)
                if about in undone:
                    self.wrong.append(f"{about} was done again after a person undid it")
            if entry.state == "restored" and entry.by == "ana":
                undone.add(about)

    def _look_at_messages(self, ledger: Ledger) -> None:
        """One message per alert, no text twice, and the newest says how it ended.

        With approvals an edit may come back to what was said before: nothing done, somebody asked, nothing done yet.
        """
        keys = [notice.key for how, notice in self.chat.history if how == "post" or self.mode != "approve"]
        self.wrong += [f"message {key} was sent twice" for key in set(keys) if keys.count(key) > 1]
        last: dict[str, Any] = {}
        for how, notice in self.chat.history:
            if how == "post" and notice.alert.alert_id in last:
                self.wrong.append(f"{notice.alert.alert_id} was posted twice")
            last[notice.alert.alert_id] = notice
        for alert_id in self.over:
            told = ledger.last_notice("chat", alert_id)
            if told is None or told.state == "failed":
                continue
            newest = last.get(alert_id)
            if told.state != "sent" or newest is None or newest.alert.status != "resolved":
                self.wrong.append(f"{alert_id}: people were not told that it is over ({told.state})")
                continue
            told_of = {entry.action_id: entry.state for entry in newest.ledger}
            true = {state.last.action_id: state.last.state for state in ledger.for_alert(alert_id)}
            if told_of != true:
                self.wrong.append(f"{alert_id}: people were told {told_of}, true is {true}")


_ENDS = {"restored", "drift", "failed"}
#: What may come after each state; a reaper and a daemon may both say that it is restored, with the same word.
NEXT: dict[str, set[str]] = {
    "": {"planned", "shadow", "skipped", "proposed", "failed"},
    "proposed": {"planned", "denied", "approved"},
    "denied": set(),
    "approved": set(),
    "planned": {"applied", "skipped", *_ENDS},
    "applied": {"effective", "ineffective", *_ENDS},
    "effective": _ENDS,
    "ineffective": {*_ENDS, "effective"},
    # By a reaper; then a person changes the target, and a daemon that had not heard of it looks.
    "restored": {"drift"},
    "drift": set(),
    "failed": set(),
    "shadow": set(),
    "skipped": set(),
}
