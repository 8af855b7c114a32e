"""The values of one step and one set of tags → a record of usage or of GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curb.connectors.gpus.charges import GpuCharges
from curb.connectors.pricing.book import PriceBook
from curb.stream.records.spend import GpuRecord, UsageRecord

#: Id, end of the step (when it fell due), time of receipt, tags, source.
Head = tuple[str, float, float, dict[str, str], str]
Values = Mapping[str, Sequence[float]]


def usage_record(head: Head, values: Values, prices: PriceBook | None) -> UsageRecord | None:
    """Usage of one step, None where nothing happened. Tokens without a cost are priced, if `prices` are given."""
    record_id, due_at, received_at, tags, source = head
    usage = UsageRecord(
        id=record_id,
        charge_period_start=due_at,
        received_at=received_at,
        effective_cost=sum(values.get("effective_cost", ())),
        tags=tags,
        source=source,
        request_model=tags.get("model", ""),
        requests=_count(values, "requests"),
        errors=_count(values, "errors"),
        input_tokens=_count(values, "input_tokens"),
        output_tokens=_count(values, "output_tokens"),
        cache_read_input_tokens=_count(values, "cache_read_input_tokens"),
    )
    tokens = usage.input_tokens + usage.output_tokens
    if not (usage.effective_cost or tokens or usage.requests or usage.errors):
        return None
    if usage.effective_cost == 0 and tokens and prices is not None:
        prices.price_usage(usage)
    return usage


def gpu_record(head: Head, values: Values, step_s: float, charges: GpuCharges) -> GpuRecord:
    """GPUs of one step: their cost as given, or their number times the price of the tag `gpu` or `instance`."""
    record_id, due_at, received_at, tags, source = head
    gpus = sum(values.get("gpus", ()))
    record = GpuRecord(
        id=record_id,
        charge_period_start=due_at,
        received_at=received_at,
        effective_cost=sum(values.get("effective_cost", ())),
        tags=tags,
        source=source,
        gpu_utilization=_mean(values.get("gpu_utilization")),
        memory_used=_sum(values.get("memory_used")),
        power_usage=_sum(values.get("power_usage")),
        gpu_seconds=gpus * step_s,
    )
    if "effective_cost" not in values:
        charges.price(record, tags.get("gpu", ""), tags.get("instance", ""))
    return record


def _count(values: Values, field: str) -> int:
    """A whole number: `increase` extrapolates to fractions. What is below 0 stays so, and the door refuses it."""
    return round(sum(values.get(field, ())))


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def _sum(values: Sequence[float] | None) -> float | None:
    return sum(values) if values else None
