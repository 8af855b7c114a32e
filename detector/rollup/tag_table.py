"""The series of a record, one per scope, by the raw bytes of its tags; new tag values are limited."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.scopes import Scope, SeriesTags, partition_of
from curb.stream.log.protocol import Message
from curb.stream.records.names import name_message
from curb.stream.records.spend import OTHER, UNTAGGED
from curb.stream.settings import Settings

logger = logging.getLogger(__name__)

#: Distinct byte strings of tags that are remembered; beyond, all are dropped and looked up again. Chosen by hand.
_MAX_COMBINATIONS = 200_000
#: Folded series that are distinguished, per scope: 30 kB. Chosen by hand: twenty times as many as are named.
_HEAVY = 100
#: Values with a name, per input partition. By hand: as many as there may be series; further ones stay without a name.
_MOST_NAMED = 100_000
#: Characters of a name. By hand: a line of a message.
_LONGEST_NAME = 80
_tags_decoder = msgspec.json.Decoder(dict[str, str])


class GuardSettings(Settings):
    """How many series tags may make; spend over the limit is folded into __other__ of its parents and counted."""

    first_series: int = Field(
        default=20_000,
        ge=0,
        description="Per scope and input partition, new series that may come at once, as those of a new source do; "
        "the allowance fills up again by `max_new_series_per_minute`.",
    )
    max_new_series_per_minute: int = Field(default=500, ge=1, description="Per scope and input partition.")
    max_series: int = Field(default=100_000, ge=1, description="Per scope and input partition.")


@dataclass(frozen=True, slots=True)
class OutputSeries:
    """One series as the rollup writes it."""

    scope: str
    tags: msgspec.Raw
    tags_bytes: int
    partition: int


class HeavyHitters:
    """The largest of many names by dollars, in bounded memory (Space-Saving, Metwally et al. 2005).

    A name that is added to a full table takes over the smallest entry, so its dollars are too high by that at most,
    and none of the largest is ever missing.
    """

    def __init__(self, capacity: int = _HEAVY) -> None:
        self._capacity = capacity
        self.usd: dict[str, float] = {}

    def add(self, name: str, usd: float) -> None:
        """Count dollars of a name."""
        if usd <= 0:
            return
        if name not in self.usd and len(self.usd) >= self._capacity:
            smallest = min(self.usd, key=self.usd.__getitem__)
            usd += self.usd.pop(smallest)
        self.usd[name] = self.usd.get(name, 0.0) + usd

    def top(self, count: int) -> list[tuple[str, float]]:
        """The largest, most dollars first."""
        return sorted(self.usd.items(), key=lambda entry: -entry[1])[:count]


class NameNotes:
    """Notes each name once, and again when it changes. `names` is tag → the tag that holds its name."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = tuple(names.items())
        self._known: dict[tuple[str, str], str] = {}
        self._new: dict[tuple[str, str], str] = {}

    def note(self, tags: Mapping[str, str]) -> None:
        """Look at the tags of a record."""
        for tag, of in self._names:
            value, name = tags.get(tag), tags.get(of, "")[:_LONGEST_NAME].strip()
            if not value or not name or name == value or self._known.get((tag, value)) == name:
                continue
            if len(self._known) < _MOST_NAMED or (tag, value) in self._known:
                self._known[tag, value] = self._new[tag, value] = name

    def take(self) -> list[Message]:
        """What is new since the last call, for the log."""
        new, self._new = self._new, {}
        return [name_message(tag, value, name) for (tag, value), name in new.items()]


