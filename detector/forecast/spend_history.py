"""Dollars per day and per hour of the series that spend most in the configured scopes, for forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.forecast.days import DailySpend
from curb.detector.forecast.month_end import Today
from curb.detector.state.columns import Column, Columns, Floats, Ints
from curb.detector.state.local_time import LocalHour, local_hour
from curb.stream.settings import Settings

#: Days and hours kept: a year and a month to compare with, and five weeks for weekly seasons.
DAYS, HOURS = 400, 35 * 24
#: Share of a new day in the dollars a day by which series are ranked. Chosen by hand.
_RANK_SHARE = 0.25
#: A series takes the place of another when it spends this many times as much, so that places do not alternate. Chosen
#: by hand.
_REPLACE_RATIO = 1.5
#: No place.
_NONE = -1


class HistorySettings(Settings):
    """Series whose daily and hourly dollars are kept."""

    scopes: tuple[str, ...] = Field(
        default=("team", "model", "key"), description="Scopes whose series keep 400 days and 35 days of hours."
    )
    max_series: int = Field(
        default=2000,
        ge=0,
        description="Series per partition with a history, 5 kB each; those that spend most have it. 0 keeps none.",
    )


@dataclass(frozen=True)
class HourlySpend:
    """Dollars per hour, shape (hours,), up to the last hour that is over; NaN where under half of it was seen."""

    #: Epoch seconds.
    first_hour: int
    usd: Floats


class SpendHistory:
    """Rings of 400 days and 35 days of hours. Pure: the same closed buckets in the same order give the same state.

    Call `grow` when series are added, then `close` for every bucket in order of time, or `skip` over silence.
    """

    def __init__(self, settings: HistorySettings, time_zone: str, bucket_s: int) -> None:
        """`bucket_s` is the bucket length in seconds."""
        self._settings, self._bucket_s = settings, bucket_s
        self._zone = ZoneInfo(time_zone)
        self._series = Columns(
            {
                #: -1 without a place, -2 when its scope is not configured.
                "place": Column(dtype=np.int32),
                "day_usd": Column(),
                "usual_usd": Column(dtype=np.float32),
            },
            64,
        )
        self._places = Columns(
            {
                "series": Column(dtype=np.int32),
                "first_day": Column(dtype=np.int32),
                "first_hour": Column(dtype=np.int64),
                "hour_usd": Column(),
                "days": Column((DAYS,), np.float32),
                "hours": Column((HOURS,), np.float32),
            },
            16,
        )
        #: Seconds seen of the days and hours in the rings, and the newest local day and hour (epoch seconds).
        self._day_seen = np.zeros(DAYS, np.int32)
        self._hour_seen = np.zeros(HOURS, np.int32)
        self._now: LocalHour | None = None
        self._end = 0

    @property
    def bytes_per_series(self) -> float:
        """Bytes of one series with a place; a series without needs 16."""
        return self._places.bytes_per_series + self._series.bytes_per_series

    def wants(self, scope: str) -> bool:
        """True when series of this scope may have a history."""
        return self._settings.max_series > 0 and scope in self._settings.scopes

    def grow(self, scopes: Sequence[str]) -> None:
        """Use the series with these scopes, in the order of their numbers; only new ones are looked at."""
        old = self._series.n
        self._series.grow(len(scopes))
        self._series["place"][old:] = [-1 if self.wants(scope) else -2 for scope in scopes[old:]]

    def close(self, start: int, cost: Floats, gap: bool) -> None:
        """Count the closed bucket that began at `start`: `cost` is dollars by series. In a `gap` nothing was seen."""
        self._advance(start)
        if gap:
            return
        self._see(start, self._bucket_s)
        day_usd = self._series["day_usd"]
        day_usd += cost
        self._settle(cost)
        if self._places.n:
            hour_usd = self._places["hour_usd"]
            hour_usd += cost[self._places["series"]]

    def skip(self, start: int, end: int, gap: bool) -> None:
        """Silence from `start` to `end` (epoch seconds): nothing was seen, or, without `gap`, nothing was spent."""
        at = start
        while at < end:
            self._advance(at)
            until = min(end, at - at % 3600 + 3600)
            if not gap:
                self._see(at, until - at)
            at = until
        self._end = max(self._end, end)

    def late(self, index: Ints, cost: Floats, bucket: Ints) -> None:
        """Add sums of buckets (epoch seconds) that were closed before to their days and hours, if still held."""
        if self._now is None:
            return
        places = self._series["place"][index]
        held = places >= 0
        for place, usd, start in zip(places[held].tolist(), cost[held].tolist(), bucket[held].tolist(), strict=True):
            hour = local_hour(start, self._zone)
            if hour.start == self._now.start:
                self._places["hour_usd"][place] += usd
                continue
            if 0 <= self._now.day - hour.day < DAYS:
                self._places["days"][hour.day % DAYS, place] += usd
            if 0 <= self._now.start - hour.start < HOURS * 3600:
                self._places["hours"][hour.start // 3600 % HOURS, place] += usd
        for start in np.unique(bucket).tolist():
            # A bucket that was missing and came late has been seen now.
            self._see(start, self._bucket_s)

    # --- for forecasts ----------------------------------------------------------------------------------------------

    def held(self) -> list[int]:
        """Numbers of the series with a history."""
        return [int(i) for i in self._places["series"]]

    def usual_usd(self, i: int) -> float:
        """Recent dollars a day of series `i`."""
        return float(self._series["usual_usd"][i])

    def daily(self, i: int) -> DailySpend | None:
        """The days of series `i` that are over; None without a history."""
        place, now = self._place(i), self._now
        if place is None or now is None:
            return None
        days = np.arange(max(int(self._places["first_day"][place]), now.day - DAYS + 1), now.day)
        usd = self._places["days"][days % DAYS, place].astype(np.float64)
        return DailySpend(now.day - len(days), usd, np.minimum(self._day_seen[days % DAYS] / 86400, 1.0))

    def hourly(self, i: int) -> HourlySpend | None:
        """The hours of series `i` that are over; None without a history."""
        place, now = self._place(i), self._now
        if place is None or now is None:
            return None
        newest = now.start // 3600
        hours = np.arange(max(int(self._places["first_hour"][place]) // 3600, newest - HOURS + 1), newest)
        usd = self._places["hours"][hours % HOURS, place].astype(np.float64)
        usd[self._hour_seen[hours % HOURS] < 1800] = np.nan
        return HourlySpend((newest - len(hours)) * 3600 + now.start % 3600, usd)

    def today(self, i: int) -> Today:
        """Dollars of series `i` today, and the share of the day that is over."""
        place, now = self._place(i), self._now
        if place is None or now is None:
            return Today()
        usd = float(self._places["days"][now.day % DAYS, place]) + float(self._places["hour_usd"][place])
        since_midnight = now.of_day * 3600 + self._end - now.start
        return Today(usd, min(1.0, max(0.0, since_midnight / 86400)))

    @property
    def end(self) -> int:
        """End of the newest closed bucket, epoch seconds."""
        return self._end

    @property
    def open_hour(self) -> int:
        """Start of the current hour, epoch seconds; 0 before the first bucket. Earlier hours are over."""
        return 0 if self._now is None else self._now.start

    def _place(self, i: int) -> int | None:
        place = int(self._series["place"][i]) if i < self._series.n else _NONE
        return place if place >= 0 else None

    # --- inside -----------------------------------------------------------------------------------------------------

    def _see(self, start: int, seconds: int) -> None:
        now, hour = self._now, local_hour(start, self._zone)
        if now is None:
            return
        if 0 <= now.day - hour.day < DAYS:
            day = hour.day % DAYS
            self._day_seen[day] = min(self._day_seen[day] + seconds, 86400)
        if 0 <= now.start - hour.start < HOURS * 3600:
            at = hour.start // 3600 % HOURS
            self._hour_seen[at] = min(self._hour_seen[at] + seconds, 3600)

    def _advance(self, start: int) -> None:
        """Move to the hour of `start`: open sums go into the rings, cells of new hours and days are emptied."""
        before, now = self._now, local_hour(start, self._zone)
        self._end = max(self._end, start + self._bucket_s)
        if before is not None and now.start <= before.start:
            return
        self._now = now
        if before is None:
            return
        places = self._places
        places["hours"][before.start // 3600 % HOURS] += places["hour_usd"].astype(np.float32)
        places["days"][before.day % DAYS] += places["hour_usd"].astype(np.float32)
        places["hour_usd"][...] = 0.0
        passed = (now.start - before.start) // 3600
        new_hours = (before.start // 3600 + 1 + np.arange(min(max(passed, 1), HOURS))) % HOURS
        places["hours"][new_hours] = 0.0
        self._hour_seen[new_hours] = 0
        if now.day > before.day:
            new_days = (before.day + 1 + np.arange(min(now.day - before.day, DAYS))) % DAYS
            places["days"][new_days] = 0.0
            self._day_seen[new_days] = 0
            self._close_day()

    def _settle(self, cost: Floats) -> None:
        """Places for series that spend for the first time, while there are some left."""
        left = self._settings.max_series - self._places.n
        if left <= 0:
            return
        for i in np.flatnonzero((self._series["place"] == -1) & (cost > 0))[:left].tolist():
            place = self._places.n
            self._places.grow(place + 1)
            self._take(place, i)

    def _take(self, place: int, i: int) -> None:
        now, places = self._now, self._places
        assert now is not None
        for ring in ("days", "hours"):
            places[ring][:, place] = 0.0
        places["hour_usd"][place] = 0.0
        places["series"][place], places["first_day"][place] = i, now.day
        places["first_hour"][place] = now.start
        self._series["place"][i] = place

    def _close_day(self) -> None:
        """Rank by dollars a day; a series that spends much more than one with a place takes it and starts empty."""
        usual, day_usd, place = self._series["usual_usd"], self._series["day_usd"], self._series["place"]
        usual += (_RANK_SHARE * (day_usd - usual)).astype(np.float32)
        day_usd[...] = 0.0
        if self._places.n < self._settings.max_series:
            return
        waiting = np.flatnonzero(place == -1)
        waiting = waiting[np.argsort(-usual[waiting], kind="stable")]
        holders = self._places["series"].astype(np.int64)
        order = np.argsort(usual[holders], kind="stable")
        for i, at in zip(waiting.tolist(), order.tolist(), strict=False):
            leaver = int(holders[at])
            if usual[i] <= _REPLACE_RATIO * max(float(usual[leaver]), 0.01):
                return
            place[leaver] = -1
            self._take(at, i)

    # --- snapshots --------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, NDArray[Any]]:
        times = np.array([_NONE if self._now is None else self._now.start, self._end], np.int64)
        rings: dict[str, NDArray[Any]] = {
            "history.day_seen": self._day_seen,
            "history.hour_seen": self._hour_seen,
            "history.times": times,
        }
        return {**rings, **self._series.dump("history_series"), **self._places.dump("history_places")}

    def load(self, arrays: Mapping[str, NDArray[Any]], scopes: Sequence[str]) -> None:
        """Load what `dump` gave, with the scopes of the series; those that have a place keep it.

        Raises ValueError for rings of another length.
        """
        self._series.load("history_series", arrays)
        self._places.load("history_places", arrays)
        place = self._series["place"]
        wanted = np.array([self.wants(scope) for scope in scopes[: self._series.n]], np.bool_)
        place[...] = np.where(place >= 0, place, np.where(wanted, -1, -2))
        self._day_seen[...] = arrays["history.day_seen"]
        self._hour_seen[...] = arrays["history.hour_seen"]
        start, self._end = (int(each) for each in arrays["history.times"])
        self._now = None if start == _NONE else local_hour(start, self._zone)
