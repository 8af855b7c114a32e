"""Budgets counted from recorded spend, on the log or in a directory, and the effect of another amount."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from curb.detector.budgets.budget import Budget
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.evaluate import backtest
from curb.stream.log.protocol import Log
from curb.stream.log.topics import ALERTS, SPEND
from curb.stream.records.spend import Alert


class Counted(NamedTuple):
    """Where budgets stand at the end of what is recorded, what crossed what, every alert as it ended, and when."""

    rows: list[dict[str, Any]]
    #: By id of the alert: the revisions in which it opened or came to a higher threshold.
    crossings: dict[str, list[Alert]]
    newest: dict[str, Alert]
    until: float | None


class Crossing(NamedTuple):
    """A threshold that fired. `hours` is how long its alert fired after that; 100 % of a hard cap may throttle for as
    long."""

    tags: dict[str, str]
    period_start: float
    channel: str
    tier: str
    fired_at: float
    spent_usd: float
    amount_usd: float
    hours: float


class WhatIf(NamedTuple):
    """The same history with one amount and with the other: what fired."""

    name: str
    #: In the budget's currency.
    amount: float
    currency: str
    now: list[Crossing]
    then: list[Crossing]

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        spans = {name: [each._asdict() for each in getattr(self, name)] for name in ("now", "then")}
        return {**self._asdict(), **spans}


def rows_of(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    """Every budget row of these shards as plain data, for HTTP and the command line."""
    return [{"tags": tags, **msgspec.to_builtins(status)} for shard in shards for tags, status in shard.budgets()]


async def from_log(log: Log, settings: DetectorSettings) -> Counted:
    """Count what is on an open log; works with the daemon up or down."""
    shards: dict[int, Shard] = {}
    crossings: dict[str, list[Alert]] = {}
    newest: dict[str, Alert] = {}
    async for message in log.scan(SPEND):
        shard = shards.setdefault(message.partition or 0, Shard(settings))
        for each in shard.process(message):
            if each.topic != ALERTS:
                continue
            alert = msgspec.json.decode(each.value, type=Alert)
            newest[alert.alert_id] = alert
            found = crossings.setdefault(alert.alert_id, [])
            if backtest.crosses(found[-1] if found else None, alert):
                found.append(alert)
    times = [shard.event_time for shard in shards.values() if shard.event_time is not None]
    return Counted(rows_of(shards.values()), crossings, newest, max(times, default=None))


def from_directory(path: Path, settings: DetectorSettings) -> Counted:
    """Count a recorded stream, in order of arrival. Raises OSError or ValueError when it cannot be read."""
    result = backtest.replay(path, settings)
    assert result.pipeline is not None  # set when the stream was read
    shard = result.pipeline.shard
    crossings = {key: life.crossings for key, life in result.alerts.items()}
    newest = {key: life.last for key, life in result.alerts.items()}
    return Counted(rows_of([shard]), crossings, newest, shard.event_time)


def what_if_settings(settings: DetectorSettings, name: str, amount: float) -> DetectorSettings:
    """Only the budget `name`, as it is and, with an added "-what-if", with `amount` (in its currency).

    Raises KeyError for a budget that is not configured. Neither has a parent, so each has its own alerts.
    """
    budget = {each.name: each for each in settings.budgets}[name]
    field = "amount_usd" if budget.amount is None else "amount"
    alone = budget.model_copy(update={"parent": None})
    other = alone.model_copy(update={"name": _other(budget), field: amount})
    return settings.model_copy(update={"budgets": (alone, other)})


def what_if(settings: DetectorSettings, counted: Counted) -> WhatIf:
    """Compare the two budgets of `what_if_settings`."""
    now, other = settings.budgets
    every = (alert for found in counted.crossings.values() for alert in found if alert.budget is not None)
    spans = [_crossing(alert, counted) for alert in every]
    of = {budget.name: [span for name, span in spans if name == budget.name] for budget in (now, other)}
    amount = other.amount_usd if other.amount is None else other.amount
    return WhatIf(now.name, amount or 0.0, other.currency, of[now.name], of[other.name])


def _crossing(alert: Alert, counted: Counted) -> tuple[str, Crossing]:
    budget, last = alert.budget, counted.newest[alert.alert_id]
    assert budget is not None
    ended_at = last.resolved_at or counted.until or last.updated_at
    hours = max(0.0, ended_at - alert.updated_at) / 3600
    return budget.name, Crossing(
        tags=alert.tags,
        period_start=budget.period_start,
        channel=alert.channel,
        tier=alert.tier,
        fired_at=alert.updated_at,
        spent_usd=budget.spent_usd,
        amount_usd=budget.amount_usd,
        hours=hours,
    )


def caps(crossings: Sequence[Crossing]) -> list[Crossing]:
    """Crossings at which a hard cap throttles: 100 % or more of the amount."""
    return [each for each in crossings if "burn" not in each.channel and each.tier == "page"]


def _other(budget: Budget) -> str:
    return f"{budget.name}-what-if"
