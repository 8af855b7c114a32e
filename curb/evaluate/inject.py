"""Incidents of several shapes and sizes, put into random keys of a recorded stream."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from curb.detector.state.scopes import Scope, SeriesTags
from curb.evaluate.score import Label
from curb.stream.records.spend import SpendRecord, UsageRecord
from curb.stream.time import DAY_S, HOUR_S

#: Keys whose hours are kept: bounds the memory to some 200 MB at a month of hours. By hand.
_MOST_KEYS = 1000
#: Dollars that an incident costs at least, drawn evenly over the orders between these: one of a key that spends cents
#: is made larger, as a loop's spend does not ask what its key usually spends. By hand: what $5 at risk is worth.
_LEAST_USD = (10.0, 60.0)
#: Days before an incident whose mean is the key's usual spend, and days between two incidents of one key. By hand.
_USUAL_DAYS, _APART_DAYS = 7, 2
#: Draws of a key and an hour before a shape is given up. By hand.
_DRAWS = 200
#: Share of a retry storm's requests that fail, and the cost of one as a part of an ordinary request: the prompt is
#: billed, the answer is not. By hand.
_FAILING, _PROMPT_ONLY = 0.9, 0.4
#: Part of a leak after which it has reached its full size. By hand.
_RAMP = 0.5


class Shape(NamedTuple):
    """A kind of incident: its spend or requests as a multiple of the usual ones of the key, and how long it lasts."""

    name: str
    factor: float
    hours: float

    def excess(self, share: float) -> float:
        """Excess at a moment, `share` (0 to 1) of its length after the start, as a multiple of the usual."""
        if self.name == "new key":
            return self.factor
        grown = min(1.0, share / _RAMP) if self.name.startswith("leak") else 1.0
        cost = _PROMPT_ONLY if self.name == "retry storm" else 1.0
        return (self.factor - 1) * grown * cost


SHAPES = (
    Shape("loop ×3", 3, 6),
    Shape("loop ×8", 8, 3),
    Shape("loop ×20", 20, 1.5),
    Shape("leak ×2", 2, 72),
    Shape("retry storm", 10, 2),
    Shape("new key", 3, 6),
)


@dataclass
class KeyHours:
    """The hours of one key: dollars, requests, input and output tokens by the number of the hour since 1970."""

    series: SeriesTags
    tags: dict[str, str]
    hours: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0] * 4))

    def usual(self, hour: int) -> list[float]:
        """Means per hour of the days before."""
        first = hour - _USUAL_DAYS * 24
        known = [amounts for at, amounts in self.hours.items() if first <= at < hour]
        since = max(first, min(self.hours))
        return [sum(each) / max(1, hour - since) for each in zip(*known, strict=True)] if known else [0.0] * 4


class Keys:
    """The keys of a stream: series of the scope whose series are principals and may raise alerts."""

    def __init__(self, scopes: Iterable[Scope]) -> None:
        fitting = (each for each in scopes if each.role == "principal" and each.detect and "usage" in each.sources)
        self.scope = next(fitting, None)
        self.known: dict[SeriesTags, KeyHours] = {}
        self.first, self.last = math.inf, -math.inf

    def add(self, record: SpendRecord) -> None:
        """Count a record of usage."""
        if self.scope is None or not isinstance(record, UsageRecord):
            return
        at = record.charge_period_start
        self.first, self.last = min(self.first, at), max(self.last, at)
        series = self.scope.series(record.tags)
        key = self.known.get(series)
        if key is None:
            if len(self.known) >= _MOST_KEYS:
                return
            key = self.known[series] = KeyHours(series, record.tags)
        amounts = key.hours[int(at) // HOUR_S]
        amounts[0] += record.effective_cost
        amounts[1] += record.requests
        amounts[2] += record.input_tokens
        amounts[3] += record.output_tokens


@dataclass(frozen=True)
class InjectedIncident:
    """One incident: its shape, whose it is, and its records, one a step."""

    shape: Shape
    label: Label
    records: tuple[UsageRecord, ...]


def inject(keys: Keys, per_shape: int, seed: int, counts_from: float, step_s: int) -> list[InjectedIncident]:
    """`per_shape` incidents of each shape, in random keys and hours; fewer where keys or days are few.

    They start after `counts_from` (epoch seconds) in an hour in which the key spends, and end within the stream. The
    same `seed` gives the same incidents on the same stream.
    """
    rng = random.Random(seed)
    taken: dict[SeriesTags, list[tuple[float, float]]] = defaultdict(list)
    ordered = [keys.known[series] for series in sorted(keys.known)]
    if not ordered:
        return []
    # One incident a key and week: more would teach the detector that they are normal.
    most = max(len(SHAPES), int(len(ordered) * (keys.last - counts_from) / (7 * DAY_S)))
    found: list[InjectedIncident] = []
    for _ in range(per_shape):
        for shape in SHAPES:
            drawn = _draw(rng, shape, ordered, taken, counts_from, keys.last) if len(found) < most else None
            if drawn is not None:
                key, start, usual = drawn
                taken[key.series].append((start, start + shape.hours * HOUR_S))
                found.append(_incident(shape, key, start, usual, len(found), keys.scope, step_s))
    return found


def _draw(
    rng: random.Random,
    shape: Shape,
    keys: Sequence[KeyHours],
    taken: Mapping[SeriesTags, list[tuple[float, float]]],
    counts_from: float,
    last: float,
) -> tuple[KeyHours, float, list[float]] | None:
    """A key, a start in a busy hour away from other incidents of the key, and the key's usual amounts then."""
    latest = last - shape.hours * HOUR_S
    if latest <= counts_from:
        return None
    for _ in range(_DRAWS):
        key = rng.choice(keys)
        hour = int(rng.uniform(counts_from, latest)) // HOUR_S + 1
        start = hour * HOUR_S
        apart = all(
            start > end + _APART_DAYS * DAY_S or start + shape.hours * HOUR_S < begin - _APART_DAYS * DAY_S
            for begin, end in taken[key.series]
        )
        if hour - 1 not in key.hours or not apart or start > latest:
            continue
        usual = key.usual(hour)
        usd = usual[0] * shape.excess(1.0) * shape.hours
        least = math.exp(rng.uniform(*map(math.log, _LEAST_USD)))
        if usd > 0:
            return key, start, [amount * max(1.0, least / usd) for amount in usual]
    return None


