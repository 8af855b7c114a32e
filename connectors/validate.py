"""The door every record passes, whatever its source: finite, plausible in time, and tags of bounded size."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from curb.connectors.connector import Batch
from curb.connectors.decode import UNFORESEEN, Letters, Rejected, unforeseen
from curb.stream import metrics
from curb.stream.log.codec import encode
from curb.stream.records.knowledge import refusal
from curb.stream.records.spend import CostRecord, GpuRecord, PlannedActivity, SpendRecord, UsageRecord
from curb.stream.time import DAY_S

#: 2015-01-01T00:00:00Z: no gateway or bill Curb reads is older.
OLDEST = 1_420_070_400.0
MAX_ID_CHARS = 256
MAX_TAGS = 64
MAX_KEY_CHARS = 128
MAX_VALUE_CHARS = 256
#: More than this in one record is an accident of units, not a price.
MAX_COST_USD = 1e9
MAX_COUNT = 2**53
#: Clocks and time zones are off by less, milliseconds taken for seconds by more.
MAX_SKEW_S = 86_400.0
#: What is paid ahead on a bill counts in its own period; commitments are sold for three years.
_MAX_PREPAID_S = 4 * 366 * 86_400.0
_HASH_CHARS = 16
_BILL_TEXTS = (
    "billing_currency",
    "charge_category",
    "service_name",
    "sub_account_id",
    "resource_id",
    "provider_name",
    "region_id",
    "usage_type",
)
#: Control, format (zero-width, bidirectional overrides), surrogates, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class IntakeLimits(NamedTuple):
    """What the door tolerates that a configuration may change."""

    #: How far the start of a charge may lie after its receipt, seconds.
    max_future_s: float = 300.0


DEFAULT_LIMITS = IntakeLimits()


def validate(batch: Batch, *, source: str, at: float, limits: IntakeLimits = DEFAULT_LIMITS) -> Batch:
    """The batch without the records the door refuses; those become dead letters, dated `at`.

    Changes the tags of the records in place: unsafe characters go, long names are shortened to a stable form.
    """
    kept, locations, letters = [], [], Letters(source, at)
    skewed, skew_s = 0, 0.0
    for index, record in enumerate(batch.records):
        location = batch.locations[index] if batch.locations else f"{source}#{index}"
        try:
            ahead_s = date_by_receipt(record, limits)
            rejected = check(record, limits=limits)
        except UNFORESEEN as error:
            ahead_s, rejected = 0.0, unforeseen(error)
        if rejected is None:
            kept.append(record)
            locations.append(location)
            if ahead_s:
                skewed, skew_s = skewed + 1, max(skew_s, ahead_s)
        else:
            content = encode([type(record).__name__, repr(record.id), repr(record.charge_period_start)])
            letters.add(rejected, location=location, content=content)
    if skewed:
        metrics.CLOCK_SKEWED.labels(connector=source).inc(skewed)
        metrics.CLOCK_SKEW.labels(connector=source).set(skew_s)
    dead = [*batch.dead, *letters.messages()]
    return batch._replace(records=kept, locations=locations, dead=dead, skewed=skewed, skew_s=skew_s)


def date_by_receipt(record: SpendRecord, limits: IntakeLimits = DEFAULT_LIMITS) -> float:
    """Date a charge that lies ahead of its receipt by the receipt: the sender's clock is off. Seconds it was ahead.

    What is more than a day ahead is no clock but an error of units, and is left to be refused; bills have no clock.
    """
    ahead_s = record.charge_period_start - record.received_at
    if isinstance(record, CostRecord) or not limits.max_future_s < ahead_s <= MAX_SKEW_S:
        return 0.0
    record.charge_period_start = record.received_at
    return ahead_s


def check(record: SpendRecord, *, limits: IntakeLimits = DEFAULT_LIMITS) -> Rejected | None:
    """Why the record is refused, or None; its texts are cleaned in place."""
    for name, number in _floats(record):
        if not math.isfinite(number):
            return Rejected("not_finite", name)
    if abs(record.effective_cost) > MAX_COST_USD:
        return Rejected("invalid", f"effective_cost beyond {MAX_COST_USD:g} dollars")
    if record.effective_cost < 0 and not isinstance(record, CostRecord):
        return Rejected("negative_cost", "effective_cost is below 0")
    if record.charge_period_start < OLDEST:
        return Rejected("too_old", "charge_period_start is before 2015")
    is_bill = isinstance(record, CostRecord)
    if record.charge_period_start > record.received_at + (_MAX_PREPAID_S if is_bill else limits.max_future_s):
        # What is less than a day ahead was dated by its receipt, see `date_by_receipt`.
        days = (_MAX_PREPAID_S if is_bill else max(limits.max_future_s, MAX_SKEW_S)) / DAY_S
        return Rejected("in_the_future", f"charge_period_start is more than {days:g} d ahead of its receipt")
    if why := _odd_count(record):
        return Rejected("invalid", why)
    if not record.id or clean(record.id) != record.id:
        return Rejected("invalid", "id is empty or has control characters")
    record.id = bounded_id(record.id)
    if len(record.tags) > MAX_TAGS:
        return Rejected("invalid", f"more than {MAX_TAGS} tags")
    record.tags = clean_tags(record.tags)
    record.request_model = shorten(clean(record.request_model), MAX_VALUE_CHARS)
    if isinstance(record, CostRecord):
        for name in _BILL_TEXTS:
            setattr(record, name, clean(getattr(record, name)))
    return None


def check_plan(plan: PlannedActivity) -> Rejected | None:
    """Why announced work is refused, or None; its texts are cleaned in place."""
    plan.id, plan.tags = shorten(clean(plan.id), MAX_ID_CHARS), clean_tags(plan.tags)
    plan.reason = shorten(clean(plan.reason), MAX_VALUE_CHARS)
    why = refusal(plan)
    return None if why is None else Rejected("invalid", why)


def _floats(record: SpendRecord) -> Iterator[tuple[str, float]]:
    yield "effective_cost", record.effective_cost
    yield "charge_period_start", record.charge_period_start
    yield "charge_period_end", record.charge_period_end
    yield "received_at", record.received_at
    if isinstance(record, GpuRecord):
        yield "gpu_utilization", record.gpu_utilization or 0.0
        yield "memory_used", record.memory_used or 0.0
        yield "power_usage", record.power_usage or 0.0
    elif isinstance(record, CostRecord):
        yield "billed_cost", record.billed_cost


def _odd_count(record: SpendRecord) -> str:
    """Which count cannot be, or ""."""
    for name, count in _counts(record):
        if not 0 <= count <= MAX_COUNT:
            return f"{name} is not between 0 and 2^53"
    # What was refused is taken off the rest, so more than there is would hide other calls of the key.
    is_more = record.refused > min(record.requests, record.errors)
    return "refused is more than errors or requests" if is_more else ""


def _counts(record: SpendRecord) -> Iterator[tuple[str, int]]:
    yield "requests", record.requests
    yield "errors", record.errors
    yield "refused", record.refused
    yield "users", record.users
    yield "input_tokens", record.input_tokens
    yield "output_tokens", record.output_tokens
    if isinstance(record, UsageRecord):
        yield "cache_read_input_tokens", record.cache_read_input_tokens
        yield "cache_creation_input_tokens", record.cache_creation_input_tokens


def clean_tags(tags: dict[str, str]) -> dict[str, str]:
    """Tags with safe, bounded names and values; a tag that is empty then is dropped."""
    cleaned = {}
    for given_key, given_value in tags.items():
        key = clean(given_key if isinstance(given_key, str) else _text(given_key))
        value = clean(given_value if isinstance(given_value, str) else _text(given_value))
        key, value = shorten(key, MAX_KEY_CHARS), shorten(value, MAX_VALUE_CHARS)
        if key and value:
            cleaned[key] = value
    return cleaned


def _text(given: object) -> str:
    """Numbers and truth values of loosely typed sources as text; what is neither is as if it were not there."""
    return str(given) if isinstance(given, int | float) else ""


def clean(text: str) -> str:
    """Without control, zero-width and direction-changing characters and without space around it."""
    if text.isprintable():
        return text.strip()
    return "".join(c for c in text if unicodedata.category(c) not in _UNSAFE).strip()


def bounded_id(text: str) -> str:
    """The id itself, or its hash where it is longer than MAX_ID_CHARS: gateways sign and encrypt ids of any length."""
    return (
        text
        if len(text) <= MAX_ID_CHARS
        else f"sha256/{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    )


def shorten(text: str, max_chars: int) -> str:
    """Text cut to `max_chars`, ending in a hash of the whole, so that different long texts stay different."""
    if len(text) <= max_chars:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_HASH_CHARS]
    return f"{text[: max_chars - _HASH_CHARS - 1]}~{digest}"
