"""The runner's memory, and the one way to write to the ledger: first the log, then the fold.

The ledger topic is history and is deleted after its retention. What is still needed of it, all that belongs to an alert
that is not over, is kept under `actions/ledger/` of the compacted curb.state as well, however long a lease or a budget
alert lasts. Loading folds both; an entry that is found twice counts once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any, cast

import msgspec

from curb.actions.ledger.inbox_state import RAISED_PREFIX, Inbox, state_message
from curb.actions.ledger.ledger import IN_FORCE, OPEN, RESPECTED_S, Ledger
from curb.stream import metrics
from curb.stream.errors import TransientError
from curb.stream.log.codec import UNREADABLE, decode_lines, encode
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import ACTIONS, ALERTS, PEAKS, STATE
from curb.stream.records.dead_letters import dead_letter, reason_for
from curb.stream.records.names import read_names
from curb.stream.records.peaks import PrincipalPeak
from curb.stream.records.spend import ActionsMessage, Alert, LedgerEntry

#: What is kept per action, and per (channel, alert, part): the entries that matter, oldest first.
KEPT_PREFIX = b"actions/ledger/"
_LEDGER_MESSAGE = cast("type[ActionsMessage]", ActionsMessage)


class Memory:
    """Facts and ledger of the active runner. `active` is False while another process holds the alerts."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.active = False
        #: False while messages wait that may resolve what seems to fire; nothing new starts until they are read.
        self.caught_up = False
        #: True when an append failed that may have been written nevertheless: the log knows, read it again.
        self.in_doubt = False
        self.inbox = Inbox()
        self.ledger = Ledger()
        #: The highest minutes of principals, as the log has them, a new list when they were read again; None
        #: before that.
        self.peaks: list[PrincipalPeak] | None = None
        #: What people call the values of tags, as the log has them, a new mapping when they were read again.
        self.names: Mapping[tuple[str, str], str] = {}
        #: Actions on a target that a higher rung of the same alert wants: undone first, and why. In memory only: who
        #: wants it finds it held again after a restart.
        self.make_way: dict[str, str] = {}
        #: Since when the burn of an alert has been normal, on the steady clock. After a restart it counts from zero.
        self.calm_since: dict[str, float] = {}
        #: Held from checking the limits until the plan is in the ledger, so that two workers never share a slot.
        self.planning = asyncio.Lock()

    @property
    def may_work(self) -> bool:
        """Whether a step may be taken: this process is the one, and knows what it has written."""
        return self.active and not self.in_doubt

    async def load(self, now: float) -> None:
        """Rebuild everything from the log; what cannot be read becomes dead letters."""
        if dead := await self.read(now):
            await self._log.append(dead)

    async def read(self, now: float) -> list[Message]:
        """Rebuild everything from the log and write nothing; the dead letters for what could not be read."""
        table = await self._log.table(STATE)
        dead: list[Message] = []
        logged = [message async for message in _ledger_messages(self._log.scan(ACTIONS), dead, now)]
        there = {encode(message) for message in logged}
        older: list[ActionsMessage] = []
        self.inbox = Inbox(table)
        unreadable = self.inbox.unreadable
        for key, value in table.items():
            if key.startswith(KEPT_PREFIX):
                older += [message for message in _kept(key, value, unreadable) if encode(message) not in there]
        dead += [_unreadable(key, table[key], why, now) for key, why in unreadable.items()]
        self.ledger, self.in_doubt = Ledger([*older, *logged]), False
        self.publish_gauges()
        return dead

    async def record(self, message: ActionsMessage) -> None:
        """Append to the ledger; on return it is durable. TransientError: it may or may not be, try again."""
        key = message.plan.target if isinstance(message, LedgerEntry) else message.channel
        messages = [Message(ACTIONS, encode(message), key=key.encode())]
        # A late word about an alert that is over and forgotten: nobody would delete what was kept of it.
        may_be_in_force = isinstance(message, LedgerEntry) and message.state in (*OPEN, "failed")
        # What became of a ceiling counts for days: `forget_ceilings` deletes it.
        is_standing = isinstance(message, LedgerEntry) and bool(message.standing)
        if message.alert_id in self.inbox.alerts or may_be_in_force or is_standing:
            messages.append(state_message(kept_key(message), [*self.ledger.before(message), message]))
        try:
            await self._log.append(messages)
        except TransientError:
            self.in_doubt = True
            raise
        known = self.ledger.action(message.action_id) if isinstance(message, LedgerEntry) else None
        was_in_force = known is not None and known.in_force
        self.ledger.add(message)
        if isinstance(message, LedgerEntry):
            if was_in_force and message.state not in IN_FORCE:
                metrics.SAVED.labels(action=message.plan.action).inc(message.saved_usd or 0.0)
                metrics.REFUSED.labels(action=message.plan.action).inc(message.rejected or 0)
            metrics.ACTIONS.labels(action=message.plan.action, state=message.state).inc()
        elif message.state != "sending":
            metrics.NOTICES.labels(channel=message.channel, state=message.state).inc()
        self.publish_gauges()

    async def keep(self, key: bytes, record: Any, *more: Message) -> None:
        """Append a fact that is not from an alert or a command, and what goes with it; on return it is durable."""
        message = state_message(key, record)
        try:
            await self._log.append([message, *more])
        except TransientError:
            self.in_doubt = True
            raise
        self.inbox.set(message.key, message.value)

    async def publish(self, alert: Alert) -> None:
        """Append an alert about a ceiling. It is known when it has been read like any other."""
        await self._log.append([Message(ALERTS, encode(alert), key=alert.fingerprint.encode())])

    async def read_peaks(self) -> None:
        """The highest minutes of all principals, as the log has them now; what cannot be read is left out."""
        table = await self._log.table(PEAKS)
        peaks = []
        for value in table.values():
            with contextlib.suppress(*UNREADABLE):
                peaks.append(msgspec.json.decode(value, type=PrincipalPeak))
        self.peaks = peaks

    async def read_names(self) -> None:
        """What people call the values of tags, as the log has them now."""
        self.names = await read_names(self._log)

    def forget_ceilings(self, now: float) -> list[Message]:
        """Drops what is over of ceilings and does not count any more; the messages that delete it from the log."""
        gone = []
        for states in self.ledger.standing().values():
            for state in states:
                newest_counts = state is states[-1] and state.last.at >= now - RESPECTED_S
                if not (state.is_held or state.is_pending or newest_counts):
                    self.ledger.drop(state.last.action_id)
                    gone.append(state_message(kept_key(state.last), None))
        old = [name for name, raised in self.inbox.raised.items() if raised.at < now - RESPECTED_S]
        return gone + [state_message(RAISED_PREFIX + name.encode(), None) for name in old]

    def publish_gauges(self) -> None:
        open_actions = self.ledger.open_actions()
        metrics.LEASES_OPEN.set(sum(not state.is_standing for state in open_actions))
        metrics.CEILINGS.set(sum(state.is_standing for state in open_actions))
        metrics.SAVING.clear()
        for state in open_actions:
            metrics.SAVING.labels(action=state.last.plan.action).inc(state.last.saved_usd or 0.0)
        metrics.LEASES_REFUSED.clear()
        for action, count in Counter(s.last.plan.action for s in self.ledger.live() if s.is_refused).items():
            metrics.LEASES_REFUSED.labels(action=action).set(count)
        metrics.HALTED.set(1 if self.inbox.halted else 0)


