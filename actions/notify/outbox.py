"""The outbox: the messages there should be, compared with those that were sent, until both are the same.

What a message says is a function of durable state alone: the alerts' status, their highest tiers and the states of
their actions. So nothing has to be queued: after an outage of hours one message with the newest state goes out.
`sending` is in the ledger before the call and `sent`, with the reference, after it; a `sending` without a `sent` is
first looked for on the other side (`Notifier.find`). A channel that cannot be asked gets the same key again and must
drop the copy. Lines of a thread and digests go the same way, each under a name of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo

from curb.actions.calls.bounded import Backoff, Turns, within
from curb.actions.ledger.inbox_state import AlertFact
from curb.actions.ledger.ledger import ActionState, Ledger, in_order
from curb.actions.ledger.memory import Memory
from curb.actions.notify.grouping import IN_DIGEST, Bundle, LastNotice, bundles, lead_of
from curb.actions.notify.names import TagNames
from curb.actions.notify.protocol import (
    DayDigest,
    Digests,
    Exact,
    Notice,
    Notifier,
    NotifyConfig,
    Repeats,
    Reply,
    Threads,
)
from curb.actions.notify.thread import ThreadLine, lines, next_key, repeats, says, state_shown
from curb.actions.policy.routing import RouteSettings, decide
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import TIER_RANK, Alert, LedgerEntry, NoticeEntry
from curb.stream.retry import RetryPolicy
from curb.stream.time import DAY_S

#: Of what only would have been done, or was not, a digest does not speak.
_NOTHING_DONE = frozenset({"planned", "skipped", "proposed"})
#: Of ceilings it speaks where one is not as it should be.
_LOST = frozenset({"ineffective", "drift", "failed"})


class Due(NamedTuple):
    """The newest moment at which a digest was due: its local day, and when that was."""

    day: str
    at: float


def due(telling: NotifyConfig, now: float) -> Due:
    """The newest one, at most a day ago."""
    zone = ZoneInfo(telling.time_zone)
    hour, _, minute = telling.digest.at.partition(":")
    local = datetime.fromtimestamp(now, UTC).astimezone(zone)
    at = local.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
    if at.timestamp() > now:
        at -= timedelta(days=1)
    return Due(f"{at:%Y-%m-%d}", at.timestamp())


def goes_into_digest(fact: AlertFact, telling: NotifyConfig) -> bool:
    """Whether an alert waits for the digest instead of getting a message."""
    return bool(telling.digest.notify) and fact.top_tier in ("digest", "soft")


def compose(
    channel: str, facts: Iterable[AlertFact], ledger: Ledger, last_notice: LastNotice, telling: NotifyConfig, now: float
) -> DayDigest | None:
    """The digest that is due, or None when there is nothing to say."""
    when = due(telling, now)
    alerts = tuple(
        fact.alert
        for fact in facts
        if goes_into_digest(fact, telling)
        and fact.alert.fired_at < when.at
        and last_notice(fact.alert.alert_id) is None
    )
    done = tuple(_done(ledger, when.at - DAY_S, when.at))
    if not alerts and not done:
        return None
    return DayDigest(f"digest-{channel}-{when.day}", when.day, when.at, alerts, done, telling)


def _done(ledger: Ledger, since: float, until: float) -> Iterable[LedgerEntry]:
    """The newest entry of every action that had one in these hours."""
    for state in ledger.actions():
        if state.is_standing and state.last.state not in _LOST:
            continue  # they come, are renewed and go by themselves
        entries = [entry for entry in state.entries if since <= entry.at < until]
        if entries and entries[-1].state not in _NOTHING_DONE:
            yield entries[-1]


logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds without reaching the channel after which a message is given up, in the ledger. By hand: a day is history.
GIVE_UP_S = 24 * 3600.0
#: Seconds after which a picture is given up. By hand: an hour later the text says more.
_CHART_GIVE_UP_S = 3600.0
#: Seconds between tries of a message. By hand: vendors ask for backing off up to minutes.
_POLICY = RetryPolicy(first_s=1.0, cap_s=300.0)


class NotifySettings(RouteSettings, Protocol):
    """The keys of the `actions` configuration that messages follow."""

    @property
    def telling(self) -> NotifyConfig: ...
    @property
    def update_minutes(self) -> float: ...


class NoticeWorker:
    """Keeps one channel up to date."""

    def __init__(
        self,
        channel: str,
        notifier: Notifier,
        memory: Memory,
        clock: Clock,
        settings: NotifySettings,
        *,
        call_timeout_s: float,
    ) -> None:
        self.channel = channel
        self._notifier, self._memory, self._clock, self._settings = notifier, memory, clock, settings
        self._telling = settings.telling
        self._threads = notifier if isinstance(notifier, Threads) else None
        self._repeat_s = notifier.repeat_s if isinstance(notifier, Repeats) else None
        self._digester = notifier if isinstance(notifier, Digests) else None
        self._call_timeout_s = call_timeout_s
        self._backoff = Backoff(clock, _POLICY)
        self._charts = f"{channel}/charts"
        #: When this process first saw an alert whose message is due; the wait for others counts from then.
        self._seen_at: dict[str, float] = {}
        self._turns = Turns()
        #: Whether the routes send an alert here, by the revision that was looked at last.
        self._routed: dict[str, tuple[Alert, bool]] = {}
        #: Messages about which there was nothing to say, as they were then, by lead.
        self._settled: dict[str, tuple[object, ...]] = {}
        self.problems: dict[str, str] = {}
        self._known_names: Mapping[tuple[str, str], str] = {}
        self._shown_names = TagNames()

    def pending(self, fact: AlertFact) -> str:
        """What is still due on this channel for an alert, in a word, or "" when it may be forgotten."""
        if fact.alert.status == "firing":
            return "firing"
        last = self._last_notice(fact.alert.alert_id)
        if last is None and goes_into_digest(fact, self._telling):
            return "digest" if self._digests else ""
        if last is None and not self._is_wanted(fact):
            return ""
        facts = self._memory.inbox.alerts
        for bundle in self._bundles():
            if fact in bundle.facts:
                led = (each for each in bundle.others if lead_of(each, facts, self._last_notice) is not None)
                is_needed = fact is bundle.lead and any(self._goes_on(each) for each in led)
                return "leads others" if is_needed else self._due(bundle)
        return ""

    def _goes_on(self, fact: AlertFact) -> bool:
        """True when an alert may still change: it fires, or an action on it is not over."""
        states = self._memory.ledger.for_alert(fact.alert.alert_id)
        return fact.alert.status == "firing" or any(s.is_held or s.is_pending for s in states)

    async def work(self) -> None:
        """One pass over all messages, pages first; it ends at the first sign that the channel is out of reach."""
        found = self._bundles()
        self._seen_at = {
            alert_id: at for alert_id, at in self._seen_at.items() if alert_id in self._memory.inbox.alerts
        }
        for bundle in sorted(found, key=_urgency):
            await self._turns.give_way()
            if not self._may_go_on():
                return
            lead_id, state = bundle.lead.alert.alert_id, self._state_of(bundle)
            if self._settled.get(lead_id) == state:
                continue
            if self._due(bundle):
                await self._guarded(self._notify(bundle), lead_id)
            elif state[1] is not None:
                self._settled[lead_id] = state
        facts = self._memory.inbox.alerts
        self._settled = {each: self._settled[each] for each in self._settled if each in facts}
        self._routed = {each: self._routed[each] for each in self._routed if each in facts}
        if self._digests and self._may_go_on() and (digest := self._digest()) is not None:
            await self._guarded(self._notify_digest(digest), IN_DIGEST)

    def _state_of(self, bundle: Bundle) -> tuple[object, ...]:
        """All that decides whether there is something to say; the second is the last notice."""
        recorded, entries = (
            self._last_notice(bundle.lead.alert.alert_id),
            sum(len(each.entries) + each.last.tries for each in self._actions(bundle)),
        )
        again = repeats(bundle, self._telling, self._clock.now())
        again_by_itself = self._alive(bundle)
        return (
            bundle,
            recorded,
            entries,
            (again, again_by_itself),
            self._quiet(bundle),
            self._backoff.is_due(self._charts),
        )

    def _alive(self, bundle: Bundle) -> int:
        """How often a message was due again because the channel forgets what is not repeated."""
        if self._repeat_s is None or not bundle.is_firing:
            return 0
        return int((self._clock.now() - bundle.lead.alert.fired_at) // self._repeat_s)

    def _may_go_on(self) -> bool:
        return self._memory.may_work and self._backoff.is_due(self.channel)

    # --- what there is to say ---

    def _bundles(self) -> list[Bundle]:
        facts = self._memory.inbox.alerts
        fresh, has_threads = list(self._fresh()), self._threads is not None
        return bundles(facts, fresh, self._last_notice, self._telling, has_threads=has_threads)

    def _fresh(self) -> Iterator[AlertFact]:
        """Alerts whose first message on this channel is due."""
        for fact in self._memory.inbox.alerts.values():
            last = self._last_notice(fact.alert.alert_id)
            if last is not None and last.sent_with != IN_DIGEST:
                continue
            if goes_into_digest(fact, self._telling) or self._quiet_until(fact) is not None:
                continue
            if self._is_wanted(fact):
                yield fact

    def _is_wanted(self, fact: AlertFact) -> bool:
        alert = fact.alert
        known, here = self._routed.get(alert.alert_id, (None, False))
        if known is not alert:
            here = self.channel in decide(alert, self._settings).notify
            self._routed[alert.alert_id] = alert, here
        return here and fact.top_tier != "soft"

    def _last_notice(self, alert_id: str) -> NoticeEntry | None:
        return self._memory.ledger.last_notice(self.channel, alert_id)

    def _quiet_until(self, fact: AlertFact) -> float | None:
        """Until when nobody wants to hear of it, while that is ahead."""
        until = self._memory.inbox.snoozed_until(fact.alert.alert_id)
        return until if until is not None and until > self._clock.now() else None

    def _quiet(self, bundle: Bundle) -> float | None:
        return self._quiet_until(bundle.loudest)

    def _due(self, bundle: Bundle) -> str:
        """What is due of a message: its own key, the name of a line of its thread, or that somebody joined it."""
        if key := self._due_key(bundle):
            return key
        line = next(self._due_lines(bundle), None)
        return line.part if line is not None else next(iter(sorted(bundle.joining)), "")

    def _due_key(self, bundle: Bundle) -> str:
        last = self._last_notice(bundle.lead.alert.alert_id)
        if last is None and not self._has_waited(bundle):
            return ""
        is_silent = self._threads is not None and last is not None
        if not is_silent and bundle.is_firing and self._quiet(bundle) is not None:
            return ""  # it could only be said aloud
        return next_key(self._says(bundle), bundle, last, self._settings.update_minutes * 60.0)

    def _has_waited(self, bundle: Bundle) -> bool:
        """Whether others that come with it had time to come. What is over already waits for nobody."""
        now = self._clock.now()
        since = min(self._seen_at.setdefault(fact.alert.alert_id, now) for fact in bundle.facts)
        return not bundle.is_firing or now >= since + self._telling.group_wait_seconds

    def _says(self, bundle: Bundle) -> str:
        more: list[str] = []
        if self._memory.ledger.sent_ref(self.channel, bundle.lead.alert.alert_id):
            # Said aloud once; every further try is an edit of the message where it can be edited, and nothing else.
            refused = [state.last for state in self._actions(bundle) if state.is_refused]
            more += [f"{entry.action_id} tried {entry.tries}" for entry in refused]
        if self._threads is not None:
            if (quiet := self._quiet(bundle)) is not None:
                more.append(f"quiet until {quiet:.0f}")
        elif times := repeats(bundle, self._telling, self._clock.now()):
            more.append(f"again {times}")  # where there is no thread, it is said again as a whole
        if alive := self._alive(bundle):
            more.append(f"alive {alive}")
        return says(self.channel, bundle, self._actions(bundle), *more)

    def _actions(self, bundle: Bundle) -> list[ActionState]:
        return [state for fact in bundle.facts for state in self._memory.ledger.for_alert(fact.alert.alert_id)]

    def _due_lines(self, bundle: Bundle) -> Iterator[ThreadLine]:
        """Lines of the thread that were not said yet; none before there is a message."""
        lead_id, ledger = bundle.lead.alert.alert_id, self._memory.ledger
        last = self._last_notice(lead_id)
        if self._threads is None or last is None or not ledger.sent_ref(self.channel, lead_id):
            return
        sent = next((each for each in reversed(ledger.notices(self.channel, lead_id)) if each.state == "sent"), last)
        in_root = last.key.rpartition("-")[0] == self._says(bundle)
        quiet = self._quiet(bundle) is not None
        now = self._clock.now()
        for line in lines(bundle, ledger, sent, self._telling, in_root=in_root, now=now, quiet=quiet):
            recorded = ledger.last_notice(self.channel, lead_id, line.part)
            is_due = line.kind != "chart" or self._backoff.is_due(self._charts)
            if is_due and (recorded is None or recorded.state == "sending"):
                yield line

    # --- saying it ---

    async def _guarded(self, work: Awaitable[None], about: str) -> None:
        try:
            await work
        except TransientError as error:
            self._note_problem(error)
        except Exception as error:  # a defect in one notifier must not end the task that retries the others
            logger.exception("notice failed", extra={"channel": self.channel, "alert_id": about})
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

    async def _notify(self, bundle: Bundle) -> None:
        """The thread first: its lines are what people hear; the message above it is edited silently."""
        await self._reconcile(bundle)
        await self._notify_thread(bundle)
        await self._notify_root(bundle)
        await self._note_joined(bundle)
        await self._notify_thread(bundle)
        await self._show_chart(bundle)

    async def _reconcile(self, bundle: Bundle) -> None:
        """Find out what became of a message that was being sent when a process ended."""
        alert_id = bundle.lead.alert.alert_id
        last = self._last_notice(alert_id)
        if last is None or last.state != "sending":
            return
        ref = await self._call(self._notifier.find(last.key))
        if ref is not None:
            await self._record(last.key, alert_id, "sent", ref=ref, detail=last.detail)
        elif self._clock.now() - last.at > GIVE_UP_S:
            await self._record(last.key, alert_id, "failed", detail="not reached for 24 h")

    async def _notify_root(self, bundle: Bundle) -> None:
        key, alert_id = self._due_key(bundle), bundle.lead.alert.alert_id
        if not key:
            return
        notice, state = self._notice(key, bundle), state_shown(bundle)  # before the next await: they belong together
        last = self._last_notice(alert_id)
        if last is None or last.state != "sending" or last.key != key:
            await self._record(key, alert_id, "sending", detail=state)
        ref = self._memory.ledger.sent_ref(self.channel, alert_id)
        try:
            new_ref = await self._call(self._notifier.send(notice, ref))
        except PermanentError as error:
            logger.error("notice refused", extra={"channel": self.channel, "alert_id": alert_id, "error": str(error)})
            await self._record(key, alert_id, "failed", detail=str(error))
        else:
            await self._record(key, alert_id, "sent", ref=new_ref, detail=state)

    async def _notify_thread(self, bundle: Bundle) -> None:
        for line in list(self._due_lines(bundle)):
            if line.kind != "chart":
                await self._notify_line(bundle, line)

    async def _show_chart(self, bundle: Bundle) -> None:
        """A picture that cannot be had holds up nothing else, and is given up after a while."""
        line = next((line for line in self._due_lines(bundle) if line.kind == "chart"), None)
        if line is None:
            return
        try:
            await self._notify_line(bundle, line)
        except TransientError as error:
            wait_s = self._backoff.failed(self._charts, error)
            logger.warning("no chart yet", extra={"channel": self.channel, "error": str(error), "wait_s": wait_s})
            lead_id = bundle.lead.alert.alert_id
            recorded = self._memory.ledger.last_notice(self.channel, lead_id, line.part)
            if recorded is not None and self._clock.now() - recorded.at > _CHART_GIVE_UP_S:
                await self._record(recorded.key, lead_id, "failed", detail=str(error), part=line.part)
        else:
            self._backoff.succeeded(self._charts)

    async def _notify_line(self, bundle: Bundle, line: ThreadLine) -> None:
        lead_id = bundle.lead.alert.alert_id
        reply = self._named_reply(line.reply(self.channel, self._notice("", bundle), lead_id))
        ref = self._memory.ledger.sent_ref(self.channel, lead_id)
        assert self._threads is not None
        found: str | None = None
        if self._memory.ledger.last_notice(self.channel, lead_id, line.part) is None:
            await self._record(reply.key, lead_id, "sending", part=line.part)
        else:
            found = await self._call(self._threads.find_reply(reply.key, ref))
        try:
            if found is None:
                found = await self._call(self._threads.reply(reply, ref))
        except PermanentError as error:
            logger.error("reply refused", extra={"channel": self.channel, "part": line.part, "error": str(error)})
            await self._record(reply.key, lead_id, "failed", detail=str(error), part=line.part)
        else:
            await self._record(reply.key, lead_id, "sent", ref=found, part=line.part)

    async def _note_joined(self, bundle: Bundle) -> None:
        lead = self._last_notice(bundle.lead.alert.alert_id)
        if lead is None or lead.state == "sending":
            return
        for alert_id in sorted(bundle.joining):
            await self._record(f"{lead.key}+{alert_id}", alert_id, "sent", sent_with=lead.alert_id)

    def _notice(self, key: str, bundle: Bundle) -> Notice:
        ordered = in_order(self._actions(bundle))
        lead_id = bundle.lead.alert.alert_id
        names, quiet = self._names(), self._quiet(bundle)
        rest = tuple(names.alert(alert) for alert in bundle.rest)
        entries = tuple(names.entry(entry) for entry in ordered)
        return Notice(key, names.alert(bundle.loudest.alert), entries, rest, self._telling, quiet, lead_id)

    def _names(self) -> TagNames:
        """What people call the values of tags; none for what machines read."""
        known = {} if isinstance(self._notifier, Exact) else self._memory.names
        if known is not self._known_names:
            self._known_names, self._shown_names = known, TagNames(known)
        return self._shown_names

    def _named_reply(self, reply: Reply) -> Reply:
        names = self._names()
        entry = names.entry(reply.entry) if reply.entry is not None else None
        return reply._replace(alert=names.alert(reply.alert), entry=entry)

    # --- the digest ---

    @property
    def _digests(self) -> bool:
        return self.channel in self._telling.digest.notify and self._digester is not None

    def _digest(self) -> DayDigest | None:
        last = self._last_notice(IN_DIGEST)
        when = due(self._telling, self._clock.now())
        if last is not None and last.state != "sending" and last.key.endswith(when.day):
            return None
        facts = self._memory.inbox.alerts.values()
        ledger, now = self._memory.ledger, self._clock.now()
        found = compose(self.channel, facts, ledger, self._last_notice, self._telling, now)
        if found is None:
            return None
        names = self._names()
        alerts, entries = map(names.alert, found.alerts), map(names.entry, found.ledger)
        return found._replace(alerts=tuple(alerts), ledger=tuple(entries))

    async def _notify_digest(self, digest: DayDigest) -> None:
        """The ids in it are remembered with it, so that after a crash in the middle no alert is in two."""
        last = self._last_notice(IN_DIGEST)
        ids, ref = " ".join(alert.alert_id for alert in digest.alerts), None
        if last is not None and last.state == "sending" and last.key == digest.key:
            ref = await self._call(self._notifier.find(digest.key))
            ids = ids if ref is None else last.detail
        if ref is None:
            await self._record(digest.key, IN_DIGEST, "sending", detail=ids)
            assert self._digester is not None
            try:
                ref = await self._call(self._digester.send_digest(digest))
            except PermanentError as error:
                logger.error("digest refused", extra={"channel": self.channel, "error": str(error)})
                await self._record(digest.key, IN_DIGEST, "failed", detail=str(error))
                return
        for alert_id in ids.split():
            await self._record(f"{digest.key}+{alert_id}", alert_id, "sent", sent_with=IN_DIGEST)
        await self._record(digest.key, IN_DIGEST, "sent", ref=ref)

    async def _record(
        self,
        key: str,
        alert_id: str,
        state: Literal["sending", "sent", "failed"],
        *,
        ref: str = "",
        detail: str = "",
        part: str = "",
        sent_with: str = "",
    ) -> None:
        entry = NoticeEntry(
            key=key,
            channel=self.channel,
            alert_id=alert_id,
            state=state,
            at=self._clock.now(),
            ref=ref,
            detail=detail,
            part=part,
            sent_with=sent_with,
        )
        await self._memory.record(entry)

    async def _call(self, call: Awaitable[T]) -> T:
        return await within(call, self._call_timeout_s, self.channel)


def _urgency(bundle: Bundle) -> tuple[int, float]:
    return -max(TIER_RANK[fact.top_tier] for fact in bundle.facts), bundle.lead.alert.fired_at
