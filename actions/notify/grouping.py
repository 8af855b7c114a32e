"""Which alerts share a message: those of one owner, of one subject, and narrower ones that a wider one covers.

An owner's alerts share it where they come together; a budget and a runaway of the same subject within a day.
What is louder than a message never hides in it: a page begins one of its own, or is a loud line of the thread where it
is about the same key.
A bundle is kept under the id of its lead. Who is in it follows from the outbox (`sent_with`), so that a restart changes
no message; only who joins is decided here. Nothing here keeps anything from being done: it is about messages alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from curb.actions.ledger.inbox_state import AlertFact
from curb.actions.notify import wording
from curb.actions.notify.protocol import NotifyConfig
from curb.stream.records.spend import TIER_RANK, UNTAGGED, Alert, NoticeEntry
from curb.stream.time import DAY_S

#: `sent_with` of an alert that was in a digest.
IN_DIGEST = "digest"
#: What a burn of the whole can cover, and what is a burn of the whole.
_COVERED = frozenset({"runaway", "abusive", "unit_cost"})
_COVERING = frozenset({"runaway", "abusive"})
#: Share of its excess from which on a wider alert covers a narrower one. By hand: they start at different moments.
_COVERED_SHARE = 0.9

#: What a budget shares a thread with where both are about the same subject.
_BURNS = frozenset({"runaway", "abusive", "unit_cost"})
#: Seconds from the start of a message within which it is joined by the other alert of its subject. By hand: after a day
#: the message, and the buttons in it, are out of sight.
_SAME_SUBJECT_S = DAY_S

LastNotice = Callable[[str], NoticeEntry | None]


class Bundle(NamedTuple):
    """Alerts with one message; `joining` are those of `others` that were not in it yet."""

    lead: AlertFact
    others: tuple[AlertFact, ...] = ()
    joining: frozenset[str] = frozenset()

    @property
    def facts(self) -> tuple[AlertFact, ...]:
        return (self.lead, *self.others)

    @property
    def is_firing(self) -> bool:
        return any(fact.alert.status == "firing" for fact in self.facts)

    @property
    def loudest(self) -> AlertFact:
        """What the message is headed by: what fires, then the highest tier; the lead where it is no less."""
        return max(
            self.facts, key=lambda fact: (fact.alert.status == "firing", TIER_RANK[fact.top_tier], fact is self.lead)
        )

    @property
    def rest(self) -> tuple[Alert, ...]:
        """The alerts beside the loudest."""
        loudest = self.loudest.alert.alert_id
        return tuple(fact.alert for fact in self.facts if fact.alert.alert_id != loudest)

    @property
    def revision(self) -> int:
        return sum(fact.alert.revision for fact in self.facts)

    @property
    def updated_at(self) -> float:
        return max(fact.alert.updated_at for fact in self.facts)


def bundles(
    facts: Mapping[str, AlertFact],
    fresh: Iterable[AlertFact],
    last_notice: LastNotice,
    telling: NotifyConfig,
    *,
    has_threads: bool,
) -> list[Bundle]:
    """All messages there are or should be. `fresh` are the alerts whose first message is due.

    With threads a louder alert may join, because a line of the thread can be loud.
    """
    homes = _Homes(facts, telling, has_threads=has_threads)
    for fact in facts.values():
        if (lead_id := lead_of(fact, facts, last_notice)) is not None:
            homes.put(fact, lead_id)
    joining: dict[str, set[str]] = {}
    for fact in sorted(fresh, key=_widest_first):
        lead_id = homes.find(fact)
        homes.put(fact, lead_id)
        if lead_id != fact.alert.alert_id:
            joining.setdefault(lead_id, set()).add(fact.alert.alert_id)
    return [_bundle(lead_id, found, joining.get(lead_id, set())) for lead_id, found in homes.members.items()]


def lead_of(fact: AlertFact, facts: Mapping[str, AlertFact], last_notice: LastNotice) -> str | None:
    """Under which alert's id the message about this one is kept; None when it has none."""
    last = last_notice(fact.alert.alert_id)
    if last is None or last.sent_with == IN_DIGEST:
        return None
    return last.sent_with if last.sent_with in facts else fact.alert.alert_id


def covers(wide: AlertFact, narrow: AlertFact) -> bool:
    """True when the message about `wide` speaks for `narrow` too: it is the whole, at the same time, no less loud."""
    a, b = wide.alert, narrow.alert
    return (
        a.kind in _COVERING
        and b.kind in _COVERED
        and a.money == b.money
        and a.tags.items() < b.tags.items()
        and TIER_RANK[wide.top_tier] >= TIER_RANK[narrow.top_tier]
        and a.excess_usd >= _COVERED_SHARE * b.excess_usd
        and a.fired_at <= _ended(b)
        and b.fired_at <= _ended(a)
    )


