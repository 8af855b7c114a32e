"""FOCUS 1.0 to 1.4, by column name: what anyone's export in this form says."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from curb.connectors.bills.charges import CommitmentStatus, LineKind
from curb.connectors.bills.lines import BillForm, Texts, ratio
from curb.connectors.bills.sums import Floats
from curb.stream.records.spend import ChargeKind

_CATEGORIES = {category.lower(): category for category in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")}
_KINDS: dict[str, ChargeKind] = {"Usage": "usage", "Purchase": "purchase", "Tax": "tax", "Credit": "credit"}


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """Effective and billed; what has no EffectiveCost is not amortised, and is effective as it is billed.

    A purchase of a commitment has no effective cost where there is such a column: the usage that it pays has it
    (FOCUS, EffectiveCost).
    """
    billed = lines.amounts("billedcost")
    if not lines.has("effectivecost"):
        return billed.copy(), billed
    effective = np.where(lines.given("effectivecost"), lines.amounts("effectivecost"), billed)
    if lines.has("commitmentdiscountid"):
        bought = np.char.lower(_plain(lines, "chargecategory", "chargetype")) == "purchase"
        effective[bought & (_plain(lines, "commitmentdiscountid") != "")] = 0.0
    return effective, billed


def _plain(lines: Texts, *names: str) -> NDArray[np.str_]:
    return np.array([text or "" for text in lines.texts(*names).to_pylist()], np.str_)


def usd(lines: Texts) -> Floats:
    """Azure says each amount in dollars as well; others have a pricing currency, or what a dollar cost (Google)."""
    found = ratio(lines, ("billedcost", "xbilledcostinusd"), ("effectivecost", "xeffectivecostinusd"))
    if lines.has("pricingcurrency"):
        priced = ratio(lines, ("effectivecost", "pricingcurrencyeffectivecost"))
        found = np.where(np.isnan(found) & (_plain(lines, "pricingcurrency") == "USD"), priced, found)
    per_dollar = lines.amounts("xcurrencyconversionrate")
    return np.where(np.isnan(found) & (per_dollar > 0), 1.0 / np.where(per_dollar > 0, per_dollar, 1.0), found)


def category(texts: Mapping[str, str]) -> LineKind:
    """Usage that recurs or comes once is a fixed fee, and so is an unused commitment; both are carried as purchases."""
    said = _CATEGORIES.get(texts.get("kind", "").lower(), "Adjustment")
    status = texts.get("commitment", "").capitalize()
    commitment: CommitmentStatus = "Used" if status == "Used" else "Unused" if status == "Unused" else ""
    correction = texts.get("class", "").lower() == "correction"
    if said == "Usage" and commitment == "Unused":
        return LineKind("Purchase", "commitment", "Unused", correction)
    if said == "Usage" and texts.get("frequency", "").lower() in ("recurring", "one-time"):
        return LineKind("Purchase", "fee", commitment, correction)
    kind = _KINDS.get(said, "adjustment")
    if said == "Adjustment" and texts.get("kind", "").lower() == "refund":
        kind = "refund"
    return LineKind(said, kind, commitment, correction)


FOCUS = BillForm(
    name="FOCUS",
    required=("ChargePeriodStart", "ChargePeriodEnd", "BilledCost", "BillingCurrency", "ChargeCategory", "ServiceName"),
    start=("chargeperiodstart",),
    end=("chargeperiodend",),
    amounts=(
        "effectivecost",
        "billedcost",
        "commitmentdiscountid",
        "xbilledcostinusd",
        "xeffectivecostinusd",
        "pricingcurrency",
        "pricingcurrencyeffectivecost",
        "xcurrencyconversionrate",
    ),
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
        "commitment": ("commitmentdiscountstatus",),
        "usage_type": ("xusagetype", "skumeter", "xskumetername", "xskudescription", "skuid"),
    },
    tags=("tags",),
    cost=cost,
    category=category,
    usd=usd,
)


def is_focus(names: set[str]) -> bool:
    """Whether columns with these canonical names are FOCUS."""
    return bool(names & {"chargeperiodstart", "chargecategory"})
