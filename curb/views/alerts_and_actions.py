"""Alerts, actions and feedback folded from the log: the newest revision of each alert, every entry of each action."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from curb.stream.errors import TransientError
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log, Message, TopicPartition
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import ActionsMessage, Alert, Annotation, Feedback, LedgerEntry, NoticeEntry

logger = logging.getLogger(__name__)

#: Alerts and actions kept in memory; older ones stay on the log.
_KEEP = 10_000
#: Moments of an alert whose burn is kept; of more, every second is dropped. By hand: more than a picture shows.
_MOST_MOMENTS = 500
#: Changes whose ids are kept for pages that are open. By hand: more than come between two looks of a page.
_NEWEST = 200


class Changes:
    """What is new in a view: how many records came, and what the newest are about."""

    def __init__(self) -> None:
        self.count = 0
        #: (number, "alerts" or "actions", id), oldest first.
        self._newest: deque[tuple[int, str, str]] = deque(maxlen=_NEWEST)

    def note(self, kind: str, id: str) -> None:
        """One record came."""
        self.count += 1
        self._newest.append((self.count, kind, id))

    def since(self, count: int) -> dict[str, list[str]]:
        """Ids of the alerts and actions that changed after `count` records, as far as they are remembered."""
        found: dict[str, list[str]] = {"alerts": [], "actions": []}
        for number, kind, id in self._newest:
            if number > count and id not in found[kind]:
                found[kind].append(id)
        return found


class LogView:
    """A fold over alerts and ledger. `changed` is called after each alert or ledger entry, for the console."""

    def __init__(self, changed: Callable[[Alert | LedgerEntry | NoticeEntry], None] | None = None) -> None:
        self.alerts: OrderedDict[str, Alert] = OrderedDict()
        self.actions: OrderedDict[str, list[LedgerEntry]] = OrderedDict()
        #: By id: deploys, launches and notes, in the order in which they were recorded.
        self.annotations: OrderedDict[str, Annotation] = OrderedDict()
        #: By alert: what people said of it, oldest first.
        self.feedback: OrderedDict[str, list[Feedback]] = OrderedDict()
        #: By alert: time of each revision, $/h, $/h expected, one after the other.
        self._burns: OrderedDict[str, array[float]] = OrderedDict()
        self._changed = changed
        self.changes = Changes()

    def apply(self, message: Message) -> None:
        """Take in one message of alerts, actions or commands; what cannot be read is skipped and logged."""
        if message.topic == COMMANDS:  # the runner reports what of them cannot be read
            for each in read_knowledge(message.value, lambda *_: None):
                if isinstance(each, Feedback):
                    kept = [said for said in self.feedback.get(each.alert_id, []) if said.id != each.id]
                    self.feedback[each.alert_id] = [*kept, each]
                    _trim(self.feedback)
                elif isinstance(each, Annotation):
                    self.annotations[each.id] = each
                    _trim(self.annotations)
            return
        kind = Alert if message.topic == ALERTS else ActionsMessage

        def skip(number: int, line: bytes, why: str) -> None:
            logger.warning("unreadable record", extra={"topic": message.topic, "offset": message.offset, "why": why})

        for record in decode_lines(message.value, kind, skip):  # type: ignore[arg-type]
            if isinstance(record, Alert):
                self._take_alert(record)
                self.changes.note("alerts", record.alert_id)
            elif isinstance(record, LedgerEntry):
                entries = self.actions.setdefault(record.action_id, [])
                if entries and record.renewals > entries[-1].renewals > 0:
                    entries.pop()  # of months of renewals the newest is kept
                entries.append(record)
                _trim(self.actions)
                self.changes.note("actions", record.action_id)
            if self._changed is not None:
                self._changed(record)

    def _take_alert(self, alert: Alert) -> None:
        known = self.alerts.get(alert.alert_id)
        if known is None or known.revision <= alert.revision:
            self.alerts[alert.alert_id] = alert
            _trim(self.alerts)
            self._note_burn(alert)

    def _note_burn(self, alert: Alert) -> None:
        burn = self._burns.setdefault(alert.alert_id, array("d"))
        if not burn or burn[-3] < alert.updated_at:
            burn.extend((alert.updated_at, alert.usd_per_hour, alert.expected_usd_per_hour))
        if len(burn) > 3 * _MOST_MOMENTS:
            kept = [burn[i : i + 3] for i in range(0, len(burn), 6)]
            self._burns[alert.alert_id] = array("d", (value for each in kept for value in each))
        _trim(self._burns)

    def burn_of(self, alert_id: str) -> list[tuple[float, float, float]]:
        """Time, $/h and $/h expected at the revisions of an alert, oldest first."""
        burn = self._burns.get(alert_id, array("d"))
        return [(burn[i], burn[i + 1], burn[i + 2]) for i in range(0, len(burn), 3)]

    def entries_of(self, alert_id: str) -> list[LedgerEntry]:
        """Every entry of the actions on an alert, in order of time."""
        found = [entry for entries in self.actions.values() for entry in entries if entry.alert_id == alert_id]
        return sorted(found, key=lambda entry: entry.at)

    def firing(self) -> list[Alert]:
        """Alerts that fire now, most dollars at risk first."""
        found = [alert for alert in self.alerts.values() if alert.status == "firing"]
        return sorted(found, key=lambda alert: -alert.dollars_at_risk)

    async def load(self, log: Log) -> LogView:
        """Take in everything that is on the log now."""
        for topic in (ALERTS, ACTIONS, COMMANDS):
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
        self.feedback.clear()
        self.annotations.clear()
        self._burns.clear()

        topics = [ALERTS, ACTIONS, COMMANDS]
        reader = await log.reader(group, topics)
        try:
            reader.seek({TopicPartition(topic, 0): 0 for topic in topics})
            while not stop.is_set():
                for message in await reader.fetch(500, 0.5):
                    self.apply(message)
        finally:
            await reader.close()


def _trim(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _KEEP:
        kept.popitem(last=False)
