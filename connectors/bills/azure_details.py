"""Azure's cost details, as enterprises, Microsoft customers and partners, and pay-as-you-go accounts get them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from curb.connectors.bills.charges import LineKind
from curb.connectors.bills.files import canonical
from curb.connectors.bills.lines import BillForm, Texts, ratio
from curb.connectors.bills.sums import Floats

#: Type of charge → what it is. What a commitment did not use is a fixed fee.
_KINDS = {
    "": LineKind("Usage", "usage"),  # files of usage alone have no such column
    "usage": LineKind("Usage", "usage"),
    "purchase": LineKind("Purchase", "purchase"),
    "unusedreservation": LineKind("Purchase", "commitment", "Unused"),
    "unusedsavingsplan": LineKind("Purchase", "commitment", "Unused"),
    "tax": LineKind("Tax", "tax"),
    "refund": LineKind("Adjustment", "refund"),
}
_AMOUNTS = ("costinbillingcurrency", "cost", "pretaxcost")


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """There is one amount: an export is either of what is billed or of what is amortised."""
    amounts = lines.amounts(*_AMOUNTS)
    return amounts, amounts.copy()


def category(texts: Mapping[str, str]) -> LineKind:
    """Rounding and whatever comes next are adjustments; usage that recurs or comes once is a fixed fee."""
    said = _KINDS.get(texts.get("kind", "").lower(), LineKind("Adjustment", "adjustment"))
    if said.category != "Usage":
        return said
    if texts.get("frequency", "").lower() in ("recurring", "onetime"):
        return LineKind("Purchase", "fee")
    paid = canonical(texts.get("model", "")) in ("reservation", "savingsplan")
    return said._replace(commitment="Used") if paid else said


def usd(lines: Texts) -> Floats:
    """The line's own dollars (`CostInUsd`), or what it costs in a pricing currency that is dollars."""
    cost_name = next((name for name in _AMOUNTS if lines.has(name)), _AMOUNTS[0])
    found = ratio(lines, (cost_name, "costinusd"))
    if lines.has("pricingcurrency"):
        priced = np.array([text == "USD" for text in lines.texts("pricingcurrency").to_pylist()], np.bool_)
        rate = lines.amounts("exchangeratepricingtobilling")
        by_rate = np.where(rate > 0, 1.0 / np.where(rate > 0, rate, 1.0), np.nan)
        named = ratio(lines, (cost_name, "costinpricingcurrency"))
        found = np.where(np.isnan(found) & priced, np.where(np.isnan(named), by_rate, named), found)
    return found


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
    amounts=(*_AMOUNTS, "costinusd", "costinpricingcurrency", "exchangeratepricingtobilling", "pricingcurrency"),
    texts={
        "service": ("metercategory",),
        "account": ("subscriptionid", "subscriptionguid"),
        "region": ("resourcelocation", "location"),
        "resource": ("resourceid", "instanceid", "instancename"),
        "currency": ("billingcurrency", "billingcurrencycode", "currency"),
        "kind": ("chargetype",),
        "frequency": ("frequency",),
        "model": ("pricingmodel",),
        "usage_type": ("metername",),
    },
    tags=("tags",),
    cost=cost,
    category=category,
    usd=usd,
    month_first=True,
    provider="Microsoft",
)
