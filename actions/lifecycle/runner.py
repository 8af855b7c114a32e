"""The actions runner: one active process reads alerts and commands, notifies people, and curbs what the routes allow.

The order of appends and commits, and why any kill point is harmless:

1. **Inbox first.** What was fetched (newest revision of each alert, halt, undo requests, command ids) is committed to
   curb.state together with the positions, in one atomic step, before anything is done about it. A crash before the
   commit reads the messages again; a crash after it finds the facts in the table. Nothing is lost, nothing waits.
2. **Work is derived.** What should be done follows from facts, ledger and clock alone (`leases.py`, `outbox.py`), and
   is worked out again in every pass. There is no queue that a crash could drop.
3. **Plan before apply.** `planned`, with absolute values and the end of the lease, is durable before the target is
   touched. After a crash a plan without an outcome is read back: in force → `applied`; untouched → applied again with
   the same values, if its alert still fires; otherwise undone; changed by somebody → `drift`, left alone.
4. **Undo is compare-and-swap**, so repeating it after a crash between the call and `restored` changes nothing.
5. **`sending` before send**, `sent` after; in between `find` says whether the message went out.

Being active means owning the only partition of curb.alerts; curb.commands has one partition too, and the group's
assignor must give both to the same member (Kafka's range assignor does). A standby takes over by folding the log.

Each action and each channel has a task of its own, so a gateway or Slack that is down delays nothing but itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from curb.actions.action import Action
from curb.actions.ledger.inbox_state import (
    ALERT_PREFIX,
    APPROVALS_PREFIX,
    EXTEND_PREFIX,
    HALTED_KEY,
    PROPOSE_PREFIX,
    SNOOZE_PREFIX,
    UNDO_PREFIX,
    freeze_message,
    read_messages,
    state_message,
)
from curb.actions.ledger.ledger import ActionState
from curb.actions.ledger.memory import Memory, kept_key
from curb.actions.lifecycle.lease import ActionWorker
from curb.actions.notify.outbox import NoticeWorker
from curb.actions.notify.protocol import Notifier
from curb.actions.policy.guards import freeze
from curb.actions.settings import ActionsSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log, Message, Reader, TopicPartition
from curb.stream.log.topics import ALERTS, COMMANDS, STATE

logger = logging.getLogger(__name__)

GROUP = "curb-actions"
#: Seconds that what ended is kept in memory; the log keeps it. By hand: an alert may open again within a day.
_KEEP_S = 24 * 3600.0
#: Seconds on the wall clock before the log is tried again, doubled up to the cap. By hand.
_LOG_RETRY_S = 0.5
#: Seconds, the cap. By hand: half a minute after the log is back, work goes on.
_LOG_RETRY_CAP_S = 30.0
#: Seconds on the wall clock; after so long in sound work the next wait is short again. By hand: more than the cap.
_SOUND_S = 60.0
#: Seconds between two reads of the highest minutes of principals. By hand: they change once a day and with growth.
_PEAKS_S = 60.0
#: Newest actions that `view` shows. By hand: a page.
_RECENT = 50


class ActionsRunner:
    """Runs the configured actions and notifiers, by name. It does not own them: whoever built them closes them.

    `poll_s` is how often, in wall-clock seconds, due work is looked for; new facts wake the tasks at once.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        settings: ActionsSettings,
        actions: Mapping[str, Action],
        notifiers: Mapping[str, Notifier],
        *,
        poll_s: float = 0.25,
        call_timeout_s: float = 15.0,
    ) -> None:
        self._log, self._clock, self._settings, self._poll_s = log, clock, settings, poll_s
        self._memory = Memory(log)
        self._action_workers = [
            ActionWorker(name, action, self._memory, clock, settings, call_timeout_s=call_timeout_s)
            for name, action in actions.items()
        ]
        self._notice_workers = [
            NoticeWorker(name, notifier, self._memory, clock, settings, call_timeout_s=call_timeout_s)
            for name, notifier in notifiers.items()
        ]
        works = [worker.work for worker in self._action_workers] + [worker.work for worker in self._notice_workers]
        self._passes = [_Passes(work) for work in works]
        #: Why the log can be neither read nor written now; empty while it can.
        self.problem = ""
        self._reader: Reader | None = None
        self._owns_alerts = False
        #: Held while memory is rebuilt: two at a time could lose what is written between them.
        self._loading = asyncio.Lock()
        #: Event time of the newest alert revision read since the start, and of the one at the last look for what may
        #: be forgotten; when that was, on the steady clock.
        self._newest = self._newest_before = 0.0
        self._looked_at = clock.steady()
        #: When peaks were read last, likewise.
        self._peaks_at = clock.steady()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set. Running steps are finished; leases stay, the next start goes on with them.

        While the log cannot be reached nothing is done: what cannot be written down must not be done.
        """
        tasks = [asyncio.create_task(passes.run(self._poll_s)) for passes in self._passes]
        loop, wait_s = asyncio.get_running_loop(), _LOG_RETRY_S
        try:
            while not stop.is_set():
                began = loop.time()
                try:
                    await self._run_once(stop, tasks)
                except TransientError as error:
                    wait_s = _LOG_RETRY_S if loop.time() - began > _SOUND_S else wait_s
                    self.problem = str(error)
                    extra = {"group": GROUP, "error": str(error), "wait_s": wait_s}
                    logger.warning("log out of reach", extra=extra)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), wait_s)
                    wait_s = min(_LOG_RETRY_CAP_S, wait_s * 2)
        finally:
            for passes in self._passes:
                passes.end()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_once(self, stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
        try:
            await self.open()
            while not stop.is_set():
                self._raise_if_dead(tasks)
                was_new = await self.take_in(timeout_s=self._poll_s)
                self.problem = ""
                if was_new:
                    for passes in self._passes:
                        passes.wake()
        finally:
            await self.close()

    async def open(self) -> None:
        self._reader = await self._log.reader(
            GROUP, [ALERTS, COMMANDS], on_assign=self._on_assign, on_revoke=self._on_revoke
        )

    async def close(self) -> None:
        """Stand by, finish the running steps and leave the group."""
        await self._stand_by()
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def step(self, timeout_s: float = 0.0) -> bool:
        """Take in what is there and do once all that is due: what `run` does in tasks, in order. For replays.

        True when there was something new.
        """
        was_new = await self.take_in(timeout_s)
        for passes in self._passes:
            await passes.once()
        return was_new

    @property
    def is_up_to_date(self) -> bool:
        """Whether this process is the active one and has read all there is."""
        return self._memory.active and self._memory.caught_up

    def view(self) -> dict[str, Any]:
        """Plain data for the console and the HTTP API: halted, open leases, recent entries, what cannot be reached."""
        problems = {key: text for worker in self._action_workers for key, text in worker.problems.items()}
        problems |= {key: text for worker in self._notice_workers for key, text in worker.problems.items()}
        return _view(self._memory, self._settings, problems | self._orphans())

    # --- intake ---

    async def take_in(self, timeout_s: float) -> bool:
        """Fetch, commit the facts with the positions, then remember them. True when there was something new.

        TransientError when the log cannot be reached: close and open again; what was fetched comes again.
        """
        if self._reader is None:
            raise RuntimeError("open() comes first")
        reader = self._reader
        if self._memory.in_doubt and self._memory.active:
            await self._read_again()
        if self._memory.active and self._clock.steady() >= self._peaks_at + _PEAKS_S:
            await self._read_peaks()
            await self._memory.read_names()
        known = set(self._memory.inbox.alerts)
        messages = await reader.fetch(500, timeout_s)
        updates = read_messages(messages, self._memory.inbox, now=self._clock.now())
        if self._memory.active:
            changed = {message.key for message in updates}
            updates += [message for message in self._forgettable() if message.key not in changed]
            updates += self._freeze() if HALTED_KEY not in changed else []
        if messages or updates:
            await reader.commit(updates)
        for message in updates:
            if message.topic == STATE:
                self._memory.inbox.set(message.key, message.value)
        if self._memory.active and self._memory.inbox.alerts.keys() - known:
            await self._memory.read_names()  # before the first word about it
        self._newest = max([self._newest, *(fact.alert.updated_at for fact in self._memory.inbox.alerts.values())])
        if messages or not self._memory.caught_up:
            self._memory.caught_up = not await reader.lag()
        self._memory.publish_gauges()
        return bool(messages)

    async def _read_peaks(self) -> None:
        """By which ceilings are set; without a policy nobody needs them."""
        if self._settings.standing:
            await self._memory.read_peaks()
        else:
            self._memory.peaks = []
        self._peaks_at = self._clock.steady()

    async def _read_again(self) -> None:
        """Memory from the log, while no step runs that could write to either."""
        async with self._loading:
            await self._stand_by()
            await self._memory.load(self._clock.now())
            self._memory.active = self._owns_alerts  # another process may have got them meanwhile

    def _freeze(self) -> list[Message]:
        """The halt that Curb gives itself when it acts abnormally often or in vain."""
        inbox, now = self._memory.inbox, self._clock.now()
        why = freeze(self._memory.ledger, self._settings.limits, resumed_at=inbox.resumed_at, now=now)
        if inbox.halted is not None or not why:
            return []
        logger.error("halted by itself: `curb resume` lifts it", extra={"reason": why})
        return [freeze_message(why, now)]

    def _forgettable(self) -> list[Message]:
        """Deletes facts that are over: resolved, nothing in force, everybody notified; undo requests dealt with."""
        memory = self._memory
        gone: list[Message] = []
        keep: set[str] = set()
        for alert_id, fact in memory.inbox.alerts.items():
            is_over = fact.alert.status == "resolved" and not any(
                state.is_held or state.is_pending for state in memory.ledger.for_alert(alert_id)
            )
            if is_over and not any(worker.pending(fact) for worker in self._notice_workers):
                keys = {kept_key(entry) for entry in memory.ledger.about(alert_id)}
                gone += [state_message(key, None) for key in (ALERT_PREFIX + alert_id.encode(), *sorted(keys))]
            else:
                keep.add(alert_id)
        answered = {command_id for worker in self._action_workers for command_id in worker.answered}
        for action_id, command in memory.inbox.undo_requests.items():
            state = memory.ledger.action(action_id)
            if state is None or not state.is_held or command.id in answered:
                gone.append(state_message(UNDO_PREFIX + action_id.encode(), None))
        for action_id, command in memory.inbox.extensions.items():
            state = memory.ledger.action(action_id)
            if state is None or not state.is_held or state.has_answered(command.id):
                gone.append(state_message(EXTEND_PREFIX + action_id.encode(), None))
        gone += [state_message(APPROVALS_PREFIX + each.encode(), None) for each in self._dealt_with()]
        for key, command in memory.inbox.proposals.items():
            states = memory.ledger.for_alert(command.args["alert_id"])
            dealt_with = any(state.has_answered(command.id) for state in states)
            if dealt_with or not memory.inbox.is_firing(command.args["alert_id"]):
                gone.append(state_message(PROPOSE_PREFIX + key.encode(), None))
        over = [alert_id for alert_id in memory.inbox.snoozes if alert_id not in keep]
        gone += [state_message(SNOOZE_PREFIX + alert_id.encode(), None) for alert_id in over]
        gone += memory.forget_ceilings(self._clock.now())
        if self._clock.steady() - self._looked_at >= _KEEP_S:
            # What had ended at the last look, and a day has passed since in this process: a backlog is read faster than
            # time passes, and unevenly, so that an alert that was over long ago may go on in what is read next.
            memory.ledger.forget(self._newest_before, frozenset(keep))
            self._newest_before = min(self._newest, self._clock.now())
            self._looked_at = self._clock.steady()
        return gone

    def _dealt_with(self) -> list[str]:
        """Actions about which no answer waits any more."""
        memory, found = self._memory, []
        for action_id, commands in memory.inbox.approvals.items():
            state = memory.ledger.action(action_id)
            waits = state is not None and state.last.state in ("proposed", "denied")
            if state is None or not waits or all(state.has_answered(command.id) for command in commands):
                found.append(action_id)
        return found

    async def _on_assign(self, partitions: frozenset[TopicPartition]) -> None:
        topics = {partition.topic for partition in partitions}
        if topics and topics != {ALERTS, COMMANDS}:
            # Going on would mean a process that acts and never hears of the kill switch.
            raise PermanentError(f"group {GROUP}: {ALERTS} and {COMMANDS} must be assigned to the same member (range)")
        if topics:
            self._owns_alerts = True
            async with self._loading:
                for worker in self._action_workers:
                    worker.take_over()
                await self._memory.load(self._clock.now())
                await self._read_peaks()
                await self._memory.read_names()
                self._memory.active, self._memory.caught_up = self._owns_alerts, False
            self._report_orphans()
            logger.info("actions runner is active", extra={"open_leases": len(self._memory.ledger.open_actions())})

    def _orphans(self) -> dict[str, str]:
        """Open actions that no configured action can end, by id."""
        names = {worker.name for worker in self._action_workers}
        text = "the action {!r} is no longer configured: its lease cannot end until it is configured again"
        plans = {state.last.action_id: state.last.plan for state in self._memory.ledger.open_actions()}
        return {action_id: text.format(plan.action) for action_id, plan in plans.items() if plan.action not in names}

    def _report_orphans(self) -> None:
        for action_id, problem in self._orphans().items():
            logger.error("lease without action", extra={"action_id": action_id, "problem": problem})

    async def _on_revoke(self, partitions: frozenset[TopicPartition]) -> None:
        if any(partition.topic == ALERTS for partition in partitions):
            self._owns_alerts = False
            await self._stand_by()

    async def _stand_by(self) -> None:
        """Begin nothing more, and return when no step is running."""
        if self._memory.active:
            self._memory.active = False
            logger.info("actions runner stands by")
        for passes in self._passes:
            await passes.idle()

    def _raise_if_dead(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError("a task of the actions runner ended by itself")


class _Passes:
    """Runs one worker's passes, one at a time: when woken, and every `poll_s` for what time makes due."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._one_at_a_time = asyncio.Lock()
        self._woken = asyncio.Event()
        self._ended = False

    def wake(self) -> None:
        self._woken.set()

    def end(self) -> None:
        self._ended = True
        self._woken.set()

    async def once(self) -> None:
        async with self._one_at_a_time:
            await self._work()

    async def idle(self) -> None:
        """Returns when no pass is running."""
        async with self._one_at_a_time:
            return

    async def run(self, poll_s: float) -> None:
        while not self._ended:
            self._woken.clear()
            await self.once()
            if self._ended:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), poll_s)


def _view(memory: Memory, settings: ActionsSettings, problems: dict[str, str]) -> dict[str, Any]:
    """Keys: active, mode, halted (None or by, at, reason), open, proposed, ceilings, recent (newest first), firing,
    problems."""
    halted = memory.inbox.halted
    every = sorted(memory.ledger.actions(), key=lambda state: state.last.at, reverse=True)
    states = [state for state in every if not state.is_standing or state.is_pending]
    return {
        "active": memory.active,
        "mode": settings.mode,
        "halted": None
        if halted is None
        else {"by": halted.by, "at": halted.at, "reason": halted.args.get("reason", "")},
        "open": [_row(state) for state in states if state.is_held],
        "proposed": [_row(state) for state in states if state.is_pending],
        "ceilings": [_row(state) for state in every if state.is_standing and state.is_held],
        "recent": [_row(state) for state in states[:_RECENT]],
        "firing": [alert.alert_id for alert in memory.inbox.firing()],
        "problems": dict(problems),
    }


def _row(state: ActionState) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(state.last)
    row["applied_at"] = state.applied_at
    return row