class SeriesTable:
    """Series numbered from 0 over all scopes. A combination is the numbers for one set of tags, one per scope.

    The guard folds a series that is new into __other__ of the nearest parent that is known (a team's project, a team,
    else of the scope) once its allowance of new series is used up, or `max_series` exist. So the caps and budgets of
    its parents see its dollars. A folded series may get a number of its own later.
    """

    def __init__(
        self,
        scopes: Sequence[Scope],
        guard: GuardSettings,
        partitions: int,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.scopes = tuple(scopes)
        self.series: list[OutputSeries] = []
        #: Events folded per scope since the last `take_folded`.
        self._folded: Counter[str] = Counter()
        self._guard, self._partitions = guard, partitions
        self._numbers: list[dict[SeriesTags, int]] = [{} for _ in self.scopes]
        #: The partition of all series of a principal: that of its first one.
        self._partition_of: dict[tuple[str, str], int] = {}
        #: Leading tags of the series that are known, per scope.
        self._parents: list[set[SeriesTags]] = [set() for _ in self.scopes]
        #: Combinations of the pending records that were folded: scope and series of each.
        self._pending: dict[int, list[tuple[str, SeriesTags]]] = {}
        self._largest = {scope.name: HeavyHitters() for scope in self.scopes}
        self._minute = 0
        #: New series that count against the allowance.
        self._used = [0] * len(self.scopes)
        self._warned_minute = -1
        self._combination_of: dict[bytes, int] = {}
        #: What people call the values of tags.
        self.names = NameNotes(names or {})
        self._rows = np.zeros((1024, max(1, len(self.scopes))), np.int64)
        self._row_count = 0

    def combinations(self, raw_tags: Sequence[bytes], received_at: Sequence[float]) -> list[int]:
        """The combination of each record's tags, -1 where they are not a JSON object of strings."""
        # Bytes keep their hash. With all hashes taken first, the memory accesses of the lookups overlap.
        deque(map(hash, raw_tags), maxlen=0)
        try:
            return list(map(self._combination_of.__getitem__, raw_tags))
        except KeyError:
            return list(map(self._combination, raw_tags, received_at))

    def rows(self, combinations: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of the series, shape (records, scopes). Valid until `forget_combinations`."""
        return self._rows.take(combinations, axis=0)

    @property
    def crowded(self) -> bool:
        """True when `forget_combinations` is due."""
        return self._row_count >= _MAX_COMBINATIONS

    def forget_combinations(self) -> None:
        """Free the memory of all combinations; numbers of series stay."""
        self._combination_of.clear()
        self._row_count = 0

    def take_folded(self) -> dict[str, int]:
        """Events that went into __other__, per scope, since the last call."""
        folded, self._folded = dict(self._folded), Counter()
        return folded

    def weigh(self, combinations: NDArray[np.int64], usd: NDArray[np.float64]) -> None:
        """Count the dollars of the folded ones among the pending records."""
        if not self._pending:
            return
        for combination, dollars in zip(combinations.tolist(), usd.tolist(), strict=True):
            for scope, series in self._pending.get(combination, ()):
                self._largest[scope].add(msgspec.json.encode(dict(series)).decode(), dollars)
        self._pending.clear()

    def largest_folded(self, count: int = 5) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Per scope with folded series: tags and dollars, at most, of the largest of them since the start."""
        top = {scope: largest.top(count) for scope, largest in self._largest.items()}
        return {
            scope: [(msgspec.json.decode(tags), usd) for tags, usd in found] for scope, found in top.items() if found
        }

    def _combination(self, raw: bytes, received_at: float) -> int:
        known = self._combination_of.get(raw)
        if known is not None:
            return known
        try:
            tags = _tags_decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return -1
        self.names.note(tags)
        self._begin_minute(int(received_at // 60))
        folded: list[tuple[str, SeriesTags]] = []
        row = []
        for at, (scope, numbers) in enumerate(zip(self.scopes, self._numbers, strict=True)):
            series = scope.series(tags)
            number = numbers.get(series)
            if number is None:
                number = self._new_number(at, series)
                if number is None:
                    number = self._fold(at, series)
                    folded.append((scope.name, series))
            row.append(number)
        combination = self._add_row(row)
        if folded:
            # A folded series is looked up every time: a minute later it may get a number.
            self._pending[combination] = folded
        else:
            self._combination_of[raw] = combination
        return combination

    def _begin_minute(self, minute: int) -> None:
        if minute > self._minute:
            freed = self._guard.max_new_series_per_minute * (minute - self._minute)
            self._minute, self._used = minute, [max(0, used - freed) for used in self._used]

    def _new_number(self, at: int, series: SeriesTags) -> int | None:
        """The number of a new series; None where it must be folded."""
        full = len(self._numbers[at]) >= self._guard.max_series
        allowance = max(self._guard.first_series, self._guard.max_new_series_per_minute)
        if full or self._used[at] >= allowance:
            self._warn(self.scopes[at], full)
            return None
        self._used[at] += 1
        return self._add_series(at, series)

    def _fold(self, at: int, series: SeriesTags) -> int:
        """The number of __other__ of the nearest parent that is known."""
        scope, numbers = self.scopes[at], self._numbers[at]
        self._folded[scope.name] += 1
        tags = scope.folded
        for kept in range(len(tags) - 1, 0, -1):
            if series[:kept] in self._parents[at]:
                tags = series[:kept] + tags[kept:]
                break
        number = numbers.get(tags)
        return self._add_series(at, tags) if number is None else number

    def _warn(self, scope: Scope, full: bool) -> None:
        if self._minute != self._warned_minute:
            self._warned_minute = self._minute
            limit = "max_series" if full else "max_new_series_per_minute"
            largest = [{"tags": tags, "usd": round(usd, 2)} for tags, usd in self.largest_folded().get(scope.name, ())]
            extra = {"scope": scope.name, "limit": limit, "largest": largest}
            logger.warning("new tag values are folded", extra=extra)

    def _add_series(self, at: int, tags: SeriesTags) -> int:
        scope = self.scopes[at].name
        number = len(self.series)
        self._numbers[at][tags] = number
        self._parents[at].update(tags[:kept] for kept in range(1, len(tags)))
        raw = msgspec.json.encode(dict(tags))
        partition = partition_of(tags, self._partitions)
        if (attributes := self.scopes[at].attributes) and tags[attributes][1] not in (UNTAGGED, OTHER):
            partition = self._partition_of.setdefault(tags[attributes], partition)
        self.series.append(OutputSeries(scope, msgspec.Raw(raw), len(raw), partition))
        return number

    def _add_row(self, numbers: list[int]) -> int:
        if self._row_count == len(self._rows):
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        self._rows[self._row_count, : len(numbers)] = numbers
        self._row_count += 1
        return self._row_count - 1

    def dump(self) -> dict[str, object]:
        new = {scope.name: count for scope, count in zip(self.scopes, self._used, strict=True)}
        series = [(each.scope, bytes(each.tags)) for each in self.series]
        largest = {scope: each.usd for scope, each in self._largest.items()}
        return {"series": series, "minute": self._minute, "new": new, "largest": largest}

    def load(
        self,
        series: list[tuple[str, bytes]],
        minute: int,
        new: dict[str, int],
        largest: dict[str, dict[str, float]] | None = None,
    ) -> None:
        """Load the series that `dump` gave, except those of scopes that are no longer configured."""
        scope_at = {scope.name: at for at, scope in enumerate(self.scopes)}
        for scope, raw in series:
            if scope in scope_at:
                self._add_series(scope_at[scope], tuple(_tags_decoder.decode(raw).items()))
        self._minute, self._used = minute, [new.get(scope.name, 0) for scope in self.scopes]
        for scope, usd in (largest or {}).items():
            if scope in self._largest:
                self._largest[scope].usd = dict(usd)
