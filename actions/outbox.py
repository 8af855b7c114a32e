"""The outbox: what people should have been told, compared with what they were told, until both are the same.

What a message says is a function of durable state alone: the alert's status, its highest tier and the states of its
actions. So nothing has to be queued: after an outage of hours one message with the newest state goes out. `sending` is
in the ledger before the call and `sent`, with the reference, after it; a `sending` without a `sent` is first looked for
on the other side (`Notifier.find`). A channel that cannot be asked gets the same key again and must drop the copy.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable
from typing import Literal, TypeVar

from actions.book import Book
from actions.calls import Backoff, within
from actions.facts import AlertFact
from actions.ledger import ActionState
from actions.notifier import Notice, Notifier
from actions.routing import decide
from actions.settings import ActionsSettings
from stream.clock import Clock
from stream.errors import PermanentError, TransientError
from stream.records import LedgerEntry, NoticeEntry
from stream.retry import RetryPolicy

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: After this long without reaching the channel a message is given up, and the ledger says so.
GIVE_UP_S = 24 * 3600.0
_POLICY = RetryPolicy(first_s=1.0, cap_s=300.0)
_ORDER = {"page": 0, "notice": 1, "digest": 2}


def says(channel: str, fact: AlertFact, actions: list[ActionState]) -> str:
    """A short hash of what a message would say. Figures are left out: they alone are no news."""
    steps = [f"{a.last.action_id}:{a.last.state}" for a in actions if a.last.state != "planned"]
    words = [channel, fact.alert.alert_id, fact.alert.status, fact.top_tier, *steps]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:20]


def next_key(
    channel: str, fact: AlertFact, actions: list[ActionState], last: NoticeEntry | None, every_s: float
) -> str:
    """The key of the message that is due now, or "" when people know all of it.

    New figures alone are due only where the message can be edited (it has a reference), every `every_s` seconds.
    """
    alert = fact.alert
    digest = says(channel, fact, actions)
    fresh_key = f"{digest}-{alert.revision}"
    if last is None or last.key.rpartition("-")[0] != digest:
        return fresh_key
    if last.state == "sending":
        return last.key
    can_edit = last.state == "sent" and last.ref
    if can_edit and alert.status == "firing" and alert.updated_at >= last.at + every_s and fresh_key != last.key:
        return fresh_key
    return ""


class NoticeWorker:
    """Keeps one channel up to date."""

    def __init__(
        self,
        channel: str,
        notifier: Notifier,
        book: Book,
        clock: Clock,
        settings: ActionsSettings,
        *,
        call_timeout_s: float,
    ) -> None:
        self.channel = channel
        self._notifier, self._book, self._clock, self._settings = notifier, book, clock, settings
        self._call_timeout_s = call_timeout_s
        self._backoff = Backoff(clock, _POLICY)
        self.problems: dict[str, str] = {}

    def pending(self, fact: AlertFact) -> str:
        """The key of what this channel should be told about an alert now, or "" when nothing is due."""
        last = self._book.ledger.last_notice(self.channel, fact.alert.alert_id)
        if last is None and self.channel not in decide(fact.alert, self._settings).notify:
            return ""
        actions = self._book.ledger.for_alert(fact.alert.alert_id)
        return next_key(self.channel, fact, actions, last, self._settings.update_minutes * 60.0)

    async def work(self) -> None:
        """One pass over all alerts, pages first; it ends at the first sign that the channel is out of reach."""
        facts = sorted(self._book.facts.alerts.values(), key=lambda f: (_ORDER[f.top_tier], f.alert.fired_at))
        for fact in facts:
            if not self._book.active or not self._backoff.is_due(self.channel):
                return
            if self.pending(fact):
                await self._guarded(fact)

    async def _guarded(self, fact: AlertFact) -> None:
        try:
            await self._tell(fact)
        except TransientError as error:
            self._note_problem(error)
        except Exception as error:  # a defect in one notifier must not end the task that retries the others
            logger.exception("notice failed", extra={"channel": self.channel, "alert_id": fact.alert.alert_id})
            self._note_problem(error)
        else:
            self.problems.clear()
            self._backoff.succeeded(self.channel)

    def _note_problem(self, error: Exception) -> None:
        wait_s = self._backoff.failed(self.channel, error)
        self.problems = {self.channel: str(error)}
        logger.warning(
            "channel out of reach", extra={"channel": self.channel, "error": str(error), "wait_s": round(wait_s, 1)}
        )

    async def _tell(self, fact: AlertFact) -> None:
        alert_id = fact.alert.alert_id
        last = self._book.ledger.last_notice(self.channel, alert_id)
        if last is not None and last.state == "sending":
            ref = await self._call(self._notifier.find(last.key))
            if ref is not None:
                await self._record(last.key, alert_id, "sent", ref=ref)
            elif self._clock.now() - last.at > GIVE_UP_S:
                await self._record(last.key, alert_id, "failed", detail="not reached for 24 h")
        key = self.pending(fact)
        if not key:
            return
        notice = self._notice(key, fact)  # before the next await: what is said and its key belong together
        last = self._book.ledger.last_notice(self.channel, alert_id)
        if last is None or last.state != "sending" or last.key != key:
            await self._record(key, alert_id, "sending")
        await self._send(notice)

    def _notice(self, key: str, fact: AlertFact) -> Notice:
        entries: list[LedgerEntry] = []
        for action in self._book.ledger.for_alert(fact.alert.alert_id):
            entries.extend(action.entries)
        return Notice(key, fact.alert, tuple(sorted(entries, key=lambda entry: entry.at)))

    async def _send(self, notice: Notice) -> None:
        alert_id = notice.alert.alert_id
        ref = self._book.ledger.sent_ref(self.channel, alert_id)
        try:
            new_ref = await self._call(self._notifier.send(notice, ref))
        except PermanentError as error:
            logger.error("notice refused", extra={"channel": self.channel, "alert_id": alert_id, "error": str(error)})
            await self._record(notice.key, alert_id, "failed", detail=str(error))
        else:
            await self._record(notice.key, alert_id, "sent", ref=new_ref)

    async def _record(
        self, key: str, alert_id: str, state: Literal["sending", "sent", "failed"], *, ref: str = "", detail: str = ""
    ) -> None:
        entry = NoticeEntry(
            key=key,
            channel=self.channel,
            alert_id=alert_id,
            state=state,
            at=self._clock.now(),
            ref=ref,
            detail=detail,
        )
        await self._book.record(entry)

    async def _call(self, call: Awaitable[T]) -> T:
        return await within(call, self._call_timeout_s, self.channel)