def _incident(
    shape: Shape, key: KeyHours, start: float, usual: list[float], number: int, scope: Scope | None, step_s: int
) -> InjectedIncident:
    tags, series = dict(key.tags), dict(key.series)
    if shape.name == "new key" and scope is not None:
        named = scope.identified_by or scope.group_by[-1]
        tags[named] = series[named] = f"injected-{number}"
    end = start + shape.hours * HOUR_S
    records = tuple(_records(shape, start, end, usual, number, tags, step_s))
    label = Label(
        id=f"{shape.name} {number}",
        kind=shape.name,
        label="incident",
        tags={**tags, **series},
        start=start,
        end=end,
        excess_usd=math.fsum(each.effective_cost for each in records),
        windows=((start, end),),
        truth_at=np.array([each.charge_period_start for each in records], np.float64),
        truth_usd=np.array([each.effective_cost for each in records], np.float64),
    )
    return InjectedIncident(shape, label, records)


def _records(
    shape: Shape, start: float, end: float, usual: list[float], number: int, tags: dict[str, str], step_s: int
) -> Iterator[UsageRecord]:
    usd, requests, inputs, outputs = usual
    storm = shape.name == "retry storm"
    for step in range(int((end - start) // step_s)):
        at = start + step * step_s
        part = step_s / HOUR_S * shape.excess((at - start) / (end - start))
        # A failing request is a whole request: its dollars are smaller, not its number.
        calls = max(1, round(requests * part / (_PROMPT_ONLY if storm else 1.0)))
        yield UsageRecord(
            id=f"injected-{number}-{step}",
            charge_period_start=at,
            received_at=at + step_s,
            effective_cost=usd * part,
            tags=tags,
            source="backtest",
            requests=calls,
            errors=round(calls * _FAILING) if storm else 0,
            input_tokens=round(inputs * part),
            output_tokens=0 if storm else round(outputs * part),
        )


def merged(incidents: Sequence[InjectedIncident]) -> list[SpendRecord]:
    """The records of all incidents in order of receipt."""
    every: list[SpendRecord] = [record for each in incidents for record in each.records]
    arrival: Callable[[SpendRecord], float] = lambda record: record.received_at  # noqa: E731
    return sorted(every, key=arrival)
