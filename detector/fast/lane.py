"""The sequential test of the fast lane: per principal, requests and dollars in slots of seconds.

State. Per principal the highest honest minute (decayed over 28 days; and that of each day, for ceilings), the size of a
usual burst, the sums of two overlapping minutes, and two cumulative sums W, one of requests and one of dollars.

Update. With m in a slot, W becomes max(0, W + m/q * ln(rho) - b * s * (rho - 1)). The quantum q is the size-weighted
mean minute, sum(M^2) / sum(M), so that a key which works in bursts needs several of them. The rate b, in quanta a
second, is that of its highest honest minute, which no past minute passed. Only slots with spend are visited: the
second term is subtracted for all seconds since the last one, so the sum equals a test in every slot.

Score. W over its threshold, which is at least `Params.threshold` and at least twice what honest spend ever reached.

Source. Page, "Continuous inspection schemes", 1954: the likelihood ratio of a Poisson rate rho * b against b.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats, Ints
from curb.stream.time import DAY_S

#: Seconds of a slot. By definition: sources in moments are dated to the second, and ten seconds are two of them.
SLOT_S = 5
_SLOTS = 60 // SLOT_S
#: Requests, then dollars.
_KINDS = 2
#: Days of which the highest minute is kept. By hand: a month and a day, so that a month's end is seen once.
_DAYS = 32
#: Times what was last reported of a day from which it is reported again. By hand: seven lines for a doubling.
_GROWN = 1.1
_DAY_SLOTS = int(DAY_S) // SLOT_S


@dataclass(frozen=True)
class Params:
    """Numbers of the test."""

    #: Rate after a change, times the highest honest minute. By hand: W falls up to 2.2 times that minute.
    rho: float = 4.0
    #: W at which a change is called, nats. By hand, on one generated stream: 1 in e^12 per excursion.
    threshold: float = 12.0
    #: Times the highest W of honest spend. By hand: the next burst may be larger.
    margin: float = 2.0
    #: Seconds after which what was learned weighs 1/e. By definition of the history: 28 days.
    memory_s: float = 28 * DAY_S
    #: Seconds of the mean dollars, for people. By definition: a day.
    mean_s: float = DAY_S
    #: Dollars of an excursion from which its rate says something. By hand: one expensive request is no rate, and ten
    #: minutes at `min_usd_per_hour` are worth more.
    least_usd: float = 1.0
    #: Seconds a key is known, and its minutes with spend, before it is judged. By hand.
    known_s: float = DAY_S
    minutes: int = 30
    #: Factors of the threshold: not confirmed, and confirmed (down to 1). By hand.
    eased: float = 1.5
    tightened: float = 0.8


PARAMS = Params()


class Trip(NamedTuple):
    """One principal over its threshold."""

    number: int
    #: Epoch seconds: start of the excursion and end of the slot.
    since: float
    until: float
    #: Sums of the excursion.
    requests: float
    usd: float
    #: W by its threshold, and which of them: "requests" or "spend".
    score: float
    kind: str


class Peak(NamedTuple):
    """The highest honest minute of one principal, in requests: of the days before this one, and of this day so far."""

    number: int
    before: float
    today: float
    known_days: float
    usd_per_request: float | None


class FastTest:
    """Columns over principals, which are numbered by the caller from 0."""

    def __init__(self, min_usd_per_hour: float, params: Params = PARAMS) -> None:
        self._params, self._min_usd_per_hour = params, min_usd_per_hour
        kinds = Column((_KINDS,))
        self.columns = Columns(
            {
                "w": kinds,
                #: The highest W of the excursion, and of all honest ones.
                "top": Column(),
                "honest_top": Column(),
                #: Slots: of the last spend, of the start of the excursion, of the first spend.
                "last": Column(dtype=np.int64, fill=-1),
                "since": Column(dtype=np.int64),
                "first": Column(dtype=np.int64, fill=-1),
                #: Sums of the excursion.
                "over": kinds,
                #: Two minutes, half a minute apart: their numbers and sums.
                "minute": Column((2,), np.int64, -1),
                "sum": Column((2, _KINDS)),
                #: Highest honest minute; the highest of the excursion, which counts once it is over.
                "peak": kinds,
                "held": kinds,
                #: Requests of the highest honest minute of each day, a ring.
                "days": Column((_DAYS,), np.float32),
                #: The day until which nothing counts in it, since an alert fired.
                "spoiled": Column(dtype=np.int64, fill=-1),
                #: The highest minute before this day, and that of this day, as last reported.
                "reported": Column((2,)),
                #: Sums of minutes and of their squares, decayed.
                "sum1": kinds,
                "sum2": kinds,
                "minutes": Column(),
                "mean_usd": Column(),
                #: Factor of the threshold, learned from being right or wrong.
                "factor": Column(fill=1.0),
                #: Whether a soft alert fires, so that none is opened; and whether one waits to be judged, so that
                #: nothing is learned.
                "firing": Column(dtype=np.bool_),
                "doubted": Column(dtype=np.bool_),
            },
            64,
        )
        #: The newest day of the ring, counted from the epoch.
        self.day = -1

    def grow(self, n: int) -> None:
        """Make room for `n` principals."""
        self.columns.grow(n)

    def threshold(self) -> Floats:
        """W at which each principal trips."""
        honest = self._params.margin * self.columns["honest_top"]
        threshold: Floats = self.columns["factor"] * np.maximum(self._params.threshold, honest)
        return threshold

    def step(self, slot: int, index: Ints, amounts: Floats) -> list[Trip]:
        """Count requests and dollars, shape (2, rows), of distinct principals in one slot (its number)."""
        columns, params = self.columns, self._params
        self.begin_day(slot // _DAY_SLOTS)
        for phase in range(2):
            self._to_minutes(phase, slot, index, amounts)
        last = columns["last"][index]
        passed_s = np.where(last < 0, 0, np.maximum(0, slot - last)) * SLOT_S
        quantum = self._quantum(index)
        base = columns["peak"][:, index] / 60 / quantum
        w = np.maximum(0.0, columns["w"][:, index] - base * passed_s * (params.rho - 1))
        ended = (w == 0.0).all(axis=0)
        self._end_excursions(index[ended & ~columns["doubted"][index]])
        columns["since"][index[ended]] = slot
        columns["over"][:, index[ended]] = 0.0
        known = self._known(slot, index)
        # What is young has no past to compare with: all of it is honest.
        w = np.where(known, w + amounts / quantum * np.log(params.rho), 0.0)
        columns["w"][:, index] = w
        columns["over"][:, index] += amounts
        columns["top"][index] = np.maximum(columns["top"][index], w.max(axis=0))
        columns["last"][index] = np.maximum(last, slot)
        first = columns["first"][index]
        columns["first"][index] = np.where(first < 0, slot, first)
        keep = np.exp(-passed_s / params.mean_s)
        columns["mean_usd"][index] = columns["mean_usd"][index] * keep + amounts[1]
        return self._trips(slot, index, w)

    def _trips(self, slot: int, index: Ints, w: Floats) -> list[Trip]:
        columns = self.columns
        score = w / self.threshold()[index]
        judged = ~columns["firing"][index] & (columns["over"][1, index] >= self._params.least_usd)
        over_s = (slot + 1 - columns["since"][index]) * SLOT_S
        usd_per_hour = columns["over"][1, index] * 3600 / np.maximum(over_s, SLOT_S)
        judged &= usd_per_hour - self.mean_usd_per_hour(index, slot) >= self._min_usd_per_hour
        found = np.flatnonzero(judged & (score >= 1.0).any(axis=0))
        trips = []
        for at in found.tolist():
            number, kind = int(index[at]), int(score[:, at].argmax())
            trips.append(
                Trip(
                    number,
                    float(columns["since"][number] * SLOT_S),
                    float((slot + 1) * SLOT_S),
                    float(columns["over"][0, number]),
                    float(columns["over"][1, number]),
                    float(score[kind, at]),
                    ("requests", "spend")[kind],
                )
            )
            columns["firing"][number] = columns["doubted"][number] = True
        return trips

    def _known(self, slot: int, index: Ints) -> Bools:
        """Whether a principal has a past."""
        columns, params = self.columns, self._params
        first = columns["first"][index]
        known: Bools = (first >= 0) & ((slot - first) * SLOT_S >= params.known_s)
        return known & (columns["minutes"][index] >= params.minutes)

    def mean_usd_per_hour(self, index: Ints, slot: int) -> Floats:
        """Mean dollars of a day, by principal."""
        mean_s, first = self._params.mean_s, self.columns["first"][index]
        age_s = np.where(first < 0, 0, slot - first) * SLOT_S
        hours = np.maximum(mean_s * -np.expm1(-age_s / mean_s), 3600.0) / 3600
        mean: Floats = self.columns["mean_usd"][index] / hours
        return mean

    def limit_per_minute(self, number: int, trip: Trip) -> float:
        """Requests of its highest honest minute, or fewer where requests have become more expensive."""
        requests, usd = self.columns["peak"][:, number].tolist()
        if trip.requests > 0 and trip.usd > 0:
            return float(min(requests, usd * trip.requests / trip.usd))
        return float(requests)

    def end(self, number: int) -> None:
        """The soft alert is over; the next one may open."""
        self.columns["firing"][number] = False
        self.columns["w"][:, number] = 0.0

    def judge(self, number: int, *, confirmed: bool) -> None:
        """Learn from whether a soft alert was right."""
        columns, params = self.columns, self._params
        factor = float(columns["factor"][number])
        columns["doubted"][number] = False
        if confirmed:
            columns["factor"][number] = max(1.0, factor * params.tightened)
            columns["held"][:, number] = columns["top"][number] = 0.0
            columns["sum"][..., number] = 0.0
        else:
            columns["factor"][number] = factor * params.eased
            self._end_excursions(np.array([number], np.int64))

    def _quantum(self, index: Ints) -> Floats:
        """The size-weighted mean minute."""
        sum1, sum2 = self.columns["sum1"][:, index], self.columns["sum2"][:, index]
        quantum: Floats = np.where(sum1 > 0, sum2 / np.where(sum1 > 0, sum1, 1.0), np.inf)
        return quantum

    def _to_minutes(self, phase: int, slot: int, index: Ints, amounts: Floats) -> None:
        """Add to the current minute of a phase; a minute that is over counts as past."""
        columns = self.columns
        number = (slot + phase * _SLOTS // 2) // _SLOTS
        known = columns["minute"][phase, index]
        over = (known < number) & (known >= 0)
        if over.any():
            self._learn(phase, index[over], number - known[over])
        columns["sum"][phase][:, index[known < number]] = 0.0
        columns["minute"][phase, index] = np.maximum(known, number)
        # What is older than the minute counts in it: the sums of a minute are no exact figures.
        columns["sum"][phase][:, index] += amounts

    def _learn(self, phase: int, index: Ints, minutes: Ints) -> None:
        columns, sums = self.columns, self.columns["sum"][phase][:, index]
        columns["held"][:, index] = np.maximum(columns["held"][:, index], sums)
        if phase:
            return
        honest = ~columns["doubted"][index]
        index, sums, keep = index[honest], sums[:, honest], np.exp(-60.0 * minutes[honest] / self._params.memory_s)
        columns["sum1"][:, index] = columns["sum1"][:, index] * keep + sums
        columns["sum2"][:, index] = columns["sum2"][:, index] * keep + sums * sums
        columns["peak"][:, index] *= keep
        columns["honest_top"][index] *= keep
        columns["minutes"][index] += 1

    def _end_excursions(self, index: Ints) -> None:
        """What was spent in them was honest."""
        columns = self.columns
        columns["peak"][:, index] = np.maximum(columns["peak"][:, index], columns["held"][:, index])
        columns["honest_top"][index] = np.maximum(columns["honest_top"][index], columns["top"][index])
        clean = index[columns["spoiled"][index] < self.day]
        today = columns["days"][self.day % _DAYS]
        today[clean] = np.maximum(today[clean], columns["held"][0, clean])
        columns["held"][:, index], columns["top"][index] = 0.0, 0.0

    def begin_day(self, day: int) -> None:
        """Make room for the minutes of a new day, and of those passed over."""
        for new in range(max(self.day + 1, day - _DAYS + 1), day + 1):
            self.columns["days"][new % _DAYS] = 0.0
        self.day = max(self.day, day)

    def spoil(self, numbers: Sequence[int], since: int) -> None:
        """An alert fires on these principals: no minute from the day `since` on says what they need."""
        self.columns["spoiled"][list(numbers)] = self.day
        for day in range(max(since, self.day - _DAYS + 1), self.day + 1):
            self.columns["days"][day % _DAYS][list(numbers)] = 0.0

    def highest_minutes(self) -> tuple[Floats, Floats]:
        """Requests of the highest minute of the days before this one, and of this day so far, by principal."""
        days, today = self.columns["days"], self.day % _DAYS
        before = np.delete(days, today, axis=0).max(axis=0).astype(np.float64)
        open_too = ~self.columns["doubted"] & (self.columns["spoiled"] < self.day)
        running = np.where(open_too, self.columns["held"][0], 0.0)
        return before, np.maximum(days[today], running)

    def known_days(self, numbers: Ints) -> Floats:
        """Days since the first spend."""
        first = self.columns["first"][numbers]
        days: Floats = np.where(first < 0, 0.0, np.maximum(0.0, self.day - first / _DAY_SLOTS))
        return days

    def new_peaks(self, *, new_day: bool) -> list[Peak]:
        """What ceilings must know and was not reported: on a new day all that changed, else who needs more than ever.

        Within a day a principal is reported again when its minute has grown by a tenth.
        """
        before, today = self.highest_minutes()
        reported = self.columns["reported"]
        if new_day:
            found = np.flatnonzero((before != reported[0]) | (self.columns["days"][(self.day - 1) % _DAYS] > 0))
        else:
            found = np.flatnonzero((today > before) & (today >= _GROWN * np.maximum(reported[1], before)))
        found = found[before[found] > 0]
        reported[0, found], reported[1, found] = before[found], today[found]
        days = self.known_days(found)
        rows = zip(found.tolist(), before[found].tolist(), today[found].tolist(), days.tolist(), strict=True)
        return [Peak(*row, self.usd_per_request(row[0])) for row in rows]

    def usd_per_request(self, number: int) -> float | None:
        """What a request costs on average; None where requests cost nothing."""
        requests, usd = self.columns["sum1"][:, number].tolist()
        return usd / requests if requests > 0 and usd > 0 else None

    def dump(self) -> dict[str, NDArray[Any]]:
        return self.columns.dump("fast") | {"fast.day": np.array([self.day], np.int64)}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        arrays = dict(arrays)
        if "fast.day" not in arrays:  # of before the ring: the decayed highest minute stands for all days
            peak = arrays["fast.peak"]
            self.day = int(arrays["fast.last"].max(initial=-1)) // _DAY_SLOTS
            arrays["fast.days"] = np.zeros((_DAYS, peak.shape[-1]), np.float32)
            arrays["fast.days"][(self.day - 1) % _DAYS] = peak[0]
            arrays["fast.spoiled"] = np.full(peak.shape[-1], -1, np.int64)
            arrays["fast.reported"] = np.zeros((2, peak.shape[-1]))
        else:
            self.day = int(arrays["fast.day"][0])
        self.columns.load("fast", arrays)
