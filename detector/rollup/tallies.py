"""Counts what became of every record of a source: counted, scored late or not at all, refused, repeated, ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from curb.detector.rollup.raw_records import HotRecord
from curb.detector.rollup.tag_table import OutputSeries
from curb.detector.state.columns import Bools, Floats, Ints
from curb.detector.state.scopes import Source
from curb.stream.records.dead_letters import Reason
from curb.stream.records.spend import OTHER, UNTAGGED, IntakeReport, ScopeTally, SourceTally, Tally
from curb.stream.time import HOUR_S

#: Sources of one input that are counted apart; further ones are counted together as `__other__`. Chosen by hand: ten
#: times what a large installation configures.
_MAX_SOURCES = 1000
#: Characters of a source's name that are kept, and names of what was ignored per source and hour. Chosen by hand.
_NAME_CHARS, _MAX_NAMES = 100, 20
#: Seconds after its bucket closed, its source's usual delay aside, from which a record counts as not scored. Until then
#: the two-hour window takes it in; later dollars only reach the windows that find leaks, hours later. Chosen by hand.
SCORED_WITHIN_S = 7200.0
#: Seconds by which a record is ahead of its receipt from which the sender's clock is off. Chosen by hand: clocks that
#: are kept in step differ by less than a second, and no bucket of the default length is missed by less.
_AHEAD_S = 60.0
#: Row of the requests without usage among the values.
_UNMETERED = 6
#: Dollars of one record; more is an error of units, and none of it was counted.
_MOST_USD = 1e9
#: How the tags of folded series, and of those that lack a tag, show in JSON.
_FOLDED, _LACKING = f'"{OTHER}"'.encode(), f'"{UNTAGGED}"'.encode()


class Timed(NamedTuple):
    """How records came in, arrays of one length: the delay by which they are scored later, seconds; the shares of each,
    0 to 1, that were late and that are not scored at all."""

    delay_s: Floats
    late: Floats
    missed: Floats


class Tallies:
    """The tallies of one input since they were last taken; nothing waits here over a flush."""

    def __init__(self, kind: Source, scopes: Sequence[str]) -> None:
        self._kind: Source = kind
        self._scopes = scopes
        self._sources: dict[tuple[str, int], SourceTally] = {}
        self._of_scopes: dict[tuple[str, int], ScopeTally] = {}
        self._names: set[str] = set()
        #: Of each series, by its number: whether it is a folded one, and whether it lacks a tag.
        self._folded, self._untagged = np.zeros(0, np.bool_), np.zeros(0, np.bool_)

    def counted(
        self, records: Sequence[HotRecord], start: Floats, received: Floats, values: Floats, timed: Timed
    ) -> None:
        """Records that were counted, with their rows of values (see `sums.COMMON`)."""
        usd, sources = values[0], [record.source for record in records]
        moved = (timed.delay_s > 0) | (timed.late > 0)
        late = moved & (timed.missed < 1)
        ahead_s = np.where(start - received > _AHEAD_S, start - received, 0.0)
        cost_sources = [record.cost_source for record in records]
        fallback = np.zeros(len(records), np.bool_)
        if "fallback" in cost_sources:
            fallback[:] = [each == "fallback" for each in cost_sources]
        for tally, of in self._groups(sources, received):
            tally.last_at = max(tally.last_at, float(received[of].max()))
            tally.counted += len(usd[of])
            tally.counted_usd += float(usd[of].sum())
            tally.late += int(np.count_nonzero(late[of]))
            tally.late_usd += float((usd * (1 - timed.missed))[of][late[of]].sum())
            tally.missed += float(timed.missed[of].sum())
            tally.missed_usd += float((usd * timed.missed)[of].sum())
            tally.fallback += int(np.count_nonzero(fallback[of]))
            tally.fallback_usd += float(usd[of][fallback[of]].sum())
            tally.unmetered += int(values[_UNMETERED][of].sum())
            tally.delay_s = float(timed.delay_s[of].max())
            if self._kind != "costs":  # a bill has no clock
                tally.skewed += int(np.count_nonzero(ahead_s[of]))
                tally.skew_s = max(tally.skew_s, float(ahead_s[of].max()))

    def repeated(self, records: Sequence[HotRecord], received: Floats) -> None:
        """Records whose id was counted before."""
        usd = np.nan_to_num(np.fromiter((each.effective_cost for each in records), np.float64, len(records)))
        for tally, of in self._groups([record.source for record in records], received):
            tally.last_at = max(tally.last_at, float(received[of].max()))
            tally.duplicates += len(usd[of])
            tally.duplicate_usd += float(usd[of].sum())

    def refused(self, source: str, at: float, reason: Reason, usd: float = 0.0) -> None:
        """A record that cannot be counted, received at `at` (epoch seconds)."""
        tally = self._tally(source, at)
        tally.refused[reason] = tally.refused.get(reason, 0) + 1
        tally.refused_usd += usd if 0 <= usd <= _MOST_USD else 0.0

    def intake(self, report: IntakeReport) -> None:
        """What a connector did not append."""
        tally = self._tally(report.source, report.at)
        for reason, count in report.refused.items():
            tally.refused[reason] = tally.refused.get(reason, 0) + count
        for given, count in report.ignored.items():
            name = _name(given)
            name = name if name in tally.ignored or len(tally.ignored) < _MAX_NAMES else OTHER
            tally.ignored[name] = tally.ignored.get(name, 0) + count
        tally.skewed += report.skewed
        tally.skew_s = max(tally.skew_s, report.skew_s)

    def scopes(self, rows: Ints, usd: Floats, received: Floats, series: Sequence[OutputSeries]) -> None:
        """The series of records, shape (records, scopes), whose numbers stand for `series`."""
        if len(series) > len(self._folded):
            new = [bytes(each.tags) for each in series[len(self._folded) :]]
            self._folded = np.concatenate((self._folded, [_FOLDED in tags for tags in new]))
            self._untagged = np.concatenate((self._untagged, [_LACKING in tags for tags in new]))
        hours = (received // HOUR_S).astype(np.int64) * HOUR_S
        for at, scope in enumerate(self._scopes):
            own = rows[:, at]
            for marks, count, dollars in (
                (self._folded, "folded", "folded_usd"),
                (self._untagged, "untagged", "untagged_usd"),
            ):
                chosen = marks[own]
                for hour in np.unique(hours[chosen]).tolist():
                    of = chosen & (hours == hour)
                    tally = self._of_scopes.setdefault((scope, hour), ScopeTally(scope=scope, hour=hour))
                    setattr(tally, count, getattr(tally, count) + int(np.count_nonzero(of)))
                    setattr(tally, dollars, getattr(tally, dollars) + float(usd[of].sum()))

    def take(self) -> list[Tally]:
        """All tallies since the last call."""
        taken: list[Tally] = [*self._sources.values(), *self._of_scopes.values()]
        self._sources, self._of_scopes = {}, {}
        return taken

    def _groups(self, sources: list[str], received: Floats) -> Iterator[tuple[SourceTally, slice | Ints]]:
        """The tally of each source and hour, and the places of its records."""
        if not sources:
            return
        hours = received // HOUR_S
        if sources.count(sources[0]) == len(sources) and hours.min() == hours.max():
            yield self._tally(sources[0], float(received[0])), slice(None)
            return
        names = np.array(sources, np.object_)
        for source in sorted(set(sources)):
            own: Bools = names == source
            for hour in np.unique(hours[own]).tolist():
                yield self._tally(source, hour * HOUR_S), np.flatnonzero(own & (hours == hour))

    def _tally(self, source: str, at: float) -> SourceTally:
        name = _name(source)
        if name not in self._names:
            name = name if len(self._names) < _MAX_SOURCES else OTHER
            self._names.add(name)
        hour = int(at // HOUR_S) * HOUR_S
        found = self._sources.get((name, hour))
        if found is None:
            found = self._sources[name, hour] = SourceTally(source=name, hour=hour, kind=self._kind)
        return found


def owner(tally: Tally, partitions: int) -> int:
    """The partition of the spend topic that keeps the tallies of a source or scope."""
    name = tally.source if isinstance(tally, SourceTally) else tally.scope
    return crc32(name.encode()) % partitions


def _name(given: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in given)[:_NAME_CHARS]
