"""How far month-end forecasts were off, beside simpler methods: `python -m benchmarks.detection.month_end --data DIR`.

Every series is cut into periods; on day 5, 10 and 20 of each the total is forecast from what was known by then, and
compared with what it came to. A series' periods are averaged first, then the series, so that a long one does not
outvote the others.

Bills have 58 complete days and hold one whole calendar month: that is "calendar". For "bill", 30-day periods that begin
every third day are used as if they were months; they overlap, so they are worth about two months per account, not the
number shown. They begin late enough for 14 days of history on day 10. Taxi rides and simulated spends use their
calendar months, mentions of companies (55 days) periods like the bill's. Traces of keys have 14 days: their second week
is the period, and its days 1, 2 and 5 are about as far as days 5, 10 and 20. Constants of the methods were looked at on
the bills, the demand and seed 1 of the simulation; other seeds are fresh.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.month_series import Series, nab, optscale, servegen, simulated
from curb.detector.forecast import prophet as forecast_prophet
from curb.detector.forecast.days import DailySpend, day_of
from curb.detector.forecast.month_end import Period, forecast

Floats = NDArray[np.float64]
DAYS = (5, 10, 20)
_WEEK_DAYS = {5: 1, 10: 2, 20: 5}


class Origin(NamedTuple):
    """One forecast to make."""

    series: Series
    period: Period
    #: Which of DAYS it counts for, and how many days of the period are over.
    day: int
    elapsed: int
    #: Days of history at most.
    history: int

    @property
    def known(self) -> DailySpend:
        """The days known at that time."""
        now = self.period.first_day + self.elapsed
        days, skip = self.series.days, max(0, now - self.history - self.series.days.first_day)
        return DailySpend(days.first_day + skip, days.usd[skip : now - days.first_day])

    @property
    def actual_usd(self) -> float:
        """What the period came to."""
        return float(np.nansum(self.series.days.between(self.period.first_day, self.period.end_day)))


def periods(series: Series) -> Iterator[Period]:
    """The periods of a series."""
    days = series.days
    if series.kind == "keys":
        yield Period(days.first_day + 7, days.first_day + 14)
    elif len(days.usd) < 90 and series.kind != "calendar":
        for start in range(days.first_day + 4, days.end_day - 29, 3):
            yield Period(start, start + 30)
    else:
        earliest = days.first_day + (4 if series.kind == "calendar" else 14)
        firsts = [day for day in range(earliest, days.end_day + 1) if day_of(day).day == 1]
        for start, end in itertools.pairwise(firsts):
            yield Period(start, end)


def origins(series: Series, history: int) -> Iterator[Origin]:
    """Every forecast of a series."""
    for period in periods(series):
        for day in DAYS:
            elapsed = _WEEK_DAYS[day] if series.kind == "keys" else day
            origin = Origin(series, period, day, elapsed, history)
            if origin.actual_usd > 0:
                yield origin


def last_7(known: Floats, first_day: int, ahead: int) -> Floats:
    """Mean of the last seven days."""
    return np.full(ahead, known[-7:].mean())


def seasonal_naive(known: Floats, first_day: int, ahead: int) -> Floats:
    """Mean of the same weekday over 28 days."""
    recent = known[-28:]
    return np.array(
        [recent[(len(recent) + k) % 7 :: 7].mean() if len(recent) >= 7 else recent.mean() for k in range(ahead)]
    )


def prophet_default(known: Floats, first_day: int, ahead: int) -> Floats:
    """Prophet as it comes."""
    at = (first_day + np.arange(len(known) + ahead)) * 86400
    expected, _, _ = forecast_prophet.predict(at[: len(known)], known, at[len(known) :])
    return expected


PEERS: dict[str, Callable[[Floats, int, int], Floats]] = {"last 7 days": last_7, "seasonal naive": seasonal_naive}


def judge(origin: Origin, *, fits: bool) -> dict[str, tuple[float, bool | None]]:
    """Absolute percentage error of every method, and whether the interval held it."""
    known, actual = origin.known, origin.actual_usd
    ahead = origin.period.end_day - known.end_day
    found = forecast(known, origin.period, thorough=fits)
    held = found.low_usd <= actual <= found.high_usd
    rows: dict[str, tuple[float, bool | None]] = {"Curb": (_ape(found.expected_usd, actual), held)}
    usd = np.nan_to_num(known.usd)
    spent = float(usd[len(usd) - origin.elapsed :].sum())
    rows["run rate"] = (_ape(spent * origin.period.days / origin.elapsed, actual), None)
    peers = dict(PEERS)
    if fits and not forecast_prophet.missing(("prophet",)):
        peers["Prophet"] = prophet_default
    for name, peer in peers.items():
        rows[name] = (_ape(spent + float(peer(usd, known.first_day, ahead).sum()), actual), None)
    return rows


def _ape(expected: float, actual: float) -> float:
    return 100 * abs(expected - actual) / actual


def measure(found: Sequence[Origin], *, fits: bool = True) -> list[dict[str, Any]]:
    """One row per kind of series, day and method: mean APE in percent, coverage of the interval, forecasts."""
    by: dict[tuple[str, int, str], dict[str, list[tuple[float, bool | None]]]] = defaultdict(lambda: defaultdict(list))
    for number, origin in enumerate(found, 1):
        for method, result in judge(origin, fits=fits).items():
            by[origin.series.kind, origin.day, method][origin.series.name].append(result)
        if sys.stderr.isatty():
            print(f"\r{number} of {len(found)}", end="", file=sys.stderr)
    rows = []
    for (kind, day, method), series in by.items():
        held = [np.mean([held for _, held in results if held is not None] or [np.nan]) for results in series.values()]
        row = {"series": kind, "day": day, "method": method}
        row["mape"] = round(float(np.mean([np.mean([ape for ape, _ in results]) for results in series.values()])), 2)
        row["coverage"] = None if np.isnan(held).all() else round(float(np.mean(held)), 3)
        row["forecasts"] = sum(map(len, series.values()))
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table per kind of series."""
    for kind in dict.fromkeys(row["series"] for row in rows):
        mine = [row for row in rows if row["series"] == kind]
        count = sum(row["forecasts"] for row in mine if row["method"] == "Curb") // len(DAYS)
        print(f"\n{kind}: {count} periods\n{'':16}" + "".join(f"   day {day:>2}" for day in DAYS) + "   covered")
        for method in dict.fromkeys(row["method"] for row in mine):
            by_day = {row["day"]: row for row in mine if row["method"] == method}
            covered = [by_day[day]["coverage"] for day in DAYS]
            shares = "" if covered[0] is None else "   " + " ".join(f"{share:.0%}" for share in covered)
            print(f"{method:16}" + "".join(f"{by_day[day]['mape']:8.1f}%" for day in DAYS) + shares)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="month_end", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with dev/ and nab/")
    parser.add_argument("--history", type=int, default=90, help="days of history used at most")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated series")
    parser.add_argument("--simulated", type=int, default=6, help="number of simulated series")
    parser.add_argument("--quick", action="store_true", help="without Holt-Winters and Prophet")
    parser.add_argument(
        "--only", choices=("calendar", "bill", "keys", "demand", "simulated"), help="one kind of series"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args(argv)
    sources = {
        "calendar": lambda: optscale(options.data, "calendar"),
        "bill": lambda: optscale(options.data),
        "keys": lambda: servegen(options.data),
        "demand": lambda: nab(options.data),
        "simulated": lambda: simulated(options.simulated, seed=options.seed),
    }
    kinds = [options.only] if options.only else list(sources)
    found = [origin for kind in kinds for series in sources[kind]() for origin in origins(series, options.history)]
    rows = measure(found, fits=not options.quick)
    if options.json:
        print(json.dumps(rows))
    else:
        show(rows)


if __name__ == "__main__":
    main()