def is_same_subject(one: AlertFact, other: AlertFact) -> bool:
    """True for a budget and a burn of the same key (team, job) at the same time."""
    a, b = one.alert, other.alert
    if not (a.kind == "budget" and b.kind in _BURNS) and not (b.kind == "budget" and a.kind in _BURNS):
        return False
    narrow, wide = (a.tags, b.tags) if len(a.tags) >= len(b.tags) else (b.tags, a.tags)
    return (
        _subject_of(a) == _subject_of(b) is not None
        and wide.items() <= narrow.items()
        and a.fired_at <= _ended(b)
        and b.fired_at <= _ended(a)
    )


def _subject_of(alert: Alert) -> tuple[str, str] | None:
    """The tag that names it: the last it carries; None where it carries none."""
    carried = [(tag, value) for tag, value in alert.tags.items() if value != UNTAGGED]
    return carried[-1] if carried else None


def owner_of(alert: Alert, telling: NotifyConfig) -> tuple[str, ...] | None:
    """The values of the tags that say whose it is; None when it lacks one of them."""
    if not telling.group_by or any(tag not in alert.tags for tag in telling.group_by):
        return None
    return tuple(alert.tags[tag] for tag in telling.group_by)


class _Homes:
    """Who is in which message, by lead, and where a new alert belongs."""

    def __init__(self, facts: Mapping[str, AlertFact], telling: NotifyConfig, *, has_threads: bool) -> None:
        self._facts, self._telling, self._has_threads = facts, telling, has_threads
        self.members: dict[str, list[AlertFact]] = {}
        self._wide: list[tuple[AlertFact, str]] = []
        self._owned: dict[tuple[str, ...], list[str]] = {}
        #: By the tag that names the subject.
        self._subjects: dict[tuple[str, str], list[tuple[AlertFact, str]]] = {}

    def put(self, fact: AlertFact, lead_id: str) -> None:
        self.members.setdefault(lead_id, []).append(fact)
        if self._telling.inhibit and fact.alert.kind in _COVERING:
            self._wide.append((fact, lead_id))
        if self._telling.inhibit and (subject := _subject_of(fact.alert)) is not None:
            self._subjects.setdefault(subject, []).append((fact, lead_id))
        if lead_id == fact.alert.alert_id and (owner := owner_of(fact.alert, self._telling)) is not None:
            self._owned.setdefault(owner, []).append(lead_id)

    def find(self, fact: AlertFact) -> str:
        """The lead in whose message an alert is; its own id when it gets a message of its own."""
        most = len(fact.alert.tags)
        for wide, lead_id in self._wide:
            if len(wide.alert.tags) < most and covers(wide, fact):
                return lead_id
        subject = _subject_of(fact.alert)
        for other, lead_id in self._subjects.get(subject, ()) if subject is not None else ():
            if is_same_subject(other, fact) and self._is_near(lead_id, fact):
                return lead_id
        owner = owner_of(fact.alert, self._telling)
        for lead_id in self._owned.get(owner, ()) if owner is not None else ():
            if self._takes(lead_id, fact):
                return lead_id
        return fact.alert.alert_id

    def _is_near(self, lead_id: str, fact: AlertFact) -> bool:
        """Whether the message is of the same day, and can say an alert aloud that is louder than it."""
        apart_s = abs(fact.alert.fired_at - self._facts[lead_id].alert.fired_at)
        loudest = max(TIER_RANK[each.top_tier] for each in self.members[lead_id])
        return apart_s <= _SAME_SUBJECT_S and (self._has_threads or TIER_RANK[fact.top_tier] <= loudest)

    def _takes(self, lead_id: str, fact: AlertFact) -> bool:
        """Whether the message of an owner is young and loud enough for one more alert, and no more over than it."""
        found, since = self.members[lead_id], fact.alert.fired_at - self._facts[lead_id].alert.fired_at
        is_firing = any(each.alert.status == "firing" for each in found)
        return (
            0 <= since <= self._telling.group_interval_minutes * 60.0
            and TIER_RANK[fact.top_tier] <= max(TIER_RANK[each.top_tier] for each in found)
            and is_firing == (fact.alert.status == "firing")
        )


def _bundle(lead_id: str, found: list[AlertFact], joining: set[str]) -> Bundle:
    lead = next(fact for fact in found if fact.alert.alert_id == lead_id)
    others = [fact for fact in found if fact is not lead]
    others.sort(key=lambda fact: (-TIER_RANK[fact.top_tier], -wording.excess_rate(fact.alert), fact.alert.alert_id))
    return Bundle(lead, tuple(others), frozenset(joining))


def _widest_first(fact: AlertFact) -> tuple[int, float, int, str]:
    return len(fact.alert.tags), fact.alert.fired_at, -TIER_RANK[fact.top_tier], fact.alert.alert_id


def _ended(alert: Alert) -> float:
    return float("inf") if alert.status == "firing" else alert.resolved_at or alert.updated_at
