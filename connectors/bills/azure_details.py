"""Azure's cost details, as enterprises, Microsoft customers and partners, and pay-as-you-go accounts get them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from curb.connectors.bills.lines import BillForm, Texts, epoch
from curb.connectors.bills.sums import Floats

#: Type of charge → FOCUS charge category. What a commitment did not use is a fixed fee.
_CATEGORIES = {
    "": "Usage",  # files of usage alone have no such column
    "usage": "Usage",
    "purchase": "Purchase",
    "unusedreservation": "Purchase",
    "unusedsavingsplan": "Purchase",
    "tax": "Tax",
}
_AMOUNTS = ("costinbillingcurrency", "cost", "pretaxcost")
_AMERICAN = re.compile(r"\s*(\d{1,2})/(\d{1,2})/(\d{4})\b")


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """There is one amount: an export is either of what is billed or of what is amortised."""
    amounts = lines.amounts(*_AMOUNTS)
    return amounts, amounts


def category(texts: Mapping[str, str]) -> tuple[str, bool]:
    """Refunds, rounding and whatever comes next are adjustments; usage that recurs or comes once is a fixed fee."""
    said = _CATEGORIES.get(texts.get("kind", "").lower(), "Adjustment")
    fixed = texts.get("frequency", "").lower() in ("recurring", "onetime")
    return "Purchase" if said == "Usage" and fixed else said, False


def moment(text: str) -> int:
    """Epoch seconds of a day, written 2026-10-02 (with or without a time) or 10/2/2026; 0 for what is none."""
    american = _AMERICAN.match(text)
    if american is None:
        return epoch(text)
    month, day, year = map(int, american.groups())
    try:
        return int(datetime(year, month, day, tzinfo=UTC).timestamp())
    except ValueError:
        return 0


AZURE = BillForm(
    name="Azure",
    required=(
        "Date or UsageDateTime",
        "CostInBillingCurrency or Cost or PreTaxCost",
        "BillingCurrency or BillingCurrencyCode or Currency",
        "MeterCategory",
        "SubscriptionId or SubscriptionGuid",
    ),
    start=("date", "usagedatetime"),
    end=(),
    amounts=_AMOUNTS,
    texts={
        "service": ("metercategory",),
        "account": ("subscriptionid", "subscriptionguid"),
        "region": ("resourcelocation", "location"),
        "resource": ("resourceid", "instanceid", "instancename"),
        "currency": ("billingcurrency", "billingcurrencycode", "currency"),
        "kind": ("chargetype",),
        "frequency": ("frequency",),
    },
    tags=("tags",),
    cost=cost,
    category=category,
    moment=moment,
    provider="Microsoft",
)
