"""FOCUS 1.0 to 1.4, by column name: what anyone's export in this form says."""

from __future__ import annotations

from collections.abc import Mapping

from curb.connectors.bills.lines import BillForm, Texts
from curb.connectors.bills.sums import Floats

_CATEGORIES = {category.lower(): category for category in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")}


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """Effective and billed; an export without EffectiveCost has no amortisation."""
    return lines.amounts("effectivecost", "billedcost"), lines.amounts("billedcost")


def category(texts: Mapping[str, str]) -> tuple[str, bool]:
    """Usage that recurs or comes once is a fixed fee; it is carried as a purchase."""
    said = _CATEGORIES.get(texts.get("kind", "").lower(), "Adjustment")
    fixed = texts.get("frequency", "").lower() in ("recurring", "one-time")
    return "Purchase" if said == "Usage" and fixed else said, texts.get("class", "").lower() == "correction"


FOCUS = BillForm(
    name="FOCUS",
    required=("ChargePeriodStart", "ChargePeriodEnd", "BilledCost", "BillingCurrency", "ChargeCategory", "ServiceName"),
    start=("chargeperiodstart",),
    end=("chargeperiodend",),
    amounts=("effectivecost", "billedcost"),
    texts={
        "service": ("servicename",),
        "account": ("subaccountid", "billingaccountid"),
        "region": ("regionid", "region"),
        "resource": ("resourceid",),
        # 1.4 has no ProviderName any more, 1.3 and later say who provides the service.
        "provider": ("serviceprovidername", "providername", "provider"),
        "currency": ("billingcurrency",),
        "kind": ("chargecategory", "chargetype"),
        "frequency": ("chargefrequency",),
        "class": ("chargeclass",),
    },
    tags=("tags",),
    cost=cost,
    category=category,
)


def is_focus(names: set[str]) -> bool:
    """Whether columns with these canonical names are FOCUS."""
    return bool(names & {"chargeperiodstart", "chargecategory"})
