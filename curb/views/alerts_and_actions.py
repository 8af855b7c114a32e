"""Alerts and actions folded from the log: the newest revision of each alert, every entry of each action."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from curb.stream.errors import TransientError
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log, Message, TopicPartition
from curb.stream.log.topics import ACTIONS, ALERTS
from curb.stream.records.spend import ActionsMessage, Alert, LedgerEntry, NoticeEntry

logger = logging.getLogger(__name__)

#: Alerts and actions kept in memory; older ones stay on the log.
_KEEP = 10_000


class LogView:
    """A fold over alerts and ledger. `changed` is called after each alert or ledger entry, for the console."""

    def __init__(self, changed: Callable[[Alert | LedgerEntry | NoticeEntry], None] | None = None) -> None:
        self.alerts: OrderedDict[str, Alert] = OrderedDict()
        self.actions: OrderedDict[str, list[LedgerEntry]] = OrderedDict()
        self._changed = changed

    def apply(self, message: Message) -> None:
        """Take in one message of the alerts or actions topic; what cannot be read is skipped and logged."""
        kind = Alert if message.topic == ALERTS else ActionsMessage

        def skip(number: int, line: bytes, why: str) -> None:
            logger.warning("unreadable record", extra={"topic": message.topic, "offset": message.offset, "why": why})

        for record in decode_lines(message.value, kind, skip):  # type: ignore[arg-type]
            if isinstance(record, Alert):
                self._take_alert(record)
            elif isinstance(record, LedgerEntry):
                entries = self.actions.setdefault(record.action_id, [])
                if entries and record.renewals > entries[-1].renewals > 0:
                    entries.pop()  # of months of renewals the newest is kept
                entries.append(record)
                _trim(self.actions)
            if self._changed is not None:
                self._changed(record)

    def _take_alert(self, alert: Alert) -> None:
        known = self.alerts.get(alert.alert_id)
        if known is None or known.revision <= alert.revision:
            self.alerts[alert.alert_id] = alert
            _trim(self.alerts)

    def firing(self) -> list[Alert]:
        """Alerts that fire now, most dollars at risk first."""
        found = [alert for alert in self.alerts.values() if alert.status == "firing"]
        return sorted(found, key=lambda alert: -alert.dollars_at_risk)

    async def load(self, log: Log) -> LogView:
        """Take in everything that is on the log now."""
        for topic in (ALERTS, ACTIONS):
            async for message in log.scan(topic):
                self.apply(message)
        return self

    async def follow(self, log: Log, group: str, stop: asyncio.Event) -> None:
        """Take in everything on the log and what comes after, until `stop`. `group` must be this process's own."""
        while not stop.is_set():
            try:
                await self._follow(log, group, stop)
            except TransientError as error:
                logger.warning("view reconnects", extra={"error": str(error)})
                await asyncio.sleep(1.0)

    async def _follow(self, log: Log, group: str, stop: asyncio.Event) -> None:
        self.alerts.clear()
        self.actions.clear()

        start = {TopicPartition(ALERTS, 0): 0, TopicPartition(ACTIONS, 0): 0}
        reader = await log.reader(group, [ALERTS, ACTIONS])
        try:
            reader.seek(start)
            while not stop.is_set():
                for message in await reader.fetch(500, 0.5):
                    self.apply(message)
        finally:
            await reader.close()


def _trim(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _KEEP:
        kept.popitem(last=False)