def _kept(key: bytes, value: bytes, unreadable: dict[bytes, str]) -> list[ActionsMessage]:
    """What is kept under a key; each entry that cannot be read is left out, and `unreadable` has the last reason."""
    try:
        entries = msgspec.json.decode(value, type=list[msgspec.Raw])
    except UNREADABLE as error:
        unreadable[key] = str(error)
        return []
    found: list[ActionsMessage] = []
    for entry in entries:
        try:
            found.append(msgspec.json.decode(entry, type=_LEDGER_MESSAGE))
        except UNREADABLE as error:
            unreadable[key] = str(error)
    return found


def _unreadable(key: bytes, value: bytes, why: str, now: float) -> Message:
    location = f"{STATE} key {key.decode(errors='replace')}"
    return dead_letter(STATE, reason_for(why), why, location=location, content=value, at=now)


def kept_key(message: ActionsMessage) -> bytes:
    """The key under which entries about the same thing are kept."""
    if isinstance(message, LedgerEntry):
        return KEPT_PREFIX + message.action_id.encode()
    part = f"/{message.part}" if message.part else ""
    return KEPT_PREFIX + f"{message.channel}/{message.alert_id}{part}".encode()


async def _ledger_messages(
    messages: AsyncIterable[Message], dead: list[Message], now: float
) -> AsyncIterator[ActionsMessage]:
    async for message in messages:

        def on_bad(number: int, line: bytes, why: str, message: Message = message) -> None:
            location = f"{message.topic}/{message.partition}/{message.offset}:{number}"
            dead.append(dead_letter(ACTIONS, reason_for(why), why, location=location, content=line, at=now))

        for record in decode_lines(message.value, _LEDGER_MESSAGE, on_bad):
            yield record
