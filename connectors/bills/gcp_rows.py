"""One row of Google Cloud's billing export → FOCUS: the gross cost, and apart from it what its credits take off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from curb.connectors.bills.charges import LineKind
from curb.connectors.bills.files import canonical
from curb.connectors.bills.focus import is_focus
from curb.connectors.bills.focus_rows import Convert, Row, text
from curb.connectors.decode import UNFORESEEN
from curb.stream.errors import PermanentError
from curb.stream.log.codec import UNREADABLE

_REQUIRED = ("usage_start_time", "usage_end_time", "cost", "currency")
PROVIDER = "Google Cloud"
CREDIT = LineKind("Credit", "credit")
#: cost_type → what it is; what Google invents next is an adjustment.
_KINDS = {"regular": LineKind("Usage", "usage"), "tax": LineKind("Tax", "tax")}


def kind_of(cost_type: str, *, commitment: bool) -> LineKind:
    """What a row is. The fee of a commitment is due each hour whatever is used: its SKU begins with the word."""
    if cost_type == "regular" and commitment:
        return LineKind("Purchase", "purchase")
    return _KINDS.get(cost_type, LineKind("Adjustment", "adjustment"))


def form_of(names: Sequence[str]) -> Convert | None:
    """What converts rows with these columns. Raises PermanentError that names what is missing."""
    if is_focus({canonical(name) for name in names}):
        return None
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise PermanentError(f"not a Google Cloud billing export: column {', '.join(missing)} is missing")
    return lines


def lines(row: Row) -> Iterator[dict[str, str | None]]:
    """The gross line, and one over its credits where there are any."""
    cost, kind = text(row.get("cost")), str(row.get("cost_type") or "regular")
    sku = _of(row, "sku", "description")
    line = {
        "ChargePeriodStart": _time(row.get("usage_start_time")),
        "ChargePeriodEnd": _time(row.get("usage_end_time")),
        "BilledCost": cost,
        "EffectiveCost": cost,
        "BillingCurrency": text(row.get("currency")),
        "ChargeCategory": kind_of(kind, commitment=str(sku or "").startswith("Commitment")).category,
        "x_CurrencyConversionRate": text(row.get("currency_conversion_rate")),
        "SkuMeter": text(sku),
        "ServiceName": text(_of(row, "service", "description")),
        "SubAccountId": text(_of(row, "project", "id")),
        "RegionId": text(_of(row, "location", "region") or _of(row, "location", "location")),
        "ResourceId": text(_of(row, "resource", "global_name") or _of(row, "resource", "name")),
        "ServiceProviderName": PROVIDER,
        "Tags": json.dumps({**_labels(_of(row, "project", "labels")), **_labels(_nested(row.get("labels")))}),
    }
    yield line
    credits = _nested(row.get("credits")) or []
    try:
        off = sum(float(credit["amount"]) for credit in credits)
    except UNFORESEEN:
        yield {**line, "BilledCost": "credits", "EffectiveCost": "credits"}  # no number: becomes a dead letter
        return
    if off:
        yield {**line, "BilledCost": repr(off), "EffectiveCost": repr(off), "ChargeCategory": "Credit"}


def _of(row: Row, column: str, field: str) -> Any:
    """A field of a nested column, in CSV of a column of its own or of JSON text."""
    flat = row.get(f"{column}.{field}", row.get(f"{column}_{field}"))
    if flat is not None:
        return _nested(flat) if field == "labels" else flat
    nested = _nested(row.get(column))
    return nested.get(field) if isinstance(nested, dict) else None


def _nested(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return msgspec.json.decode(value)
    except UNREADABLE:
        return value


def _labels(pairs: Any) -> dict[str, str]:
    if isinstance(pairs, dict):
        return {str(key): str(value) for key, value in pairs.items()}
    if not isinstance(pairs, list):
        return {}
    return {
        str(each["key"]): str(each.get("value") or "") for each in pairs if isinstance(each, dict) and "key" in each
    }


def _time(value: Any) -> str | None:
    return value.isoformat() if hasattr(value, "isoformat") else text(value)
