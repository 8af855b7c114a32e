"""The series of a record, one per scope, by the raw bytes of its tags; new tag values are limited."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.scopes import Scope, SeriesTags, partition_of
from curb.stream.settings import Settings

logger = logging.getLogger(__name__)

#: Distinct byte strings of tags that are remembered; beyond, all are dropped and looked up again. Chosen by hand.
_MAX_COMBINATIONS = 200_000
_tags_decoder = msgspec.json.Decoder(dict[str, str])


class GuardSettings(Settings):
    """How many series tags may make; spend over the limit is folded into __other__ and counted."""

    max_new_series_per_minute: int = Field(default=500, ge=1, description="Per scope and input partition.")
    max_series: int = Field(default=100_000, ge=1, description="Per scope and input partition.")


@dataclass(frozen=True, slots=True)
class OutputSeries:
    """One series as the rollup writes it."""

    scope: str
    tags: msgspec.Raw
    tags_bytes: int
    partition: int


class SeriesTable:
    """Series numbered from 0 over all scopes. A combination is the numbers for one set of tags, one per scope.

    The guard folds a series that is new into the scope's __other__ once `max_new_series_per_minute` others were new
    in the same minute of receipt, or `max_series` exist. A folded series may get a number of its own later.
    """

    def __init__(self, scopes: Sequence[Scope], guard: GuardSettings, partitions: int) -> None:
        self.scopes = tuple(scopes)
        self.series: list[OutputSeries] = []
        #: Events folded per scope since the last `take_folded`.
        self._folded: Counter[str] = Counter()
        self._folded_ever = 0
        self._guard, self._partitions = guard, partitions
        self._numbers: list[dict[SeriesTags, int]] = [{} for _ in self.scopes]
        self._minute = 0
        self._new_this_minute = [0] * len(self.scopes)
        self._warned_minute = -1
        self._combination_of: dict[bytes, int] = {}
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

    def _combination(self, raw: bytes, received_at: float) -> int:
        known = self._combination_of.get(raw)
        if known is not None:
            return known
        try:
            tags = _tags_decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return -1
        self._begin_minute(int(received_at // 60))
        folded_before = self._folded_ever
        row = []
        for at, (scope, numbers) in enumerate(zip(self.scopes, self._numbers, strict=True)):
            series = scope.series(tags)
            number = numbers.get(series)
            row.append(self._new_number(at, series) if number is None else number)
        combination = self._add_row(row)
        if self._folded_ever == folded_before:
            # A folded series is looked up every time: a minute later it may get a number.
            self._combination_of[raw] = combination
        return combination

    def _begin_minute(self, minute: int) -> None:
        if minute > self._minute:
            self._minute = minute
            self._new_this_minute = [0] * len(self.scopes)

    def _new_number(self, at: int, series: SeriesTags) -> int:
        numbers, scope = self._numbers[at], self.scopes[at]
        full = len(numbers) >= self._guard.max_series
        if full or self._new_this_minute[at] >= self._guard.max_new_series_per_minute:
            self._folded[scope.name] += 1
            self._folded_ever += 1
            self._warn(scope, full)
            number = numbers.get(scope.folded)
            return self._add_series(at, scope.folded) if number is None else number
        self._new_this_minute[at] += 1
        return self._add_series(at, series)

    def _warn(self, scope: Scope, full: bool) -> None:
        if self._minute != self._warned_minute:
            self._warned_minute = self._minute
            limit = "max_series" if full else "max_new_series_per_minute"
            logger.warning("new tag values are folded", extra={"scope": scope.name, "limit": limit})

    def _add_series(self, at: int, tags: SeriesTags) -> int:
        scope = self.scopes[at].name
        number = len(self.series)
        self._numbers[at][tags] = number
        raw = msgspec.json.encode(dict(tags))
        partition = partition_of(tags, self._partitions)
        self.series.append(OutputSeries(scope, msgspec.Raw(raw), len(raw), partition))
        return number

    def _add_row(self, numbers: list[int]) -> int:
        if self._row_count == len(self._rows):
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        self._rows[self._row_count, : len(numbers)] = numbers
        self._row_count += 1
        return self._row_count - 1

    def dump(self) -> dict[str, object]:
        new = {scope.name: count for scope, count in zip(self.scopes, self._new_this_minute, strict=True)}
        return {"series": [(each.scope, bytes(each.tags)) for each in self.series], "minute": self._minute, "new": new}

    def load(self, series: list[tuple[str, bytes]], minute: int, new: dict[str, int]) -> None:
        """Load the series that `dump` gave, except those of scopes that are no longer configured."""
        scope_at = {scope.name: at for at, scope in enumerate(self.scopes)}
        for scope, raw in series:
            if scope in scope_at:
                self._add_series(scope_at[scope], tuple(_tags_decoder.decode(raw).items()))
        self._minute, self._new_this_minute = minute, [new.get(scope.name, 0) for scope in self.scopes]
