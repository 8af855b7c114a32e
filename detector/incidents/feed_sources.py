"""What became of the records of a source in the last day, and the hours in which it usually reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from curb.stream.records.spend import SourceTally
from curb.stream.time import DAY_S, HOUR_S

#: Hours of tallies that are kept.
KEPT_HOURS = 24
#: Why a record that was counted is lost all the same; the other reasons are those of dead letters.
TOO_LATE = "too_late"
#: Share of an hour of the day, or of the week, that must have had data for the source to be missed in it, and the part
#: a new observation has in the share: once silent, an hour is trusted again after two weeks with data. Chosen by hand.
_USUAL, _WEIGHT = 0.75, 0.3
#: Share of the longest silence that a day keeps: half is forgotten in five weeks. Chosen by hand.
_KEEP_LONGEST = 0.98
#: Silences of so many seconds are gaps between deliveries, and as many of them show how long one lasts. Chosen by hand.
_GAP_S, _GAPS = 3600.0, 3
#: Seconds that a first silence may teach, at most twice.
_LEAST_S = 1800.0
#: Nobody has reported in this hour of the day or of the week yet.
_UNKNOWN = -1.0


class Figures(NamedTuple):
    """The tallies of some hours, added up."""

    received: int
    received_usd: float
    counted: int
    counted_usd: float
    scored: float
    scored_usd: float
    late: int
    late_usd: float
    not_scored: float
    not_scored_usd: float
    duplicates: int
    duplicate_usd: float
    refused: dict[str, int]
    refused_usd: float
    ignored: dict[str, int]
    fallback: int
    fallback_usd: float
    usage_missing: int
    skewed: int
    skew_s: float

    @property
    def lost(self) -> Counter[str]:
        """Records that were not counted or not scored, by reason."""
        found = Counter(self.refused)
        if self.not_scored >= 0.5:
            found[TOO_LATE] = round(self.not_scored)
        return found

    @property
    def lost_usd(self) -> float:
        return self.refused_usd + self.not_scored_usd

    @property
    def lost_share(self) -> float:
        """Of the records or of the dollars, whichever is more; 0 to 1. A repeated record is no loss."""
        records = (sum(self.refused.values()) + self.not_scored) / max(1, self.received - self.duplicates)
        usd = self.received_usd - self.duplicate_usd
        return min(1.0, max(records, self.lost_usd / usd if usd > 0 else 0.0))

    @property
    def skewed_share(self) -> float:
        """Of the records that were counted, 0 to 1."""
        return min(1.0, self.skewed / max(1, self.counted))

    def plain(self) -> dict[str, Any]:
        """For HTTP and the command line."""
        rounded = {name: round(each, 6) if isinstance(each, float) else each for name, each in self._asdict().items()}
        return {**rounded, "lost_percent": round(100 * self.lost_share, 2)}


def figures(tallies: Iterable[SourceTally]) -> Figures:
    """The sums of tallies."""
    total = SourceTally(source="", hour=0)
    for each in tallies:
        add(total, each)
    refused = sum(total.refused.values())
    return Figures(
        received=total.counted + refused + total.duplicates,
        received_usd=total.counted_usd + total.refused_usd + total.duplicate_usd,
        counted=total.counted,
        counted_usd=total.counted_usd,
        scored=total.counted - total.missed,
        scored_usd=total.counted_usd - total.missed_usd,
        late=total.late,
        late_usd=total.late_usd,
        not_scored=total.missed,
        not_scored_usd=total.missed_usd,
        duplicates=total.duplicates,
        duplicate_usd=total.duplicate_usd,
        refused=dict(total.refused),
        refused_usd=total.refused_usd,
        ignored=dict(total.ignored),
        fallback=total.fallback,
        fallback_usd=total.fallback_usd,
        usage_missing=total.unmetered,
        skewed=total.skewed,
        skew_s=total.skew_s,
    )


#: Fields of a tally of which the newest or the largest counts; the numbers among the others add up.
_LARGEST = frozenset({"last_at", "skew_s"})
_ADDED = tuple(
    field.name
    for field in msgspec.structs.fields(SourceTally)
    if field.name not in {"v", "source", "hour", "kind", "refused", "ignored", "delay_s", *_LARGEST}
)


def add(total: SourceTally, more: SourceTally) -> None:
    """Add a tally to another one."""
    for name in _ADDED:
        setattr(total, name, getattr(total, name) + getattr(more, name))
    for name in _LARGEST:
        setattr(total, name, max(getattr(total, name), getattr(more, name)))
    for into, counts in ((total.refused, more.refused), (total.ignored, more.ignored)):
        for name, count in counts.items():
            into[name] = into.get(name, 0) + count
    if more.counted:
        total.delay_s = more.delay_s


class Habit(msgspec.Struct):
    """When a source reports, and how long it is usually silent within these hours; seconds.

    An hour is usual when it and its neighbours had data, in the same hour of the week where that is known, or else of
    the day; where nothing is known, it counts as usual. So the edges of a working day, and summer time, are no silence.
    """

    days: list[float] = msgspec.field(default_factory=lambda: [_UNKNOWN] * 24)
    weeks: list[float] = msgspec.field(default_factory=lambda: [_UNKNOWN] * 168)
    #: The last hour that was learned, a number since 1970.
    learned: int = 0
    #: Silent for so long: in all, in usual hours, and in those that are known by the hour of the week.
    quiet_s: float = 0.0
    silent_s: float = 0.0
    known_silent_s: float = 0.0
    #: The longest in usual hours and in all; and how many were gaps between deliveries.
    longest_s: float = 0.0
    longest_gap_s: float = 0.0
    gaps: int = 0

    def heard(self, at: float, *, alerted: bool) -> None:
        """Something came at a time, epoch seconds.

        A silence that alerted teaches at most twice what was known, and nothing where the hour of the week was not: an
        outage is no habit, and a first weekend is another one.
        """
        silence, gap = self.silent_s, self.quiet_s
        if alerted:
            silence = min(self.known_silent_s, 2 * max(self.longest_s, _LEAST_S))
            gap = min(gap, 2 * max(self.longest_gap_s, _LEAST_S))
        self.longest_s, self.longest_gap_s = max(self.longest_s, silence), max(self.longest_gap_s, gap)
        self.gaps += self.quiet_s >= _GAP_S
        self.quiet_s = self.silent_s = self.known_silent_s = 0.0
        hour = int(at // HOUR_S)
        if hour > self.learned:
            first = self.learned + 1 if self.learned else hour
            for each in range(max(first, hour - 168), hour):
                self._learn(each, active=False)
            self._learn(hour, active=True)
            self.learned = hour

    def silent(self, since: float, until: float) -> None:
        """Nothing came between two times, epoch seconds."""
        self.quiet_s += until - since
        while since < until:
            end, hour = min(until, (since // HOUR_S + 1) * HOUR_S), int(since // HOUR_S)
            if self._is_usual(hour):
                self.silent_s += end - since
                self.known_silent_s += (end - since) * (self.weeks[hour % 168] >= 0)
            since = end

    def unheard(self, at: float) -> None:
        """Nobody listened until a time, epoch seconds: nothing is learned of the hours so far."""
        self.learned = max(self.learned, int(at // HOUR_S))

    def is_known(self, at: float) -> bool:
        """Whether the same hour of the week was seen before."""
        return self.weeks[int(at // HOUR_S) % 168] >= 0

    def gap_limit_s(self, factor: float) -> float | None:
        """A gap between deliveries that is too long, whatever the hour; None before three were seen."""
        return factor * self.longest_gap_s if self.gaps >= _GAPS else None

    def _learn(self, hour: int, *, active: bool) -> None:
        for shares, at in ((self.days, hour % 24), (self.weeks, hour % 168)):
            known = shares[at]
            shares[at] = float(active) if known < 0 else known + _WEIGHT * (active - known)
        keep = _KEEP_LONGEST ** (HOUR_S / DAY_S)
        self.longest_s *= keep
        self.longest_gap_s *= keep

    def _is_usual(self, hour: int) -> bool:
        return all(self._has_data(each) for each in (hour - 1, hour, hour + 1))

    def _has_data(self, hour: int) -> bool:
        of_week, of_day = self.weeks[hour % 168], self.days[hour % 24]
        known = of_week if of_week >= 0 else of_day
        return known < 0 or known >= _USUAL


class KnownSource(msgspec.Struct):
    """One source: its hours, its habit."""

    kind: str
    #: First heard, epoch seconds; and when a record of it was last counted.
    first_at: float
    last_at: float
    counted_at: float = 0.0
    hours: dict[int, SourceTally] = msgspec.field(default_factory=dict)
    habit: Habit = msgspec.field(default_factory=Habit)
    #: Something came since the last bucket closed.
    heard: bool = False

    def note(self, tally: SourceTally, at: float) -> None:
        """Take in a tally at `at`, the time that scoring has reached."""
        known = self.hours.get(tally.hour)
        if known is None:
            self.hours[tally.hour] = msgspec.structs.replace(
                tally, refused=dict(tally.refused), ignored=dict(tally.ignored)
            )
        else:
            add(known, tally)
        while len(self.hours) > 2 * KEPT_HOURS:
            del self.hours[min(self.hours)]
        self.last_at = max(self.last_at, tally.last_at, at)
        if tally.counted:  # refused ones are all reported on one topic
            self.kind, self.counted_at = tally.kind, max(self.counted_at, at)
        self.heard = True

    def forget(self, hour: int) -> None:
        """Drop hours that began a day or more before `hour` did (epoch seconds)."""
        for each in [start for start in self.hours if start <= hour - KEPT_HOURS * HOUR_S]:
            del self.hours[each]

    def within(self, hour: int, hours: int = 1) -> Figures:
        """The sums of `hours` hours, of which the last begins at `hour` (epoch seconds)."""
        return figures(each for start, each in self.hours.items() if hour - hours * HOUR_S < start <= hour)
