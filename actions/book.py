"""The runner's memory, and the one way to write to the ledger: first the log, then the fold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import cast

from actions.facts import Facts
from actions.ledger import Ledger
from stream import metrics
from stream.codec import decode_lines, encode
from stream.dead_letters import dead_letter
from stream.log import Log, Message
from stream.records import ActionsMessage, LedgerEntry
from stream.topics import ACTIONS, STATE

_LEDGER_MESSAGE = cast("type[ActionsMessage]", ActionsMessage)


class Book:
    """Facts and ledger of the active runner. `active` is False while another process holds the alerts."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.active = False
        #: False while messages wait that may resolve what seems to fire; nothing new is begun until they are read.
        self.caught_up = False
        self.facts = Facts()
        self.ledger = Ledger()
        #: Held from checking the limits until the plan is in the ledger, so that two workers never share a slot.
        self.planning = asyncio.Lock()

    async def load(self, now: float) -> None:
        """Rebuild everything from the log."""
        facts = Facts(await self._log.table(STATE))
        ledger = Ledger()
        dead: list[Message] = []
        async for message in _ledger_messages(self._log.scan(ACTIONS), dead, now):
            ledger.add(message)
        if dead:
            await self._log.append(dead)
        self.facts, self.ledger = facts, ledger
        self.publish_gauges()

    async def record(self, message: ActionsMessage) -> None:
        """Append to the ledger; on return it is durable. TransientError: it may or may not be, try again."""
        key = message.plan.target if isinstance(message, LedgerEntry) else message.channel
        await self._log.append([Message(ACTIONS, encode(message), key=key.encode())])
        self.ledger.add(message)
        if isinstance(message, LedgerEntry):
            metrics.ACTIONS.labels(action=message.plan.action, state=message.state).inc()
        elif message.state != "sending":
            metrics.NOTICES.labels(channel=message.channel, state=message.state).inc()
        self.publish_gauges()

    def publish_gauges(self) -> None:
        metrics.LEASES_OPEN.set(len(self.ledger.open_actions()))
        metrics.HALTED.set(1 if self.facts.halted else 0)


async def _ledger_messages(
    messages: AsyncIterable[Message], dead: list[Message], now: float
) -> AsyncIterator[ActionsMessage]:
    async for message in messages:

        def on_bad(number: int, line: bytes, why: str, message: Message = message) -> None:
            location = f"{message.topic}/{message.partition}/{message.offset}:{number}"
            dead.append(dead_letter(ACTIONS, "invalid", why, location=location, content=line, at=now))

        for record in decode_lines(message.value, _LEDGER_MESSAGE, on_bad):
            yield record
