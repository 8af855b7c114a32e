"""An invented FOCUS bill of two months by the hour: usage of eight services, a forgotten fleet, fees, corrections."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from curb.stream.time import DAY_S, HOUR_S
from tests.fakes import focus_file as focus
from tests.fakes.aws_cur import rfc3339

#: Service, account, dollars a day, region, team.
_SERVICES = (
    ("Compute", "a-prod", 380.0, "us-east-1", "platform"),
    ("Compute", "a-search", 165.0, "eu-west-1", "search"),
    ("Database", "a-prod", 88.0, "us-east-1", "platform"),
    ("Object Storage", "a-prod", 71.0, "us-east-1", "data"),
    ("Transfer", "a-prod", 37.0, "us-east-1", "data"),
    ("Functions", "a-search", 9.0, "eu-west-1", "search"),
    ("Metrics", "a-prod", 23.0, "us-east-1", "platform"),
    ("Notebooks", "a-ml", 140.0, "us-west-2", "ml"),
)
FLEET_ACCOUNT, FLEET_USD_PER_HOUR = "a-ml", 393.28


def charge(start: float, hours: float, usd: float, service: str, account: str, **changes: Any) -> dict[str, Any]:
    """A line; `changes` are columns of FOCUS."""
    changes = {"ChargePeriodEnd": rfc3339(start + hours * HOUR_S), "RegionId": "us-east-1", **changes}
    usd = round(usd, 8)
    return focus.line(start, usd, ServiceName=service, SubAccountId=account, **changes)


def bill(first: float, days: int, *, fleet_day: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Its lines from a midnight (epoch seconds) on; from `fleet_day` on machines run that nobody uses."""
    rng = random.Random(seed)
    for number in range(days):
        day = first + number * DAY_S
        week = 0.75 if datetime.fromtimestamp(day, UTC).weekday() >= 5 else 1.0
        for hour in range(24):
            at = day + hour * HOUR_S
            shape = week * (1 + 0.2 * math.sin((hour - 9) * math.pi / 12))
            for service, account, usd, region, team in _SERVICES:
                cost = usd / 24 * shape * math.exp(rng.gauss(0, 0.05))
                tags = f'{{"team": "{team}"}}'
                yield charge(at, 1, cost, service, account, RegionId=region, Tags=tags)
            if number >= fleet_day:
                yield charge(at, 1, FLEET_USD_PER_HOUR, "Compute", FLEET_ACCOUNT, RegionId="us-west-2")
        yield from _once_a_month(day)


def _once_a_month(day: float) -> Iterator[dict[str, Any]]:
    """What is charged on the first and the third of a month: fees, purchases, tax, and what is given back."""
    at = datetime.fromtimestamp(day, UTC)
    whole = (_next_month(at) - day) / HOUR_S
    if at.day == 1:
        yield charge(day, whole, 2_900, "Support", "a-prod", ChargeFrequency="Recurring", Tags=None)
        yield charge(day, 1, 12_000, "Monitoring (Marketplace)", "a-prod", ChargeCategory="Purchase")
    if at.day == 3:
        once = {"ChargeFrequency": "One-Time", "Tags": None}
        yield charge(day, 1, -640, "Database", "a-prod", ChargeCategory="Adjustment", **once)
        yield charge(day, 1, -1_500, "Compute", "a-prod", ChargeCategory="Credit", **once)
        yield charge(day, 1, 410, "Tax", "a-prod", ChargeCategory="Tax", **once)
        plan = charge(day, 1, 87_600, "Savings Plans", "a-prod", ChargeCategory="Purchase", **once)
        yield plan | {"EffectiveCost": 0.0}


def _next_month(at: datetime) -> float:
    return (at.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()


def by_month(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines by the month in which they begin, as 2026-10: a file each, as vendors deliver them."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        found[line["ChargePeriodStart"][:7]].append(line)
    return dict(found)
