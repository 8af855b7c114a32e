"""AWS Cost Explorer, daily or hourly, with a budget of calls: for accounts without a billing export."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from curb.connectors.bills.cells.rates import CurrencyRates, UsdPer
from curb.connectors.bills.charges import Charge, Dimensions, LineKind, Snapshot
from curb.connectors.bills.cost_explorer_api import CallBudget, Cost, CostExplorerApi, OverBudget
from curb.connectors.bills.restate import Restater, SnapshotConnector
from curb.connectors.connector import Batch, Check, ConnectorConfig, Context, Pull
from curb.connectors.decode import Letters, Rejected
from curb.stream.clients.aws import AwsClient, AwsSettings
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import DAY_S, HOUR_S

logger = logging.getLogger(__name__)
PERMISSION = "ce:GetCostAndUsage"
Group = Annotated[str, StringConstraints(pattern=r"^([A-Z_]+|(tag|category):.{1,128})$")]
#: What Cost Explorer keeps hours for.
_HOURLY_DAYS = 14
#: LineKind of record that is not usage → what it is; what AWS invents next is an adjustment.
_KINDS = {
    "Recurring": LineKind("Purchase", "commitment", "Unused"),
    "Upfront": LineKind("Purchase", "purchase"),
    "SavingsPlanRecurringFee": LineKind("Purchase", "commitment", "Unused"),
    "SavingsPlanUpfrontFee": LineKind("Purchase", "purchase"),
    "Support fee": LineKind("Purchase", "fee"),
    "Tax": LineKind("Tax", "tax"),
    "Credit": LineKind("Credit", "credit"),
    "Refund": LineKind("Adjustment", "refund"),
    "Enterprise Discount Program Discount": LineKind("Credit", "credit"),
    "Private Rate Card Discount": LineKind("Credit", "credit"),
    "Solution Provider Program Discount": LineKind("Credit", "credit"),
    "Bundled Discount": LineKind("Credit", "credit"),
}
_USAGE, _ADJUSTMENT = LineKind("Usage", "usage"), LineKind("Adjustment", "adjustment")


class Config(ConnectorConfig):
    """Reads the last `months` (or 14 days of hours) every `poll_interval_s` and reports the changes."""

    kind: Literal["aws_cost_explorer"]
    aws: AwsSettings = Field(AwsSettings(), description="Which account is asked, and as whom.")
    granularity: Literal["day", "hour"] = Field("day", description="`hour` must be switched on in Cost Explorer.")
    group_by: dict[str, Group] = Field(
        default={"service": "SERVICE", "team": "tag:team"},
        min_length=1,
        max_length=2,
        description="Curb's tag → a dimension of Cost Explorer, `tag:KEY` or `category:KEY`; AWS allows two.",
    )
    effective: Literal["AmortizedCost", "NetAmortizedCost", "UnblendedCost", "NetUnblendedCost"] = Field(
        "AmortizedCost", description="Metric that is the effective cost; the billed one is UnblendedCost."
    )
    others: bool = Field(True, description="Ask for fees, taxes and credits as well: that is a second call.")
    months: int = Field(2, ge=1, le=13, description="Months that are read when by day: this one and those before it.")
    max_calls_per_day: int = Field(
        24, ge=1, le=5000, description="Calls made in a day (UTC) at most; each costs $0.01."
    )
    usd_per: UsdPer = Field(
        default={}, description="Dollars for one unit of another currency, or by the day from which each rate holds."
    )
    lag_h: float = Field(
        48, gt=0, le=240, description="Hours until a day is complete; used until the source's lag is learned."
    )
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    poll_interval_s: float = Field(
        21_600, ge=60, le=86_400, description="How often is asked; AWS renews it thrice a day."
    )
    timeout_s: float = Field(30.0, gt=0, le=60, description="Longest wait for one answer.")

    @property
    def reads_bills(self) -> bool:
        return True

    @property
    def bill_tags(self) -> tuple[str, ...]:
        return tuple(self.group_by)

    def build(self, context: Context) -> Pull:
        return Pull(CostExplorer(self, context), self.poll_interval_s)


class CostExplorer(SnapshotConnector):
    """Pull connector: what Cost Explorer says of a month (or of a day of hours) is a snapshot of it."""

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config.name, config.lag_h, context)
        self._config = config
        self._client = AwsClient("ce", config.aws, context.clock, config.timeout_s)
        path = context.state_dir / f"{config.name}.calls.json"
        self._budget = CallBudget(path, config.max_calls_per_day, context.clock)
        hourly = config.granularity == "hour"
        self._api = CostExplorerApi(config.name, self._client, self._budget, hourly=hourly)
        self._rates = CurrencyRates(config.usd_per)
        self._waiting: list[tuple[Snapshot, list[Charge]]] = []

    def _release(self) -> None:
        self._client.close()

    def _next(self, restater: Restater, cursor: str | None) -> Batch:
        """Cost Explorer is asked when all it said is on the log, it is time, and calls are left."""
        letters = Letters(self._config.name, self._clock.now())
        if not self._waiting and self._clock.now() >= self._budget.asked_at + self._config.poll_interval_s - 1:
            self._waiting = self._ask(letters)
        while self._waiting:
            snapshot, charges = self._waiting.pop(0)
            taken = restater.version(snapshot.period) != snapshot.version
            if taken:
                restater.take(charges, snapshot)
            if not self._waiting:
                self._budget.asked()
            if taken:
                break
        return (restater.resume(cursor) or restater.idle(cursor))._replace(dead=letters.messages())

    def _ask(self, letters: Letters) -> list[tuple[Snapshot, list[Charge]]]:
        """What Cost Explorer says now, by month or day; nothing when the day's calls do not suffice."""
        config, now, left = self._config, self._clock.now(), self._budget.left
        start, end = self._span(now)
        try:
            groups = list(config.group_by.values())
            metrics = [config.effective, "UnblendedCost"]
            costs = [(cost, True) for cost in self._api.costs(start, end, groups, metrics, usage=True)]
            if config.others:
                kinds = ["RECORD_TYPE", groups[0]]
                costs += [(cost, False) for cost in self._api.costs(start, end, kinds, metrics, usage=False)]
        except OverBudget:
            if left == config.max_calls_per_day:
                raise PermanentError(f"one reading takes more calls than max_calls_per_day ({left})") from None
            extra = {"connector": config.name, "calls": config.max_calls_per_day}
            logger.warning("the day's calls are used up: Cost Explorer is asked again tomorrow", extra=extra)
            return []
        estimated = min((cost.start for cost, _ in costs if cost.estimated), default=None)
        extra = {"connector": config.name, "groups": len(costs), "estimated_since": estimated}
        logger.info("Cost Explorer read", extra=extra)
        if costs and all(self._rates.at(cost.currency.upper(), cost.start) is None for cost, _ in costs):
            currency = costs[0][0].currency
            raise PermanentError(f"amounts are in {currency}: set usd_per for it of connector {config.name}")
        periods: dict[str, list[Charge]] = {period: [] for period in self._periods(start, end)}
        for cost, is_usage in costs:
            charge = self._charge(cost, letters, is_usage=is_usage)
            if charge is not None and self._period(charge.start) in periods:
                periods[self._period(charge.start)].append(charge)
        return [(Snapshot(at, _version(charges, now), now), charges) for at, charges in sorted(periods.items())]

    def _charge(self, cost: Cost, letters: Letters, *, is_usage: bool) -> Charge | None:
        config = self._config
        try:
            effective, billed = (float(cost.amounts[name]) for name in (config.effective, "UnblendedCost"))
        except (KeyError, ValueError):
            effective = billed = math.nan
        if not (math.isfinite(effective) and math.isfinite(billed)):
            location = f"{datetime.fromtimestamp(cost.start, UTC):%Y-%m-%dT%H}Z {' '.join(cost.values)}"
            letters.add(Rejected("invalid", "an amount is no number"), location=location, content=b"")
            return None
        usd = self._rates.at(cost.currency.upper(), cost.start)
        if usd is None:
            why = f"amounts in {cost.currency} without a rate: set usd_per for {cost.currency}"
            letters.add(Rejected("invalid", why), location=f"{cost.currency} {' '.join(cost.values)}", content=b"")
            return None
        values = cost.values if is_usage else cost.values[1:]
        tags = {
            tag: value.partition("$")[2] if ":" in group else value
            for (tag, group), value in zip(config.group_by.items(), values, strict=False)
        }
        by_group = dict(zip(config.group_by.values(), values, strict=False))
        named = {**config.tags, "provider": "AWS", **{tag: value for tag, value in tags.items() if value}}
        kind = _USAGE if is_usage else _KINDS.get(cost.values[0], _ADJUSTMENT)
        of = Dimensions(
            service_name=by_group.get("SERVICE", ""),
            sub_account_id=by_group.get("LINKED_ACCOUNT", ""),
            resource_id=by_group.get("RESOURCE_ID", ""),
            provider_name="AWS",
            region_id=by_group.get("REGION", ""),
            usage_type=by_group.get("USAGE_TYPE", ""),
            charge_kind=kind.kind,
            commitment_discount_status=kind.commitment,
            charge_category=kind.category,
            billing_currency=cost.currency,
            tags=tuple(sorted(named.items())),
        )
        return Charge(cost.start, cost.seconds, effective * usd, billed * usd, of)

    def _span(self, now: float) -> tuple[float, float]:
        """From the start of the oldest month (or day of hours) until tomorrow (or the next hour)."""
        if self._config.granularity == "hour":
            # AWS counts its 14 days from now; a day that is only there in part would look like a restatement.
            return (now // DAY_S - _HOURLY_DAYS + 1) * DAY_S, (now // HOUR_S + 1) * HOUR_S
        today = datetime.fromtimestamp(now, UTC)
        year, month = divmod(today.year * 12 + today.month - self._config.months, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC).timestamp(), (now // DAY_S + 1) * DAY_S

    def _periods(self, start: float, end: float) -> Iterator[str]:
        """Every period in the span: a period without costs any more was taken back."""
        last = ""
        for at in range(int(start), int(end), DAY_S):
            period = self._period(at)
            if period != last:
                yield period
            last = period

    def _period(self, at: float) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d" if self._config.granularity == "hour" else "%Y-%m")

    def _check(self) -> list[Check]:
        today = self._clock.now() // DAY_S * DAY_S
        what, metrics = "get the cost of yesterday", [self._config.effective, "UnblendedCost"]
        try:
            costs = self._api.costs(today - DAY_S, today, self._config.group_by.values(), metrics, usage=True)
        except OverBudget:
            return [Check(what, False, "the day's calls are used up (max_calls_per_day)", "")]
        except (TransientError, PermanentError) as error:
            return [Check(what, False, str(error), PERMISSION)]
        estimated = " (estimated)" if any(cost.estimated for cost in costs) else ""
        return [Check(what, True, f"{len(costs)} groups{estimated}, {self._budget.left} calls left today", PERMISSION)]


def _version(charges: list[Charge], now: float) -> str:
    """Changes with the charges, and once a day, so that what stays the same is known to be complete."""
    content = repr([charge[:4] for charge in charges]) + repr([charge.dimensions for charge in charges])
    return f"{int(now // DAY_S)}/{hashlib.sha256(content.encode()).hexdigest()[:32]}"
