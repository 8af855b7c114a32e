"""Daily series for the month-end benchmark: bills, demand traces as spend, and simulated spends."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curb.detector.forecast.days import DailySpend, day_of, number_of


@dataclass(frozen=True)
class Series:
    """One daily series and what it is."""

    #: "bill", "calendar" (the bill by calendar months), "demand", "simulated" or "keys".
    kind: str
    name: str
    days: DailySpend


def optscale(directory: Path, kind: str = "bill") -> Iterator[Series]:
    """Every cloud account of a real bill, 58 days; its last two days were not complete when it was exported."""
    sums: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    with gzip.open(directory / "dev" / "optscale_billing_daily.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            day = number_of(datetime.fromisoformat(row["date"]).date())
            sums[row["account"]][day] += float(row["cost_usd"])
    for account, by_day in sums.items():
        yield Series(kind, account, _dense(by_day, drop_last=2))


def servegen(directory: Path, clients: int = 40) -> Iterator[Series]:
    """Requests of the busiest keys and of both models times list-price-like dollars a request, 14 days."""
    rates: dict[tuple[str, str], NDArray[np.float64]] = defaultdict(lambda: np.zeros(14))
    with gzip.open(directory / "dev" / "servegen_dev_rate_10min.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            day = int(row["t_s"]) // 86400
            if day < 14:
                rates[row["model"], row["client"]][day] += 600 * float(row["req_per_s"])
    usd = _request_usd(directory)
    busiest = sorted(rates, key=lambda key: -float(rates[key].sum()))[:clients]
    for model, client in busiest:
        yield Series("keys", f"{model}/{client}", DailySpend(0, rates[model, client] * usd.get((model, client), 0.001)))
    for model in sorted({model for model, _ in rates}):
        total = sum(rates[key] * usd.get(key, 0.001) for key in rates if key[0] == model)
        yield Series("keys", model, DailySpend(0, np.asarray(total)))


def _request_usd(directory: Path) -> dict[tuple[str, str], float]:
    """Dollars of a key's mean request at $2.50 and $10 per million tokens in and out."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with gzip.open(directory / "dev" / "servegen_dev_tokens_6h.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            usd = (2.5 * float(row["in_mean"]) + 10 * float(row["out_mean"])) / 1e6
            found[row["model"], row["client"]].append(usd)
    return {key: float(np.mean(each)) for key, each in found.items()}


def nab(directory: Path) -> Iterator[Series]:
    """Taxi rides and mentions of companies: real demand with weekdays, holidays and bursts, taken as dollars."""
    sums: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    with gzip.open(directory / "nab" / "nab.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["series"].endswith("nyc_taxi") or "Twitter" in row["series"]:
                day = number_of(datetime.fromisoformat(row["timestamp"]).date())
                sums[row["series"].split("/")[1]][day] += float(row["value"])
    for name, by_day in sums.items():
        cut = 0 if name == "nyc_taxi" else 1  # the mentions begin and end within a day
        yield Series("demand", name, _dense(by_day, drop_first=cut, drop_last=cut))


def simulated(count: int = 12, days: int = 240, seed: int = 1) -> Iterator[Series]:
    """Spends of LLM tags: weekdays, growth that comes and goes, level shifts, heavy-tailed days, fixed charges."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        weekday = np.where(np.arange(7) < 5, 1.0, rng.uniform(0.25, 1.0))
        slope = np.repeat(rng.normal(0.002, 0.006, days // 40 + 1), 40)[:days]
        shifts = np.where(rng.random(days) < 1 / 75, rng.normal(0, 0.35, days), 0.0)
        noise = np.zeros(days)
        for day in range(1, days):
            noise[day] = 0.6 * noise[day - 1] + rng.normal(0, 0.10)
        level = rng.lognormal(4, 1) * np.exp(np.cumsum(slope + shifts) + noise)
        bursts = np.where(rng.random(days) < 0.02, rng.uniform(1.5, 3, days), 1.0)
        usd = level * weekday[np.arange(days) % 7] * bursts
        start = number_of(datetime(2025, 1, 6 + number % 7).date())
        if number % 4 == 0:
            firsts = [day for day in range(days) if day_of(start + day).day == 1]
            usd[firsts] += 6 * float(np.median(usd))
        yield Series("simulated", f"tag-{number}", DailySpend(start, usd))


def _dense(by_day: dict[int, float], *, drop_first: int = 0, drop_last: int = 0) -> DailySpend:
    first, end = min(by_day) + drop_first, max(by_day) + 1 - drop_last
    return DailySpend(first, np.array([by_day.get(day, np.nan) for day in range(first, end)]))
