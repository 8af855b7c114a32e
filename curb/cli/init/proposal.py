"""Proposes caps and budgets: from the spend of the last days, else from the monthly budget, else safe figures."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from curb.cli.init.spend import PastSpend
from curb.detector.rules.caps import Config as CapConfig
from curb.stream.money import usd

#: Days of a month. By definition of a budget's forecast here: long enough for every month.
_MONTH_DAYS = 31
#: Dollars of a month of all keys where nothing is known. By hand: a small team notices it, and it alerts nobody twice.
_UNKNOWN_MONTH_USD = 1000.0
#: Month of all keys and of a team, times the mean of the days seen. By hand: a third more than usual is worth a look.
_MONTH_FACTOR = 1.3
#: A day of all keys, times the most expensive day seen. By hand: weekdays and releases differ by less.
_DAY_FACTOR = 2.0
#: An hour and a day of one key, times the most expensive of any key. By hand: a new key should not exceed every old one
#: threefold.
_KEY_FACTOR = 3.0
#: A day of all keys where only the month is known, times its even share. By hand: three days' money in one.
_DAY_OF_MONTH = 3.0
#: Least dollars of a proposed hour or day: below, alerts would not be worth reading. By hand, as alerts at risk.
_LEAST_USD = 5.0
#: Teams that get a budget of their own: what a person reads through. By hand.
_MOST_TEAMS = 8
#: Steps of round figures within a power of ten. By hand.
_ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


class TeamMonth(NamedTuple):
    """A month of one team, dollars; the team's name is data of other people."""

    name: str
    team: str
    amount_usd: float


class ProposedAmounts(NamedTuple):
    """Dollars that the file proposes, and where they come from."""

    #: One key within an hour, until its past is known.
    key_hour_usd: float
    key_day_usd: float
    fleet_day_usd: float
    fleet_month_usd: float
    teams: tuple[TeamMonth, ...]
    #: A sentence for people.
    source: str


def propose(spend: PastSpend | None, monthly_usd: float | None) -> ProposedAmounts:
    """The amounts. A monthly budget that is known is taken as it is."""
    seen = spend if spend is not None and spend.usd > 0 else None
    if seen is None:
        month = monthly_usd or _UNKNOWN_MONTH_USD
        day = rounded_up(month / _MONTH_DAYS * _DAY_OF_MONTH)
        key_day = rounded_up(day / 2)
        source = "from the monthly budget" if monthly_usd else "safe figures to start from, as no spend could be read"
        key_hour = min(CapConfig().usd_per_hour, key_day)
        return ProposedAmounts(key_hour, key_day, day, month, (), f"{source}; change them when you know more")
    month = monthly_usd or rounded_up(_MONTH_FACTOR * _MONTH_DAYS * seen.usd_per_day)
    day = min(rounded_up(_DAY_FACTOR * seen.top_day_usd), month)
    key_day = min(rounded_up(_KEY_FACTOR * seen.top_key_day_usd), day)
    part = "" if seen.complete else " (the first part of them: there were more than are read here)"
    source = (
        f"from {usd(seen.usd)} of {seen.records:,} calls by {seen.keys} key{'' if seen.keys == 1 else 's'} within "
        f"{seen.days:.1f} days{part}: "
        f"the most expensive day was {usd(seen.top_day_usd)}, of one key {usd(seen.top_key_day_usd)}, and its most "
        f"expensive hour {usd(seen.top_key_hour_usd)}"
    )
    return ProposedAmounts(
        key_hour_usd=min(rounded_up(_KEY_FACTOR * seen.top_key_hour_usd), key_day),
        key_day_usd=key_day,
        fleet_day_usd=day,
        fleet_month_usd=month,
        teams=_teams(seen),
        source=source,
    )


def _teams(seen: PastSpend) -> tuple[TeamMonth, ...]:
    ranked = sorted(seen.by_team.items(), key=lambda each: -each[1])[:_MOST_TEAMS]
    taken: set[str] = set()
    found = []
    for team, spent in ranked:
        if spent <= 0:
            continue
        month = rounded_up(_MONTH_FACTOR * _MONTH_DAYS * spent / seen.days)
        found.append(TeamMonth(_budget_name(team, taken), team, month))
    return tuple(found)


def _budget_name(team: str, taken: set[str]) -> str:
    """A name that the configuration allows, different from those before."""
    base = "team-" + (re.sub(r"[^a-z0-9]+", "-", team.lower()).strip("-")[:40] or "unnamed") + "-month"
    name = next(
        each for number in range(len(taken) + 1) if (each := f"{base}-{number}" if number else base) not in taken
    )
    taken.add(name)
    return name


def rounded_up(amount: float) -> float:
    """The next round figure of dollars, at least the least that is proposed."""
    amount = max(amount, _LEAST_USD)
    power = 10.0 ** math.floor(math.log10(amount))
    return next(round(step * power, 2) for step in _ROUND if step * power >= amount * (1 - 1e-9))
