"""Budgets in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zoneinfo import ZoneInfo

from curb.detector.budgets.budget import Budget
from curb.detector.state.wording import days, duration, rate, subject
from curb.stream.money import chance, usd
from curb.stream.records.spend import BudgetStatus, Cause
from curb.stream.time import moment

#: Subjects named in a sentence. Chosen by hand.
_SHOWN = 3
#: $/h below which nothing is said of the rate: half a cent reads as none.
_LEAST_USD_PER_HOUR = 0.005


def who(budget: Budget, tags: Mapping[str, str]) -> str:
    """The subject of a row."""
    if not budget.shared:
        return subject(budget.scope, tags)
    fixed = " and ".join(f"{tag} {value}" for tag, value in budget.match.items())
    return f"everything with {fixed}" if fixed else "everything"


def spent(name: str, status: BudgetStatus, usd_per_hour: float, left_s: float, *, by_day: bool = False) -> str:
    """Spend of a budget, and its rate; `left_s` the seconds left of the period; `by_day` it is of a bill."""
    now = f"; it spends {rate(usd_per_hour, by_day=by_day)}" if usd_per_hour >= _LEAST_USD_PER_HOUR else ""
    left = days(left_s) if by_day else duration(left_s)
    return (
        f"{name} has spent {usd(status.spent_usd)} of the {_amount(status)} of budget {status.name} for "
        f"{_period(status)} ({100 * status.spent_usd / status.amount_usd:.0f} %) with {left} to go{now}."
    )


def spent_by_its_end(name: str, status: BudgetStatus) -> str:
    """Spend of a period that is over, as far as it is billed."""
    began = moment(status.period_start).strftime("%Y-%m-%d")
    return (
        f"{name} spent {usd(status.spent_usd)} of the {_amount(status)} of budget {status.name} for the "
        f"{status.period} that began on {began} UTC ({100 * status.spent_usd / status.amount_usd:.0f} %) and is over. "
        "The bill may still change."
    )


def spent_in_all(name: str, status: BudgetStatus) -> str:
    """Spend of a period that is over."""
    began = moment(status.period_start).strftime("%Y-%m-%d %H:%M")
    return (
        f"{name} spent {usd(status.spent_usd)} of the {_amount(status)} of budget {status.name} for the "
        f"{status.period} that began on {began} UTC ({100 * status.spent_usd / status.amount_usd:.0f} %) and is over."
    )


def burns(name: str, status: BudgetStatus, window: str, window_usd: float, factor: float) -> str:
    """A burn rate: `window_usd` dollars within `window`, `factor` times the even pace."""
    return (
        f"{name} has spent {usd(window_usd)} within {window}, {factor:.1f} times the even pace of budget "
        f"{status.name}; {usd(status.spent_usd)} of the {_amount(status)} for {_period(status)} have been spent."
    )


def expanded(name: str, status: BudgetStatus, by_usd: float, used: float, clean_days: float) -> str:
    """An expansion by `by_usd` dollars; `used` is the share of the last amount that was spent."""
    return (
        f"budget {status.name} of {name} grows by {usd(by_usd)} to {_amount(status)}: {used:.0%} of it was used in the "
        f"last period, without an incident for {clean_days:g} days."
    )


def raised(status: BudgetStatus) -> str:
    """The reason an alert ended: the amount was raised."""
    return f"The amount of budget {status.name} is now {_amount(status)}; {usd(status.spent_usd)} have been spent."


def parts(status: BudgetStatus) -> str:
    """The parts of an amount beside the configured one; empty without any."""
    added = [
        f"{usd(each)} {what}"
        for each, what in (
            (status.carried_usd, "carried over"),
            (status.expanded_usd, "earned"),
            (status.increased_usd, "added for a time"),
        )
        if each > 0
    ]
    return f"The amount includes {_and(added)}." if added else ""


def outlook(status: BudgetStatus, zone: ZoneInfo, *, by_day: bool = False) -> str:
    """The forecast; empty once the budget is spent."""
    if status.forecast_usd is None or status.spent_usd >= status.amount_usd:
        return ""
    likely = f"{chance(status.breach_probability or 0.0).replace('%', ' %')} likely to be over"
    if status.breach_at is None:
        return f"At this pace the period ends at {usd(status.forecast_usd)}, {likely}."
    day = moment(status.breach_at, zone).strftime("%Y-%m-%d" if by_day else "%Y-%m-%d %H:%M")
    return f"At this pace it is spent on {day} {zone.key} and the period ends at {usd(status.forecast_usd)}, {likely}."


def users(causes: Sequence[Cause], scope: str) -> str:
    """The subjects that spent most."""
    named = [
        f"{subject(scope, cause.tags) if cause.tags else scope} {usd(cause.excess_usd)} ({cause.share:.0%})"
        for cause in causes[:_SHOWN]
    ]
    return f"Used by {_and(named)}." if named else ""


def with_it(below: Sequence[str]) -> str:
    """The rows below that crossed the same threshold and have no alert of their own."""
    more = len(below) - 5
    named = [*below[:5], f"{more} more"] if more > 0 else list(below)
    return f"Crossed with it: {_and(named)}." if named else ""


def estimated(status: BudgetStatus) -> str:
    """What calls without usage are estimated at; empty without any."""
    if round(status.estimated_usd, 2) <= 0:
        return ""
    counts = "they count for this hard cap" if status.hard else "they are not counted"
    return f"Calls without usage cost about {usd(status.estimated_usd)} more (an estimate; {counts})."


def hard(status: BudgetStatus) -> str:
    """Says that actions may throttle now; empty otherwise."""
    return "This is a hard cap: actions may throttle." if status.hard and status.threshold >= 100 else ""


def _amount(status: BudgetStatus) -> str:
    if status.currency == "USD" or status.amount is None:
        return usd(status.amount_usd)
    return f"{usd(status.amount_usd)} ({status.amount:,.2f} {status.currency})"


def _period(status: BudgetStatus) -> str:
    if status.period != "custom":
        return f"this {status.period}"
    return f"these {round((status.period_end - status.period_start) / 86400)} days"


def _and(named: Sequence[str]) -> str:
    return ", ".join(named[:-1]) + (" and " if len(named) > 1 else "") + named[-1]
