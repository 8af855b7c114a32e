"""How soon the fast lane trips on a burn, and how often on nothing: `python -m benchmarks.first_minute --seeds 11 12`.

Streams in slots of 5 seconds from drawn parameters: keys at a drifting rate, and keys that work in bursts; or, with
`--rates FILE`, from the rates and burstiness of real clients in steps of ten minutes. Burns start at random moments of
the second half and add requests at so many times the key's mean. Beside each delay stands the least that any test which
knows the burn could reach, at one false alarm in 1,000 key-days; it is no less than a slot where delays are divided by
it. Dollars lost are those of the burn until it is limited, as if each key cost $60 an hour.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from curb.detector.fast.alerts import Config
from curb.detector.fast.lane import SLOT_S, FastTest, Trip
from curb.detector.state.columns import Floats, Ints
from curb.stream.time import DAY_S

_TIMES = (10, 20, 50, 100)
#: Any start; slots are numbered from the epoch. A soft alert lasts so many slots. Keys of fewer $/h are not in a row.
_EPOCH, _SOFT, _LEAST_USD = 350_000_000, 120, 6.0
#: Slots of a minute.
_MINUTE = 60 // SLOT_S
#: Slots that a burn is followed for: a quarter of an hour.
_FOLLOWED = 180
#: Of recorded rates: seconds of a step, fewest steps of a client, and the share of ten seconds of a steady one.
_STEP_S, _LEAST_ROWS, _STEADY = 600, 50, 0.3
#: ln(1 / alpha) of one false alarm in 1,000 key-days of slots.
_NATS = np.log(1000 * DAY_S / SLOT_S)


@dataclass
class Stream:
    """Keys by slots: requests and dollars; of each key the kind, the mean requests of a slot, and $ a request."""

    requests: Ints
    usd: Floats
    kinds: list[str]
    mean: Floats
    cost: Floats


def stream(rng: np.random.Generator, keys: int, days: int) -> Stream:
    """40 % of the keys work in bursts."""
    slots = int(days * DAY_S // SLOT_S)
    kinds = ["bursts" if rng.random() < 0.4 else "steady" for _ in range(keys)]
    cost = 10 ** rng.uniform(-2.7, -1, keys)
    mean = 10 ** rng.uniform(0.3, 2.3, keys) / cost * SLOT_S / 3600
    requests = np.array(
        [
            (_bursts if kind == "bursts" else _steady)(rng, each, slots)
            for kind, each in zip(kinds, mean.tolist(), strict=True)
        ]
    )
    # The sum of lognormal requests, as a gamma of the same mean and variance.
    usd = np.array([each * rng.gamma(of + 1e-9) for each, of in zip(cost.tolist(), requests, strict=True)])
    return Stream(requests, np.where(requests > 0, usd, 0.0), kinds, mean, cost)


def recorded(rng: np.random.Generator, keys: int, days: int, rates: Path) -> Stream:
    """Keys with the rates of clients in a file: model, client, t_s, req_per_s, cv (of their gaps), in ten minutes.

    A key with spend in 30 % of its ten seconds is steady. Numbers of requests are scaled by 0.2 to 3, and costs are
    lognormal, for $3 to $200 an hour.
    """
    clients: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    with gzip.open(rates, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            at = (float(row["t_s"]), float(row["req_per_s"]), float(row["cv"]))
            clients.setdefault((row["model"], row["client"]), []).append(at)
    busy = [rows for _, rows in sorted(clients.items()) if len(rows) > _LEAST_ROWS]
    slots = int(days * DAY_S // SLOT_S)
    step = np.arange(slots) * SLOT_S // _STEP_S
    found, costs, means, kinds = [], [], [], []
    for at in rng.choice(len(busy), min(keys, len(busy)), replace=False).tolist():
        rate, spread = np.zeros(int(days * DAY_S // _STEP_S)), np.ones(int(days * DAY_S // _STEP_S))
        for t_s, per_s, cv in busy[at]:
            if t_s < days * DAY_S:
                rate[int(t_s // _STEP_S)], spread[int(t_s // _STEP_S)] = per_s, np.clip(cv**2, 1, 20)
        mean = rate[step] * SLOT_S * np.exp(rng.uniform(np.log(0.2), np.log(3)))
        beyond = np.maximum(spread[step] - 1, 0.05)
        drawn = np.where(spread[step] > 1.05, rng.gamma(np.maximum(mean / beyond, 1e-12), beyond), mean)
        requests = rng.poisson(drawn)
        means.append(max(float(requests.mean()), 1e-9))
        costs.append(float(np.exp(rng.uniform(np.log(3), np.log(200)))) * SLOT_S / 3600 / means[-1])
        kinds.append("steady" if (requests.reshape(-1, 2).sum(axis=1) > 0).mean() > _STEADY else "bursts")
        found.append(requests)
    requests = np.array(found)
    usd = np.array([each * rng.gamma(of + 1e-9) for each, of in zip(costs, requests, strict=True)])
    return Stream(requests, np.where(requests > 0, usd, 0.0), kinds, np.array(means), np.array(costs))


def _rhythm(rng: np.random.Generator, slots: int) -> Floats:
    day: Floats = 1 + 0.7 * np.sin(2 * np.pi * (np.arange(slots) * SLOT_S / DAY_S + rng.uniform()))
    return day


def _steady(rng: np.random.Generator, mean: float, slots: int) -> Ints:
    per_minute = 60 // SLOT_S
    noise = rng.normal(size=slots // per_minute + 1)
    level = np.zeros(len(noise))
    for at in range(1, len(noise)):
        level[at] = 0.9 * level[at - 1] + np.sqrt(1 - 0.81) * noise[at]
    spread = rng.uniform(0.2, 0.7)
    rate = mean * _rhythm(rng, slots) * np.exp(spread * np.repeat(level, per_minute)[:slots] - spread**2 / 2)
    return rng.poisson(rate)


def _bursts(rng: np.random.Generator, mean: float, slots: int) -> Ints:
    share, length, spread = rng.uniform(0.02, 0.2), rng.uniform(4, 120), rng.uniform(0.3, 0.8)
    rate, at = np.zeros(slots), 0
    while at < slots:
        at += int(rng.exponential(length * (1 - share) / share)) + 1
        lasts = int(rng.exponential(length)) + 1
        rate[at : at + lasts] = mean / share * rng.lognormal(0, spread)
        at += lasts
    return rng.poisson(rate * _rhythm(rng, slots))


def _step(test: FastTest, slot: int, requests: Ints, usd: Floats) -> list[Trip]:
    index = np.flatnonzero(requests)
    if not len(index):
        return []
    return test.step(_EPOCH + slot, index, np.array([requests[index], usd[index], requests[index]]))


def refused(following: Ints, per_minute: float) -> int:
    """Of the requests by slot after a soft alert, those over its cap in their minute."""
    minutes = np.add.reduceat(following, np.arange(0, len(following), _MINUTE)) if len(following) else following
    return int(np.maximum(0, minutes - max(1, int(per_minute))).sum())


def burn(drawn: Stream, saved: FastTest, start: int, times: float, rng: np.random.Generator) -> list[float]:
    """Seconds from onset until each key trips, infinite where it does not."""
    test = FastTest(Config().min_usd_per_hour)
    test.load({name: array.copy() for name, array in saved.dump().items()})
    delay = [np.inf] * len(drawn.kinds)
    for after in range(_FOLLOWED):
        more = rng.poisson(drawn.mean * (times - 1))
        at = start + after
        for trip in _step(test, at, drawn.requests[:, at] + more, drawn.usd[:, at] + more * drawn.cost):
            delay[trip.number] = min(delay[trip.number], (after + 1.0) * SLOT_S)
        if np.isfinite(delay).all():
            break
    return delay


def optimum(mean: Floats, times: float) -> Floats:
    """Least seconds on average at one false alarm in 1,000 key-days, where both rates are known."""
    before, after = mean / SLOT_S, mean * times / SLOT_S
    least: Floats = _NATS / (after * np.log(after / before) - (after - before))
    return least


def measure(
    seed: int, keys: int, days: int, burns: int, rates: Path | None
) -> tuple[int, float, dict[tuple[int, str], list[tuple[float, float]]]]:
    """False alarms, the share of honest requests that their caps would refuse, and of every burn the delay and the
    optimum (seconds) by size and kind of key."""
    rng = np.random.default_rng(seed)
    drawn = stream(rng, keys, days) if rates is None else recorded(rng, keys, days, rates)
    slots = drawn.requests.shape[1]
    starts = set(rng.choice(np.arange(slots // 2, slots - _FOLLOWED), burns, replace=False).tolist())
    test, firing, wrong, turned_away = FastTest(Config().min_usd_per_hour), dict[int, int](), 0, 0
    test.grow(keys)
    found: dict[tuple[int, str], list[tuple[float, float]]] = {
        each: [] for each in product(_TIMES, ("steady", "bursts"))
    }
    paid = drawn.mean * drawn.cost * 3600 / SLOT_S >= _LEAST_USD
    for slot in range(slots):
        if slot in starts:
            for times in _TIMES:
                least = optimum(drawn.mean, times)
                for key, delay in enumerate(burn(drawn, test, slot, times, rng)):
                    if paid[key] and not test.columns["firing"][key]:
                        found[times, drawn.kinds[key]].append((delay, float(least[key])))
        for key in [key for key, until in firing.items() if until <= slot]:
            del firing[key]
            test.end(key)
            test.judge(key, confirmed=False)
        for trip in _step(test, slot, drawn.requests[:, slot], drawn.usd[:, slot]):
            key = trip.number
            firing[key], wrong = slot + _SOFT, wrong + 1
            following = drawn.requests[key, slot + 1 : slot + 1 + _SOFT]
            turned_away += refused(following, test.limit_per_minute(key, trip))
    return wrong, turned_away / max(1, int(drawn.requests.sum())), found


def rows(seeds: list[int], keys: int, days: int, burns: int, rates: Path | None = None) -> Iterator[str]:
    """The table, as Markdown."""
    wrong, turned_away = list[int](), list[float]()
    every: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for seed in seeds:
        count, share, found = measure(seed, keys, days, burns, rates)
        wrong.append(count)
        turned_away.append(share)
        for each, delays in found.items():
            every.setdefault(each, []).extend(delays)
    key_days = keys * (days - 1)
    often = [1000 * each / key_days for each in wrong]
    yield f"Seeds {', '.join(map(str, seeds))}; {keys} keys, {days} days, burns at {burns} moments each."
    yield f"Soft alerts on nothing: {np.mean(often):.1f} in 1,000 key-days ({min(often):.1f} to {max(often):.1f})."
    yield f"Honest requests that their caps would refuse: {np.mean(turned_away):.4%} (most {max(turned_away):.4%})."
    yield ""
    yield "| burn | keys | burns | ≤ 60 s | ≤ 120 s | ≤ 15 min | median | optimum, median | ÷ optimum | lost at $60/h |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for (times, kind), delays in sorted(every.items(), key=lambda each: (each[0][1], each[0][0])):
        delay, least = np.array(delays).T if delays else np.empty((2, 0))
        within = [f"{100 * np.mean(delay <= limit):.0f} %" for limit in (60, 120, 900)] if len(delay) else ["-"] * 3
        median = f"{np.median(delay):.0f} s" if len(delay) and np.isfinite(np.median(delay)) else "over 15 min"
        best = f"{np.median(least):.1f} s" if len(delay) else "-"
        ratio = np.median(delay / np.maximum(least, SLOT_S)) if len(delay) else np.inf
        lost = np.median(delay) / 3600 * 60 * (times - 1) if len(delay) else np.inf
        more = [f"{ratio:.1f}" if np.isfinite(ratio) else "-", f"${lost:.0f}" if np.isfinite(lost) else "-"]
        yield f"| {times} × | {kind} | {len(delay)} | {' | '.join([*within, median, best, *more])} |"


def shown(seed: int, times: float, days: int = 3) -> Iterator[str]:
    """One burn of one steady key, slot by slot until its soft alert, as Markdown."""
    rng = np.random.default_rng(seed)
    mean, cost, slots = 600 * SLOT_S / 3600, 0.02, int(days * DAY_S // SLOT_S)
    usual = _steady(rng, mean, slots + _FOLLOWED)
    test, one = FastTest(Config().min_usd_per_hour), np.array([0])
    test.grow(1)
    for slot in range(slots):
        for trip in _step(test, slot, usual[slot : slot + 1], usual[slot : slot + 1] * cost):
            test.end(trip.number)
            test.judge(trip.number, confirmed=False)
    peak, per_hour = test.columns["peak"][0, 0], mean * 3600 / SLOT_S
    yield f"A key of {per_hour:.0f} requests an hour for ${per_hour * cost:.0f}, known for {days} days, with {peak:.0f}"
    yield f"in its highest minute. From second 0 on it burns at {times:g} times its mean."
    yield ""
    yield "| second | requests in the slot | sum of the last minute | limit | dollars of the burn | |"
    yield "|---|---|---|---|---|---|"
    burnt = 0
    for after in range(_FOLLOWED):
        more = int(rng.poisson(mean * (times - 1)))
        burnt += more
        requests = usual[slots + after : slots + after + 1] + more
        trips = _step(test, slots + after, requests, requests * cost)
        recent, limit = test.columns["recent"][0, 0], test.limit(one, _EPOCH + slots + after)[0, 0]
        end = f"soft alert; a cap of {test.limit_per_minute(0, trips[0]):.0f} requests a minute" if trips else ""
        yield f"| {(after + 1) * SLOT_S} | {requests[0]} | {recent:.0f} | {limit:.0f} | ${burnt * cost:.2f} | {end} |"
        if trips:
            return


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--keys", type=int, default=40)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--burns", type=int, default=3)
    parser.add_argument("--rates", type=Path, help="recorded rates of clients, CSV with gzip")
    parser.add_argument("--show", type=float, metavar="TIMES", help="print one burn of one key, slot by slot, instead")
    given = parser.parse_args()
    if given.show:
        print("\n".join(shown(given.seeds[0], given.show)))
        return
    for row in rows(given.seeds, given.keys, given.days, given.burns, given.rates):
        print(row)


if __name__ == "__main__":
    main()
