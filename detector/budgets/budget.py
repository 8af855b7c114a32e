"""A budget as configured: an amount per period, the tree it is in, and what may change it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Protocol

from pydantic import Field, field_validator, model_validator

from curb.detector.state.scopes import Scope
from curb.stream.records.spend import CHARGE_PARTS, ChargePart
from curb.stream.settings import Settings, TimeZone
from curb.stream.time import Period


class AlertTimes(Protocol):
    """Times of alerts on budgets, in seconds; see `AlertSettings`."""

    @property
    def update_every_s(self) -> float: ...
    @property
    def calm_s(self) -> float: ...
    @property
    def response_notice_s(self) -> float: ...
    @property
    def response_page_s(self) -> float: ...


class BudgetSettings(Protocol):
    """The keys of the detector's configuration that budgets read."""

    @property
    def bucket_s(self) -> int: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def scopes(self) -> Sequence[Scope]: ...
    @property
    def budgets(self) -> Sequence[Budget]: ...
    @property
    def exchange_rates(self) -> Sequence[ExchangeRate]: ...
    @property
    def alerts(self) -> AlertTimes: ...


class ExchangeRate(Settings):
    """Dollars for one unit of a currency, from a day on."""

    currency: str = Field(pattern=r"^[A-Z]{3}$", description="Currency code, such as EUR.")
    usd: float = Field(gt=0, description="Dollars for one unit.")
    since: date = Field(
        default=date(1970, 1, 1),
        description="First day of the rate. A period keeps the rate of its first day, so that thresholds do not move.",
    )


class BurnRate(Settings):
    """Alerts on spend that is too fast for the budget, over a long window and still over a short one.

    14.4 times the budget's even pace over 1 h and 5 min, or 6 times over 6 h and 30 min: page. The even pace itself
    over 3 d and 6 h: notice, once per period. A window counts when the row is known for as long and when it is at most
    a quarter of the period; only while the budget would be spent before the period ends; never in the first hour of a
    period. Spend that was as high at the same hours of one of the last three days, such as a nightly batch, does not
    page.
    """

    enabled: bool = Field(default=True, description="Whether burn rates raise alerts.")
    min_usd: float = Field(default=10, ge=0, description="The long window must hold at least this many dollars.")


class CarryOver(Settings):
    """The unspent amount is added to the next period. Periods that were not counted from their start carry nothing."""

    max_percent: float = Field(
        default=100, gt=0, le=1000, description="At most this share of the amount is carried, in percent."
    )


class AutoExpand(Settings):
    """A budget that grows at the end of a period that was well used and had no incident, for pilots.

    Every expansion raises an alert in the digest. It stays until the configuration changes the amount.
    """

    step_percent: float = Field(gt=0, le=100, description="How much the amount grows, in percent of what it is.")
    max_usd: float = Field(gt=0, description="The amount never grows beyond this many dollars.")
    utilisation_percent: float = Field(
        default=80, gt=0, le=100, description="At least this share must have been spent when the period ends."
    )
    clean_days: float = Field(
        default=14,
        ge=0,
        description="Days without a runaway, abusive or unit-cost alert on its spend; those that a person marked as "
        "no anomaly or planned do not count. A row that is known for fewer days does not grow.",
    )


