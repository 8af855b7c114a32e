"""What a scope burned over time, against what was expected: hours that the detector keeps, then samples of minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from curb.detector.shard import Shard
from curb.stream.time import DAY_S, HOUR_S
from curb.views.explanation import Point
from curb.views.recent_burn import RecentBurn

#: The usual hour is the median of the same hour on so many days before, of which so many must have been seen. By hand:
#: a week has every day of it once.
_DAYS, _LEAST_DAYS = 7, 3
#: Seconds that a sum of hours is used again. By hand: hours change once an hour, and a page is loaded more often.
_KEEP_S = 60.0


class BurnOverTime:
    """Charts of whole scopes and of single series."""

    def __init__(self, shards: Callable[[], Sequence[Shard]], recent: RecentBurn) -> None:
        self._shards, self._recent = shards, recent
        #: By scope: until when (steady seconds), the first hour, and dollars an hour.
        self._sums: dict[str, tuple[float, int, NDArray[np.float64]]] = {}

    def of_scope(self, scope: str, since: float, *, by_hours: bool) -> list[Point]:
        """All series of a scope from `since` (epoch seconds) on."""
        first, usd = self._hours(scope)
        samples = [] if by_hours else self._recent.totals(scope)
        return _joined(first, usd, [each for each in samples if each.at >= since], since)

    def of_series(self, scope: str, tags: Mapping[str, str], since: float, *, by_hours: bool) -> list[Point]:
        """One series from `since` (epoch seconds) on."""
        first, usd = self._hours_of(scope, tags)
        samples = [] if by_hours else self._recent.of(scope, tags)
        return _joined(first, usd, [each for each in samples if each.at >= since], since)

    def _hours(self, scope: str) -> tuple[int, NDArray[np.float64]]:
        now = time.monotonic()
        if scope in self._sums and self._sums[scope][0] > now:
            return self._sums[scope][1:]
        found = _summed(
            (hourly.first_hour, hourly.usd)
            for shard in self._shards()
            for i in shard.history.held()
            if shard.subject(i)[0] == scope and (hourly := shard.history.hourly(i)) is not None
        )
        self._sums[scope] = (now + _KEEP_S, *found)
        return found

    def _hours_of(self, scope: str, tags: Mapping[str, str]) -> tuple[int, NDArray[np.float64]]:
        return _summed(
            (hourly.first_hour, hourly.usd)
            for shard in self._shards()
            if (i := shard.number_of(scope, tags)) is not None and (hourly := shard.history.hourly(i)) is not None
        )


def _summed(hours: Iterable[tuple[int, NDArray[np.float64]]]) -> tuple[int, NDArray[np.float64]]:
    """The first hour, and the sum from there on; an hour that was not seen is NaN in all."""
    found = [(first, usd) for first, usd in hours if len(usd)]
    if not found:
        return 0, np.zeros(0)
    first = min(start for start, _ in found)
    end = max(start + len(usd) * HOUR_S for start, usd in found)
    total, seen = np.zeros((end - first) // HOUR_S), np.zeros((end - first) // HOUR_S, np.bool_)
    for start, usd in found:
        at = (start - first) // HOUR_S
        known = np.isfinite(usd)
        total[at : at + len(usd)] += np.where(known, usd, 0.0)
        seen[at : at + len(usd)] |= known
    total[~seen] = np.nan
    return first, total


def usual_hours(usd: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each hour usually costs, from the hours before it; NaN where too few of them were seen."""
    days = np.full((_DAYS, len(usd)), np.nan)
    for day in range(1, _DAYS + 1):
        shift = day * 24
        if shift < len(usd):
            days[day - 1, shift:] = usd[:-shift]
    enough = np.isfinite(days).sum(axis=0) >= _LEAST_DAYS
    found = np.full(len(usd), np.nan)
    if enough.any():
        found[enough] = np.nanmedian(days[:, enough], axis=0)
    return found


def _joined(first: int, usd: NDArray[np.float64], samples: list[Point], since: float) -> list[Point]:
    """Hours up to the first sample, each at its middle, then the samples."""
    until = samples[0].at if samples else float("inf")
    usual = usual_hours(usd)
    middles = first + HOUR_S * np.arange(len(usd)) + HOUR_S / 2
    shown = (middles >= since) & (middles + HOUR_S / 2 <= until)
    hours = zip(middles[shown].tolist(), usd[shown].tolist(), usual[shown].tolist(), strict=True)
    return [*(Point(*hour) for hour in hours), *samples]


#: The ranges of a picker: name, seconds back, and whether it shows hours only.
RANGES: dict[str, tuple[float, bool]] = {
    "3h": (3 * HOUR_S, False),
    "24h": (DAY_S, False),
    "7d": (7 * DAY_S, True),
    "35d": (35 * DAY_S, True),
}
