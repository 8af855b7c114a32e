"""The test of the fast lane: per principal, requests and dollars in slots of seconds against its own highest minute.

State. Per principal decayed sums S of requests, dollars and users (time constant a minute), the highest honest S of 28
days, two overlapping minutes with the highest honest one (and that of each day, for ceilings), and sums of a week.

Update. S falls by exp(-dt / 60 s) and gains what a slot brings. Only slots with spend are visited, as S falls between
them. A new highest S counts as honest once its excursion is over, or after half an hour that raised no alert.

Score. S over c * H + z * sqrt(c * H * u), with H the highest honest S and u one request, or the dollars of four. c
grows with the burstiness H / mean and falls with the days a principal is known: records are broken about 1 / days
times a day. Users beyond their own highest minute explain requests and dollars in proportion.

Source. A Shewhart chart on exponentially weighted sums (Roberts, "Control chart tests based on geometric moving
averages", 1959); limits from records instead of a distribution, as spend has no tail that one could trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats, Ints
from curb.stream.time import DAY_S

#: Seconds of a slot. By definition: sources in moments are dated to the second, and ten seconds are two of them.
SLOT_S = 5
_SLOTS = 60 // SLOT_S
#: What is divided by, at least.
_TINY = 1e-12
#: Requests, dollars and, where sources report them, users; the first two are judged.
_KINDS, _JUDGED = 3, 2
#: Days of which the highest minute is kept. By hand: a month and a day, so that a month's end is seen once.
_DAYS = 32
#: Times what was last reported of a day from which it is reported again. By hand: seven lines for a doubling.
_GROWN = 1.1
_DAY_SLOTS = int(DAY_S) // SLOT_S


@dataclass(frozen=True)
class Params:
    """Numbers of the test."""

    #: Seconds of the sums that are judged. By definition: a minute.
    window_s: float = 60.0
    #: Times the highest honest sum at which a soft alert opens. Chosen on a trace of a service: the highest minute of a
    #: steady key passes twice that of all earlier days on 2 to 4 of 1,000 days, and a factor of 2 found less.
    times: float = 1.7
    #: Highest sum over the mean from which a key counts as bursty; how fast `times` grows beyond it, and its most.
    #: By hand, on the same trace: bursty keys break their records ten times as often.
    bursty_from: float = 14.0
    bursty_power: float = 0.5
    most_times: float = 6.0
    #: Standard deviations that a count may lie over its limit by chance. Chosen on the same trace.
    z: float = 2.0
    #: Requests' worth of dollars whose square root is their noise: lognormal costs with a sigma of 1 or so. By hand.
    cost_units: float = 4.0
    #: Users per request below which a source counts people, and not requests. By hand.
    people: float = 0.5
    #: Seconds after which highest minutes weigh 1/e. By definition of the history: 28 days.
    memory_s: float = 28 * DAY_S
    #: Seconds of the means by which burstiness is measured, and of the mean dollars, for people. By hand: a week has
    #: its days off, a day is what people remember.
    week_s: float = 7 * DAY_S
    mean_s: float = DAY_S
    #: Slots without an alert after which what a principal does is its habit: half an hour. By hand.
    habit_slots: int = 360
    #: Dollars of an excursion from which its rate says something. By hand: one expensive request is no rate, and ten
    #: minutes at `min_usd_per_hour` are worth more.
    least_usd: float = 1.0
    #: Seconds a key is known, and its minutes with spend, before it is judged. By hand.
    known_s: float = DAY_S
    minutes: int = 30
    #: Times the mean minute at which a key whose calls are the same trips, instead of `times` its highest. By hand: a
    #: steady key passes three times its mean every day, and does not repeat itself then.
    loop_times: float = 3.0
    #: Factors of the limit: not confirmed, and confirmed (down to 1). By hand.
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
    #: The sum by its limit, and which of them: "requests" or "spend"; "loop" where its calls are the same.
    score: float
    kind: str
    #: What its calls repeat, in words; "" where they do not.
    loop: str = ""


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
        #: The loop that a principal is in, in words, "" for none; None where no loops are looked for.
        self.loop_of: Callable[[int], str] | None = None
        kinds, judged = Column((_KINDS,)), Column((_JUDGED,))
        self.columns = Columns(
            {
                #: The sums that are judged; their highest honest values, and those of the excursion.
                "recent": kinds,
                "high": kinds,
                "held_high": kinds,
                #: Slots: of the last spend, of the start of the excursion, of the first spend.
                "last": Column(dtype=np.int64, fill=-1),
                "since": Column(dtype=np.int64),
                "first": Column(dtype=np.int64, fill=-1),
                #: Whether the last slot was within what is usual; sums of the excursion.
                "calm": Column(dtype=np.bool_, fill=True),
                "over": judged,
                #: Two minutes, half a minute apart: their numbers and sums.
                "minute": Column((2,), np.int64, -1),
                "sum": Column((2, _JUDGED)),
                #: Highest honest minute; the highest of the excursion, which counts once it is over.
                "peak": judged,
                "held": judged,
                #: Requests of the highest honest minute of each day, a ring.
                "days": Column((_DAYS,), np.float32),
                #: The day until which nothing counts in it, since an alert fired.
                "spoiled": Column(dtype=np.int64, fill=-1),
                #: The highest minute before this day, and that of this day, as last reported.
                "reported": Column((2,)),
                "minutes": Column(),
                #: Sums of a week, and dollars of a day, decayed.
                "week": kinds,
                "day_usd": Column(),
                #: Factor of the limit, learned from being right or wrong.
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

    def limit(self, index: Ints, slot: int) -> Floats:
        """Sums of requests and dollars, shape (2, rows), at which these principals trip."""
        columns, params = self.columns, self._params
        high, week = columns["high"][:, index], columns["week"][:, index]
        age_s = np.maximum((slot - columns["first"][index]) * SLOT_S, DAY_S)
        mean = self._mean(index, slot)
        bursty = high[:_JUDGED] / np.maximum(mean, _TINY) / params.bursty_from
        times = params.times * np.clip(bursty, 1.0, None) ** params.bursty_power
        times = np.minimum(times, params.most_times) * (1 + DAY_S / age_s) * columns["factor"][index]
        # One user a request is a source that does not count people.
        people = week[2] < params.people * week[0]
        explained = np.where(people, columns["recent"][2, index] / np.maximum(high[2], _TINY), 1.0)
        return self._with_noise(high[:_JUDGED] * times * np.maximum(explained, 1.0), index)

    def loop_limit(self, index: Ints, slot: int) -> Floats:
        """The same for principals whose calls are the same."""
        return self._with_noise(self._params.loop_times * self._mean(index, slot), index)

    def _mean(self, index: Ints, slot: int) -> Floats:
        """Requests and dollars of the mean minute of a week."""
        age_s = np.maximum((slot - self.columns["first"][index]) * SLOT_S, DAY_S)
        mean_s = self._params.week_s * -np.expm1(-age_s / self._params.week_s)
        mean: Floats = self.columns["week"][:_JUDGED, index] / mean_s * self._params.window_s
        return mean

    def _with_noise(self, usual: Floats, index: Ints) -> Floats:
        """What `usual` sums may come to by chance."""
        week = self.columns["week"][:, index]
        unit = np.stack([np.ones(len(index)), self._params.cost_units * week[1] / np.maximum(week[0], _TINY)])
        limit: Floats = usual + self._params.z * np.sqrt(usual * unit)
        return limit

    def step(self, slot: int, index: Ints, amounts: Floats) -> list[Trip]:
        """Count requests, dollars and users, shape (3, rows), of distinct principals in one slot (its number)."""
        columns, params = self.columns, self._params
        self.begin_day(slot // _DAY_SLOTS)
        for phase in range(2):
            self._to_minutes(phase, slot, index, amounts[:_JUDGED])
        passed_s = self._pass(slot, index, amounts)
        recent = columns["recent"][:, index] * np.exp(-passed_s / params.window_s) + amounts
        columns["recent"][:, index] = recent
        usual = (recent[:_JUDGED] <= columns["high"][:_JUDGED, index]).all(axis=0)
        began = columns["calm"][index] & ~usual
        # What lasts without an alert is a habit.
        habit = ~columns["calm"][index] & (slot - columns["since"][index] >= params.habit_slots)
        columns["held_high"][:, index] = np.maximum(columns["held_high"][:, index], recent)
        self._end_excursions(index[(usual | habit) & ~columns["doubted"][index]])
        fresh = index[usual | began | habit]
        columns["since"][fresh] = slot
        columns["over"][:, fresh] = 0.0
        columns["calm"][index] = usual
        columns["over"][:, index] += amounts[:_JUDGED]
        return self._trips(slot, index, recent[:_JUDGED])

    def learn(self, slot: int, index: Ints, amounts: Floats) -> None:
        """Learn what these principals did in a minute that was not counted in slots, as the past that is read."""
        columns = self.columns
        self.begin_day(slot // _DAY_SLOTS)
        self._pass(slot, index, amounts)
        columns["minutes"][index] += 1
        honest = ~columns["doubted"][index]
        index, amounts = index[honest], amounts[:, honest]
        if slot // _DAY_SLOTS == self.day:
            self._need(index, amounts[0])
        for name, kinds in (("peak", _JUDGED), ("high", _KINDS)):
            columns[name][:, index] = np.maximum(columns[name][:, index], amounts[:kinds])

    def _pass(self, slot: int, index: Ints, amounts: Floats) -> Floats:
        """Let time pass and add to the long sums; seconds since the last spend."""
        columns, params = self.columns, self._params
        last, first = columns["last"][index], columns["first"][index]
        passed_s: Floats = np.where(last < 0, 0, np.maximum(0, slot - last)) * float(SLOT_S)
        columns["first"][index] = np.where(first < 0, slot, np.minimum(first, slot))
        columns["last"][index] = np.maximum(last, slot)
        for name, memory_s, added in (
            ("high", params.memory_s, 0.0),
            ("peak", params.memory_s, 0.0),
            ("week", params.week_s, amounts),
            ("day_usd", params.mean_s, amounts[1]),
        ):
            columns[name][..., index] = columns[name][..., index] * np.exp(-passed_s / memory_s) + added
        return passed_s

    def _trips(self, slot: int, index: Ints, recent: Floats) -> list[Trip]:
        columns, params = self.columns, self._params
        # Fewer dollars trip nothing, so a key that cost nothing so far is compared with them.
        least = np.array([[_TINY], [max(self._min_usd_per_hour * params.window_s / 3600, _TINY)]])
        score = recent / np.maximum(self.limit(index, slot), least)
        usd_per_hour = recent[1] * 3600 / params.window_s
        judged = self._known(slot, index) & ~columns["firing"][index] & (columns["over"][1, index] >= params.least_usd)
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
        return trips + self._loop_trips(slot, index, recent)

    def _loop_trips(self, slot: int, index: Ints, recent: Floats) -> list[Trip]:
        """Those over the lower limit of loops whose calls are the same; they may be within their highest minute."""
        if self.loop_of is None:
            return []
        columns, params = self.columns, self._params
        score = recent / np.maximum(self.loop_limit(index, slot), _TINY)
        over_usd = recent[1] * 3600 / params.window_s - self.mean_usd_per_hour(index, slot)
        judged = self._known(slot, index) & ~columns["firing"][index] & (over_usd >= self._min_usd_per_hour)
        judged &= (recent[1] >= params.least_usd) & (score >= 1.0).any(axis=0)
        trips, until = [], float((slot + 1) * SLOT_S)
        for at in np.flatnonzero(judged).tolist():
            number = int(index[at])
            if words := self.loop_of(number):
                requests, usd = recent[:, at].tolist()
                worst = float(score[:, at].max())
                trips.append(Trip(number, until - params.window_s, until, requests, usd, worst, "loop", words))
                columns["firing"][number] = columns["doubted"][number] = True
        return trips

    def _known(self, slot: int, index: Ints) -> Bools:
        """Whether a principal has a past."""
        columns, params = self.columns, self._params
        known: Bools = (slot - columns["first"][index]) * SLOT_S >= params.known_s
        return known & (columns["minutes"][index] >= params.minutes)

    def mean_usd_per_hour(self, index: Ints, slot: int) -> Floats:
        """Mean dollars of a day, by principal."""
        mean_s, first = self._params.mean_s, self.columns["first"][index]
        age_s = np.where(first < 0, 0, slot - first) * SLOT_S
        hours = np.maximum(mean_s * -np.expm1(-age_s / mean_s), 3600.0) / 3600
        mean: Floats = self.columns["day_usd"][index] / hours
        return mean

    def limit_per_minute(self, number: int, trip: Trip) -> float:
        """Requests of its highest honest minute, or fewer where requests have become more expensive or it loops."""
        requests, usd = self.columns["peak"][:, number].tolist()
        if trip.loop:
            mean = float(self._mean(np.array([number], np.int64), int(trip.until // SLOT_S))[0, 0])
            requests = min(requests, max(1.0, self._params.loop_times * mean))
        # Where nothing had a price, no request says what it may cost.
        if trip.requests > 0 and trip.usd > 0 and usd > 0:
            return float(min(requests, usd * trip.requests / trip.usd))
        return float(requests)

    def end(self, number: int) -> None:
        """The soft alert is over; the next one may open."""
        self.columns["firing"][number] = False

    def judge(self, number: int, *, confirmed: bool) -> None:
        """Learn from whether a soft alert was right."""
        columns, params = self.columns, self._params
        factor = float(columns["factor"][number])
        columns["doubted"][number] = False
        if confirmed:
            columns["factor"][number] = max(1.0, factor * params.tightened)
            for name in ("held", "held_high", "recent", "sum"):
                columns[name][..., number] = 0.0
        else:
            columns["factor"][number] = factor * params.eased
            self._end_excursions(np.array([number], np.int64))

    def _to_minutes(self, phase: int, slot: int, index: Ints, amounts: Floats) -> None:
        """Add to the current minute of a phase; a minute that is over counts as past."""
        columns = self.columns
        number = (slot + phase * _SLOTS // 2) // _SLOTS
        known = columns["minute"][phase, index]
        over = (known < number) & (known >= 0)
        if over.any():
            self._end_minutes(phase, index[over])
        columns["sum"][phase][:, index[known < number]] = 0.0
        columns["minute"][phase, index] = np.maximum(known, number)
        # What is older than the minute counts in it: the sums of a minute are no exact figures.
        columns["sum"][phase][:, index] += amounts

    def _end_minutes(self, phase: int, index: Ints) -> None:
        columns = self.columns
        columns["held"][:, index] = np.maximum(columns["held"][:, index], columns["sum"][phase][:, index])
        if phase == 0:
            columns["minutes"][index] += 1

    def _end_excursions(self, index: Ints) -> None:
        """What was spent in them was honest."""
        self._need(index, self.columns["held"][0, index])
        for highest, held in (("peak", "held"), ("high", "held_high")):
            best, seen = self.columns[highest], self.columns[held]
            best[:, index] = np.maximum(best[:, index], seen[:, index])
            seen[:, index] = 0.0

    def _need(self, index: Ints, requests: Floats) -> None:
        """So many requests a minute were needed on this day."""
        clean, today = self.columns["spoiled"][index] < self.day, self.columns["days"][self.day % _DAYS]
        today[index[clean]] = np.maximum(today[index[clean]], requests[clean])

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
        requests, usd = self.columns["week"][:_JUDGED, number].tolist()
        return usd / requests if requests > 0 and usd > 0 else None

    def dump(self) -> dict[str, NDArray[Any]]:
        return self.columns.dump("fast") | {"fast.day": np.array([self.day], np.int64)}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        arrays = dict(arrays)
        if "fast.high" not in arrays:
            arrays |= _of_before(arrays)
        self.day = int(arrays["fast.day"][0])
        self.columns.load("fast", arrays)


def _of_before(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the state of the cumulative sums has for this test: the highest minutes, which stand for all days."""
    peak, last = arrays["fast.peak"], arrays["fast.last"]
    count = peak.shape[-1]
    day = int(last.max(initial=-1)) // _DAY_SLOTS
    days = np.zeros((_DAYS, count), np.float32)
    days[(day - 1) % _DAYS] = peak[0]
    kinds = np.zeros((_KINDS, count))
    return {
        "fast.recent": kinds,
        "fast.high": np.concatenate([peak, kinds[_JUDGED:]]),
        "fast.held_high": kinds,
        "fast.calm": np.ones(count, np.bool_),
        "fast.week": kinds,
        "fast.day_usd": arrays["fast.mean_usd"],
        "fast.day": np.array([day], np.int64),
        "fast.days": days,
        "fast.spoiled": np.full(count, -1, np.int64),
        "fast.reported": np.zeros((2, count)),
    }