class Budget(Settings):
    """A sum of money for a period. With a pattern in `match`, every matching series has the whole amount to itself."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Name of the budget.")
    scope: str = Field(description="Name of the scope whose series it applies to.")
    match: dict[str, str] = Field(
        default={}, description="Tag values it applies to; * and ? are wildcards. Empty: every series of the scope."
    )
    shared: bool = Field(
        default=False, description="All matching series share one amount, instead of each having it to itself."
    )
    parent: str | None = Field(
        default=None,
        description="Name of the budget above, which counts this spend as well: org, team, project, key.",
    )
    include: tuple[ChargePart, ...] = Field(
        default=CHARGE_PARTS,
        min_length=1,
        description="What of a bill counts: usage (with commitments, used or not), fees, purchases, tax, credits (with "
        "refunds and adjustments). Only usage is a pace: burn rates leave the others out, and the forecast expects "
        "them on the days of the month on which they came before.",
    )
    amount_usd: float | None = Field(default=None, gt=0, description="Dollars per period; or give `amount`.")
    amount: float | None = Field(default=None, gt=0, description="Amount per period in `currency`.")
    currency: str = Field(
        default="USD", pattern=r"^[A-Z]{3}$", description="Currency of `amount`; needs a rate in exchange_rates."
    )
    period: Period = Field(default="month", description="day, week (from Monday), month, quarter or custom.")
    length_days: int | None = Field(default=None, ge=1, le=366, description="Length of a custom period in days.")
    anchor: date | None = Field(default=None, description="A day on which a custom period starts.")
    thresholds: tuple[float, ...] = Field(
        default=(50, 80, 100),
        min_length=1,
        description="Percent of the amount. A period has one alert, at the highest crossed; what a raised amount "
        "moved out of reach may be crossed again.",
    )
    hard: bool = Field(
        default=False,
        description="A hard cap: at 100 % its alert says so, and routes with `hard: true` may act on it. Curb then "
        "throttles; it cannot stop a request that is in progress.",
    )
    time_zone: TimeZone | None = Field(default=None, description="Time zone of the period; default: the detector's.")
    burn_rate: BurnRate = Field(default=BurnRate(), description="Alerts on spend that is too fast to last.")
    carry_over: CarryOver | None = Field(default=None, description="Unspent money is added to the next period.")
    auto_expand: AutoExpand | None = Field(
        default=None, description="Grow the amount after well-used periods without incident."
    )

    @field_validator("thresholds")
    @classmethod
    def _ascending(cls, thresholds: tuple[float, ...]) -> tuple[float, ...]:
        if any(threshold <= 0 for threshold in thresholds):
            raise ValueError("thresholds are percentages greater than 0")
        return tuple(sorted(set(thresholds)))

    @model_validator(mode="after")
    def _parts_fit(self) -> Budget:
        if (self.amount_usd is None) == (self.amount is None):
            raise ValueError("give either amount_usd or amount (with currency)")
        if self.amount is None and self.currency != "USD":
            raise ValueError("amount_usd is in dollars; for another currency give amount")
        custom = self.period == "custom"
        if custom != (self.length_days is not None) or custom != (self.anchor is not None):
            raise ValueError("a custom period needs length_days and anchor, and no other period takes them")
        if self.hard and 100 not in self.thresholds:
            raise ValueError("a hard cap needs 100 among its thresholds")
        return self


def check_budgets(budgets: Sequence[Budget], scopes: Sequence[Scope], rates: Sequence[ExchangeRate]) -> None:
    """Raises ValueError when budgets do not fit the scopes, the rates or one another."""
    by_name = {budget.name: budget for budget in budgets}
    known = {scope.name: scope for scope in scopes}
    currencies = {"USD", *(rate.currency for rate in rates)}
    for budget in budgets:
        scope = known.get(budget.scope)
        if scope is None:
            raise ValueError(f"budget {budget.name}: no scope {budget.scope!r}; there are {', '.join(known)}")
        unknown = sorted(budget.match.keys() - _tags(scope))
        if unknown:
            raise ValueError(f"budget {budget.name}: scope {scope.name} has no tag {', '.join(unknown)}")
        if budget.currency not in currencies:
            raise ValueError(f"budget {budget.name}: exchange_rates has no rate for {budget.currency}")
        if budget.parent is not None:
            _check_parent(budget, by_name, known)


def _check_parent(budget: Budget, by_name: dict[str, Budget], scopes: dict[str, Scope]) -> None:
    seen, above = {budget.name}, budget.parent
    while above is not None:
        if above not in by_name:
            raise ValueError(f"budget {budget.name}: no budget {above!r} to be its parent")
        if above in seen:
            raise ValueError(f"budget {budget.name}: is its own ancestor")
        seen.add(above)
        above = by_name[above].parent
    parent = by_name[budget.parent or ""]
    inner, outer = scopes[budget.scope], scopes.get(parent.scope)
    if outer is None:
        return  # reported for the parent itself
    needed = set(parent.match) if parent.shared else {*outer.group_by, *parent.match}
    missing = sorted(needed - _tags(inner))
    if missing:
        raise ValueError(
            f"budget {budget.name}: scope {inner.name} has no tag {', '.join(missing)}, so its spend cannot be found "
            f"in parent {parent.name}"
        )
    uncounted = sorted({*inner.sources} - {*outer.sources})
    if uncounted:
        raise ValueError(
            f"budget {budget.name}: parent {parent.name} does not count {', '.join(uncounted)}; give scope "
            f"{outer.name} the same sources"
        )


def _tags(scope: Scope) -> set[str]:
    return {*scope.group_by, *scope.also_by}
