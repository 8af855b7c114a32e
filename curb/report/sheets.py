"""A report as CSV: a row per group, or the charges themselves in FOCUS 1.2 for the finance team's tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from datetime import timedelta
from zoneinfo import ZoneInfo

import msgspec

from curb.report.charges import Charges, LineKey, LineSums
from curb.report.figures import GroupRow, Quotient, SpendReport
from curb.report.span import midnight
from curb.report.wording import amount
from curb.stream.records.spend import UNTAGGED
from curb.stream.time import HOUR_S, moment, period_around

#: Starts of a cell that a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
#: The mandatory columns of FOCUS 1.2, then recommended and conditional ones that Curb knows, then Curb's own.
FOCUS_COLUMNS = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ChargeFrequency",
    "InvoiceId",
    "ServiceSubcategory",
    "RegionId",
    "SubAccountId",
    "Tags",
    "x_CostSource",
    "x_Model",
    "x_Requests",
    "x_SharedBy",
    "x_Tokens",
)
#: Categories that FOCUS allows; anything else on the log is usage.
_CATEGORIES = frozenset({"Usage", "Purchase", "Tax", "Credit", "Adjustment"})
_SERVICE = {
    "usage": ("AI and Machine Learning", "Generative AI"),
    "gpu": ("Compute", "Other (Compute)"),
    "costs": ("Other", "Other (Other)"),
}
#: Stands where FOCUS wants a name and the log has no name.
_UNKNOWN = "unknown"


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: it then starts with an apostrophe."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _csv(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([safe(name) for name in header])
    writer.writerows(rows)
    return out.getvalue()


def group_csv(report: SpendReport) -> str:
    """A row per group; there is no row for the total, so that every column adds up to it."""
    kpis = list(report.total.kpis)
    figures = (
        "spend_usd", "before_usd", "change", "share", "shared_usd", "estimated_usd", "billed_usd", "requests",
        "usd_per_request", "usd_per_request_change", "tokens_1k", "usd_per_1k_tokens", "usd_per_1k_tokens_change",
        "anomalies", "anomalies_usd", "saved_usd", "refused",
    )  # fmt: skip
    of_kpis = [f"{name}{what}" for name in kpis for what in ("", "_usd_each", "_usd_each_change")]
    header = ["first_day", "last_day", "money", *report.by, *figures, *of_kpis]
    return _csv(header, (_cells(report, row, kpis) for row in report.groups))


def _cells(report: SpendReport, row: GroupRow, kpis: list[str]) -> Iterator[str]:
    yield from (report.first_day, report.last_day, report.money)
    yield from map(safe, row.tags.values())
    numbers = (row.spend_usd, row.before_usd, row.change, row.share, row.shared_usd, row.estimated_usd, row.billed_usd)
    yield from map(_number, numbers)
    for quotient in (row.requests, row.tokens):
        yield from _quotient(quotient)
    yield from (str(row.alerts), _number(row.excess_usd), _number(row.saved_usd), str(row.refused))
    for name in kpis:
        yield from _quotient(row.kpis.get(name))


def _quotient(found: Quotient | None) -> Iterator[str]:
    yield from ("", "", "") if found is None else map(_number, (found.units, found.usd_each, found.change))


def _number(value: float | None) -> str:
    return "" if value is None else amount(value)


# --- FOCUS --------------------------------------------------------------------------------------------------------


def focus_csv(report: SpendReport, charges: Charges) -> str:
    """FOCUS 1.2: a row per day, provider, model or service, and tags; `EffectiveCost` adds up to the report's total.

    Of the charges that the report counts: estimated ones, billed ones or both.
    """
    assert charges.lines is not None, "the charges were read with their lines"
    kept = {"estimated": ("usage", "gpu"), "billed": ("costs",), "both": ("usage", "gpu", "costs")}[report.money]
    lines = sorted((key, sums) for key, sums in charges.lines.items() if key.kind in kept)
    return _csv(FOCUS_COLUMNS, (_focus_row(key, sums, charges.span.zone) for key, sums in lines))


def _focus_row(key: LineKey, sums: LineSums, zone: ZoneInfo) -> list[str]:
    start, end = midnight(key.day, zone), midnight(key.day + timedelta(days=1), zone)
    month_start, month_end = period_around(start, "month", zone)
    # What a charge would have cost by list or contract is on the log only where a bill says what it billed.
    billed = _decimal(sums.billed.usd)
    category = key.category if key.category in _CATEGORIES else "Usage"
    quantity, unit = ("", "") if category == "Tax" else _quantity(key, sums)
    provider = safe(_known(key.provider) or key.source or _UNKNOWN)
    service = safe(_known(key.service) or _UNKNOWN)
    account = safe(key.source or _UNKNOWN)
    row = {
        "BilledCost": billed,
        "BillingAccountId": account,
        "BillingAccountName": account,
        "BillingCurrency": "USD",
        "BillingPeriodEnd": _utc(month_end),
        "BillingPeriodStart": _utc(month_start),
        "ChargeCategory": category,
        "ChargeClass": "",
        "ChargeDescription": safe(f"{category} of {key.service if _known(key.service) else _UNKNOWN}"),
        "ChargePeriodEnd": _utc(end),
        "ChargePeriodStart": _utc(start),
        "ContractedCost": billed,
        "EffectiveCost": _decimal(sums.effective.usd),
        "InvoiceIssuerName": provider,
        "ListCost": billed,
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ProviderName": provider,
        "PublisherName": provider,
        "ServiceCategory": _SERVICE[key.kind][0],
        "ServiceName": service,
        "ChargeFrequency": key.frequency,
        "InvoiceId": "",
        "ServiceSubcategory": _SERVICE[key.kind][1],
        "RegionId": safe(_known(key.region)),
        "SubAccountId": safe(_known(key.account)),
        "Tags": msgspec.json.encode(dict(key.tags)).decode(),
        "x_CostSource": "billed" if key.kind == "costs" else "estimated",
        "x_Model": safe(_known(key.model)),
        "x_Requests": str(sums.requests),
        "x_SharedBy": key.shared_by,
        "x_Tokens": str(sums.tokens),
    }
    return [row[column] for column in FOCUS_COLUMNS]


def _quantity(key: LineKey, sums: LineSums) -> tuple[str, str]:
    if key.kind == "gpu" and sums.gpu_seconds:
        return _decimal(sums.gpu_seconds / HOUR_S), "GPU-Hours"
    if sums.tokens:
        return _decimal(sums.tokens), "Tokens"
    return (_decimal(sums.requests), "Requests") if sums.requests else (_decimal(sums.charges), "Charges")


def _decimal(value: float) -> str:
    """A number with a point: readers that guess types must not take a column of whole numbers for integers."""
    text = amount(value)
    return text if "." in text else f"{text}.0"


def _known(value: str) -> str:
    return "" if value == UNTAGGED else value


def _utc(at: float) -> str:
    return moment(at).strftime("%Y-%m-%dT%H:%M:%SZ")
