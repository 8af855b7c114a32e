"""Alerts on feeds: records that are lost, a clock that is off, a source that went quiet, spend without a series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from curb.detector.incidents import feed_wording as words
from curb.detector.incidents.feed_sources import TOO_LATE, Figures, KnownSource
from curb.detector.state.scopes import Scope
from curb.stream import metrics
from curb.stream.records.revisions import alert_id_of, fingerprint_of, resolved, revised
from curb.stream.records.spend import OTHER, REPLAYED, TIER_RANK, Alert, ScopeTally, SourceTally, SpendTick, Tally, Tier
from curb.stream.time import DAY_S, HOUR_S

_T = TypeVar("_T")
#: Share of the records or dollars of an hour that may be lost in silence.
_LOST_SHARE = 0.01
#: Records or dollars of an hour from which a loss is a notice, and fewer when most of all are lost; less is a line in
#: the digest. Chosen by hand: ten bad lines wake nobody, a hundred in an hour are a defect of a sender.
_NOTICE_RECORDS, _NOTICE_USD = 100, 10.0
_MOST_SHARE, _MOST_RECORDS = 0.5, 10
#: Seconds without a counted record, while so many were refused, from which a source is blind: a page. Chosen by hand.
_BLIND_S, _BLIND_RECORDS = 1800.0, 100
#: Seconds of silence, in hours in which the source usually reports, and times its longest silence so far, that are too
#: long; from twice as long on it may be a notice. Chosen by hand, as the rule on silent feeds has it.
_QUIET_S, _QUIET_FACTOR = 1800.0, 3.0
#: Seconds of any silence that are too long for a source that comes in deliveries, at least. Chosen by hand.
_GAP_S = 6 * 3600.0
#: Seconds that a source must be known before it is missed; before it is known for a day, silence must be longer; before
#: a weekend, which may be silent, it is a digest line. Chosen by hand.
_KNOWN_S, _DAY_ONE_QUIET_S, _WEEKEND_S = 4 * 3600.0, 2 * 3600.0, 8 * DAY_S
#: A source that was silent for so long, and its longest gaps, is gone, seconds. Chosen by hand.
_GONE_S = 7 * DAY_S
#: Seconds without a tick from a live input after which nobody was listening: no silence of the sources. By hand.
_OUTAGE_S = 600.0
#: Seconds between revisions, at least; another reason comes at most once an hour, a louder tier at once. By hand.
_REVISE_S, _CHANGE_S = DAY_S, 3600.0
#: Sources that are kept; further ones are counted together. Chosen by hand.
_MAX_SOURCES = 2000


class _Problem(NamedTuple):
    """Something wrong with a feed now."""

    tier: Tier
    #: What stands first in it: another one is worth a revision.
    label: str
    #: What was seen, a clause; and what to do, a sentence.
    reason: str
    next_step: str
    usd: float = 0.0


class FeedRow(NamedTuple):
    """One source for people; figures as of `Figures.plain`."""

    source: str
    kind: str
    last_at: float
    delay_s: float
    this_hour: dict[str, Any]
    last_24_h: dict[str, Any]
    #: What fires now, whole sentences.
    problems: list[str]


class ScopeRow(NamedTuple):
    """Dollars of one scope within the last 24 hours that no series of their own shows."""

    scope: str
    usd: float
    folded: int
    folded_usd: float
    untagged_usd: float
    problems: list[str]


class FeedDump(msgspec.Struct):
    """All state of the alerts on feeds."""

    sources: dict[str, KnownSource]
    scopes: dict[str, dict[int, ScopeTally]]
    #: Topic → hour → dollars.
    topics: dict[str, dict[int, float]]
    alerts: dict[str, Alert]
    ticks: dict[str, float]
    at: float
    unheard_until: float


class FeedAlerts:
    """An alert per source, or scope, and trouble: revised when it changes, over when the feed is good again."""

    def __init__(self, scopes: tuple[Scope, ...]) -> None:
        self._topics_of = {scope.name: [f"curb.{source}" for source in scope.sources] for scope in scopes}
        self._sources: dict[str, KnownSource] = {}
        self._scopes: dict[str, dict[int, ScopeTally]] = {}
        self._topics: dict[str, dict[int, float]] = {}
        self._alerts: dict[str, Alert] = {}
        self._ticks: dict[str, float] = {}
        #: The time that scoring has reached, and up to which nobody listened to the sources.
        self._at = self._unheard_until = 0.0
        #: Sources and scopes of which something came since the last bucket.
        self._changed: set[str] = set()
        #: When the first record of usage or of a GPU that was counted came, epoch seconds; None before.
        self.first_at: float | None = None

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return list(self._alerts.values())

    def tick(self, tick: SpendTick) -> None:
        """Count the dollars of a tick; notice when the daemon was away."""
        topic, hour = tick.source.rpartition("/")[0] or tick.source, int(tick.at // HOUR_S) * HOUR_S
        if tick.effective_cost:
            hours = self._topics.setdefault(topic, {})
            hours[hour] = hours.get(hour, 0.0) + tick.effective_cost
        if tick.live and tick.at - self._ticks.get(tick.source, tick.at) > _OUTAGE_S:
            self._unheard_until = max(self._unheard_until, tick.at)
        self._ticks[tick.source] = max(tick.at, self._ticks.get(tick.source, 0.0))

    def arrived(self, tally: Tally) -> None:
        """Notice the first spend at once; it is counted when its bucket closes."""
        if self.first_at is None and isinstance(tally, SourceTally) and tally.counted and tally.kind != "costs":
            self.first_at = tally.last_at

    def note(self, tally: Tally) -> None:
        """Count a tally; the next bucket that closes reports what is wrong."""
        if isinstance(tally, ScopeTally):
            hours = self._scopes.setdefault(tally.scope, {})
            known = hours.setdefault(tally.hour, ScopeTally(scope=tally.scope, hour=tally.hour))
            for name in ("folded", "folded_usd", "untagged", "untagged_usd"):
                setattr(known, name, getattr(known, name) + getattr(tally, name))
            known.largest = tally.largest or known.largest
            return
        name = tally.source if tally.source in self._sources or len(self._sources) < _MAX_SOURCES else OTHER
        at = self._at or float(tally.hour)
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = KnownSource(tally.kind, at, at)
        source.note(tally, at)
        self._changed.add(name)
        _measure(name, tally)

    def close(self, at: float) -> list[Alert]:
        """New revisions at `at`, when a bucket closes."""
        at = max(at, self._at)  # refused records may come long before the first bucket does
        hour = int(at // HOUR_S) * HOUR_S
        if self._at:
            self._pass_time(at, hour)
        is_new_hour = hour > self._at
        self._at = max(self._at, at)
        revisions: list[Alert] = []
        for name in sorted(self._sources):
            source = self._sources[name]
            revisions += self._follow("quiet", name, _quiet(name, source, at), at)
            if source.habit.quiet_s > max(_GONE_S, source.habit.gap_limit_s(_QUIET_FACTOR) or 0.0):
                revisions += [alert for what in ("quiet", "lost", "clock") for alert in self._end(what, name, at)]
                del self._sources[name]
            elif is_new_hour or name in self._changed:
                revisions += self._follow("lost", name, _lost(name, source, hour, at), at)
                revisions += self._follow("clock", name, _clock(name, source, hour), at)
                metrics.FEED_LOST.labels(source=name).set(100 * source.within(hour, 2).lost_share)
        for scope in sorted(self._scopes):
            revisions += self._follow("other", scope, self._folded(scope, hour), at)
        self._changed.clear()
        return revisions

    def _pass_time(self, at: float, hour: int) -> None:
        """Follow the habit of every source over the time since the bucket before."""
        listened = at > self._unheard_until
        before = int(self._at // HOUR_S) * HOUR_S
        for name, source in self._sources.items():
            if source.heard:
                source.habit.heard(at, alerted=f"quiet/{name}" in self._alerts)
                source.heard = False
            elif listened:
                source.habit.silent(self._at, at)
            else:
                source.habit.unheard(at)
            if hour > before:
                source.forget(hour)
        if hour > before:
            self._scopes = {scope: _newer(hours, hour) for scope, hours in self._scopes.items()}
            self._topics = {topic: _newer(hours, hour) for topic, hours in self._topics.items()}

    def _folded(self, scope: str, hour: int) -> _Problem | None:
        """Dollars in `__other__`; in the hour before as well, so that an alert does not end with its hour."""
        found: list[tuple[float, ScopeTally]] = []
        for start in (hour, hour - HOUR_S):
            tally = self._scopes[scope].get(start)
            of_all = self._scope_usd(scope, start, start)
            if tally is not None and tally.folded_usd > _LOST_SHARE * of_all > 0:
                found.append((of_all, tally))
        if not found:
            return None
        of_all, tally = found[0]
        usd = tally.folded_usd
        many = usd >= _NOTICE_USD and usd >= 10 * _LOST_SHARE * of_all
        return _Problem("notice" if many else "digest", OTHER, *words.folded(tally, of_all), usd=usd)

    def _scope_usd(self, scope: str, first: int, last: int) -> float:
        hours = [self._topics.get(topic, {}) for topic in self._topics_of.get(scope, ())]
        return sum(usd for each in hours for start, usd in each.items() if first <= start <= last)

    def _follow(self, what: str, name: str, problem: _Problem | None, at: float) -> Iterator[Alert]:
        key = f"{what}/{name}"
        alert = self._alerts.get(key)
        if problem is None:
            # The share of an hour falls as the hour goes on: that is no end.
            if alert is not None and (what == "quiet" or at // HOUR_S > alert.fired_at // HOUR_S):
                yield from self._end(what, name, at)
            return
        if alert is None:
            self._alerts[key] = alert = _open(what, name, problem, at)
            yield alert
            return
        tier = max(alert.tier, problem.tier, key=TIER_RANK.__getitem__)
        changed = tier != alert.tier or not alert.channel.endswith(f"/{problem.label}")
        louder = TIER_RANK[tier] > TIER_RANK[alert.tier]
        if louder or at - alert.updated_at >= (_CHANGE_S if changed else _REVISE_S):
            figures = _figures(name, problem)
            self._alerts[key] = alert = revised(alert, at, tier=tier, channel=f"feed/{what}/{problem.label}", **figures)
            yield alert

    def _end(self, what: str, name: str, at: float) -> Iterator[Alert]:
        alert = self._alerts.pop(f"{what}/{name}", None)
        if alert is not None:
            yield resolved(alert, at)

    # --- for people -------------------------------------------------------------------------------------------------

    def rows(self) -> list[FeedRow]:
        """Every source, by name."""
        hour = int(self._at // HOUR_S) * HOUR_S
        rows = []
        for name, source in sorted(self._sources.items()):
            newest = max(source.hours, default=0)
            delay_s = source.hours[newest].delay_s if source.hours else 0.0
            now, day = source.within(hour).plain(), source.within(hour + HOUR_S, 25).plain()
            rows.append(FeedRow(name, source.kind, source.last_at, delay_s, now, day, self._problems_of(name, False)))
        return rows

    def scope_rows(self) -> list[ScopeRow]:
        """Every scope in which dollars lack a tag or a series."""
        hour = int(self._at // HOUR_S) * HOUR_S
        rows = []
        for scope, hours in sorted(self._scopes.items()):
            usd = self._scope_usd(scope, hour - DAY_S, hour + HOUR_S)
            folded = sum(each.folded for each in hours.values())
            folded_usd = sum(each.folded_usd for each in hours.values())
            untagged_usd = sum(each.untagged_usd for each in hours.values())
            rows.append(ScopeRow(scope, usd, folded, folded_usd, untagged_usd, self._problems_of(scope, True)))
        return rows

    def _problems_of(self, name: str, is_scope: bool) -> list[str]:
        found = [(key.split("/", 1), alert) for key, alert in self._alerts.items()]
        return [alert.explanation for (what, of), alert in found if of == name and (what == "other") == is_scope]

    def dump(self) -> FeedDump:
        """What `load` takes."""
        return FeedDump(
            self._sources, self._scopes, self._topics, self._alerts, self._ticks, self._at, self._unheard_until
        )

    def load(self, state: FeedDump | None) -> None:
        """Take over what `dump` gave; snapshots of earlier versions have none."""
        if state is None:
            return
        self._sources, self._scopes, self._topics = state.sources, state.scopes, state.topics
        self._alerts, self._ticks = state.alerts, state.ticks
        self._at, self._unheard_until = state.at, state.unheard_until


def _newer(hours: Mapping[int, _T], hour: int) -> dict[int, _T]:
    """The last 24 hours."""
    return {start: each for start, each in hours.items() if start > hour - DAY_S}


def _lost(name: str, source: KnownSource, hour: int, at: float) -> _Problem | None:
    now, before = source.within(hour), source.within(hour - HOUR_S)
    # A bad line as the first one of an hour is no bad hour.
    both = source.within(hour, 2)
    if now.lost_share > _LOST_SHARE and both.lost_share > _LOST_SHARE:
        found = now
    elif before.lost_share > _LOST_SHARE:
        found = before
    else:
        return None
    (label, _), *_ = found.lost.most_common(1) or [(TOO_LATE, 0)]
    return _Problem(_tier_of_loss(source, found, both, at), label, *words.lost(name, found), usd=found.lost_usd)


def _tier_of_loss(source: KnownSource, found: Figures, both: Figures, at: float) -> Tier:
    refused = sum(found.refused.values())
    is_blind = source.counted_at and at - source.counted_at >= _BLIND_S
    if is_blind and sum(both.refused.values()) >= _BLIND_RECORDS:
        return "page"
    records = sum(found.lost.values())
    if found.not_scored > refused and both.not_scored < 2 * found.not_scored:
        return "digest"  # old records that are sent in one go, such as a history
    most = both.lost_share >= _MOST_SHARE and records >= _MOST_RECORDS
    return "notice" if most or records >= _NOTICE_RECORDS or found.lost_usd >= _NOTICE_USD else "digest"


def _clock(name: str, source: KnownSource, hour: int) -> _Problem | None:
    hours, both = (source.within(hour), source.within(hour - HOUR_S)), source.within(hour, 2)
    found = next((each for each in hours if each.skewed_share > _LOST_SHARE), None)
    if found is None:
        return None
    most = both.skewed_share >= _MOST_SHARE and found.skewed >= _MOST_RECORDS
    tier: Tier = "notice" if most or found.skewed >= _NOTICE_RECORDS else "digest"
    return _Problem(tier, "ahead", *words.clock(name, found))


def _quiet(name: str, source: KnownSource, at: float) -> _Problem | None:
    habit, known_s = source.habit, at - source.first_at
    if name.startswith(REPLAYED) or source.heard or known_s - habit.quiet_s < _KNOWN_S:
        return None
    least_s = _QUIET_S if known_s >= DAY_S else _DAY_ONE_QUIET_S
    limit_s = max(least_s, _QUIET_FACTOR * habit.longest_s)
    gap_limit_s = habit.gap_limit_s(_QUIET_FACTOR)
    long_gap = gap_limit_s is not None and habit.quiet_s > max(_GAP_S, gap_limit_s)
    if habit.silent_s <= limit_s and not long_gap:
        return None
    is_sure = known_s >= _WEEKEND_S and habit.is_known(at) and habit.silent_s >= 2 * least_s
    return _Problem("notice" if is_sure else "digest", "quiet", *words.quiet(name, habit, known_s))


def _open(what: str, name: str, problem: _Problem, at: float) -> Alert:
    fingerprint = fingerprint_of("feed", what, name)
    scope = "scope" if what == "other" else "source"
    return Alert(
        fingerprint=fingerprint,
        alert_id=alert_id_of(fingerprint, at),
        revision=1,
        status="firing",
        kind="feed",
        tier=problem.tier,
        scope=scope,
        tags={scope: name},
        fired_at=at,
        updated_at=at,
        started_at=at,
        expected_usd=0.0,
        excess_usd=0.0,
        usd_per_hour=0.0,
        expected_usd_per_hour=0.0,
        score=0.0,
        channel=f"feed/{what}/{problem.label}",
        **_figures(name, problem),
    )


def _figures(name: str, problem: _Problem) -> dict[str, Any]:
    return {
        "actual_usd": problem.usd,
        "dollars_at_risk": problem.usd,
        "reason": problem.reason,
        "explanation": f"{problem.reason[0].upper()}{problem.reason[1:]}. {problem.next_step}",
    }


def _measure(name: str, tally: SourceTally) -> None:
    refused = sum(tally.refused.values())
    for outcome, records, usd in (
        ("counted", tally.counted, tally.counted_usd),
        ("late", tally.late, tally.late_usd),
        ("not_scored", tally.missed, tally.missed_usd),
        ("duplicate", tally.duplicates, tally.duplicate_usd),
        ("refused", refused, tally.refused_usd),
        ("ignored", sum(tally.ignored.values()), 0.0),
        ("fallback", tally.fallback, tally.fallback_usd),
        ("usage_missing", tally.unmetered, 0.0),
        ("clock_ahead", tally.skewed, 0.0),
    ):
        if records > 0:
            metrics.FEED_RECORDS.labels(source=name, outcome=outcome).inc(records)
        if usd > 0:
            metrics.FEED_USD.labels(source=name, outcome=outcome).inc(usd)
