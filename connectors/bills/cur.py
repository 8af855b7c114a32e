"""AWS Cost and Usage Reports, CUR 2.0 and legacy names alike: which line costs what, and what kind it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curb.connectors.bills.arrow import to_numbers
from curb.connectors.bills.lines import BillForm, Texts
from curb.connectors.bills.sums import Floats

_TYPE, _RESERVATION = "lineitemlineitemtype", "reservationreservationarn"
#: Type of line → columns that are added and taken off to give its effective cost, where the report has them.
_AMORTISED: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("DiscountedUsage", ("reservationeffectivecost",), ()),
    ("SavingsPlanCoveredUsage", ("savingsplansavingsplaneffectivecost",), ()),
    ("RIFee", ("reservationunusedamortizedupfrontfeeforbillingperiod", "reservationunusedrecurringfee"), ()),
    ("SavingsPlanRecurringFee", ("savingsplantotalcommitmenttodate",), ("savingsplanusedcommitment",)),
)
_CATEGORIES = {
    "Usage": "Usage",
    "DiscountedUsage": "Usage",
    "SavingsPlanCoveredUsage": "Usage",
    "Fee": "Purchase",
    "RIFee": "Purchase",
    "SavingsPlanRecurringFee": "Purchase",
    "SavingsPlanUpfrontFee": "Purchase",
    "Tax": "Tax",
    "Credit": "Credit",
    "EdpDiscount": "Credit",
    "PrivateRateDiscount": "Credit",
    "BundledDiscount": "Credit",
    "Discount": "Credit",
}


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """Effective is amortised: what reservations and savings plans cover costs its share, their fees what is unused."""
    billed = lines.amounts("lineitemunblendedcost")
    effective = billed.copy()
    kinds, names = _numbered(lines.texts(_TYPE))

    def are(kind: str) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = kinds == (names.index(kind) if kind in names else len(names))
        return same

    for of, plus, minus in _AMORTISED:
        if of in names and lines.has(*plus, *minus):
            rows = are(of)
            effective[rows] = sum(lines.amounts(name)[rows] for name in plus)
            effective[rows] -= sum(lines.amounts(name)[rows] for name in minus)
    nothing = are("SavingsPlanNegation") | are("SavingsPlanUpfrontFee")
    if "Fee" in names and lines.has(_RESERVATION):
        numbers, reservations = _numbered(lines.texts(_RESERVATION))
        nothing |= are("Fee") & np.array([*map(bool, reservations), False])[numbers]
    effective[nothing] = 0.0
    return effective, billed


def category(texts: Mapping[str, str]) -> tuple[str, bool]:
    """Refunds and whatever AWS invents next are adjustments."""
    return _CATEGORIES.get(texts.get("kind", ""), "Adjustment"), False


def _numbered(texts: pa.Array) -> tuple[NDArray[Any], list[str | None]]:
    """For each row the place of its text in the list, -1 for a null."""
    if not pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_encode()
    return to_numbers(texts.indices, -1), texts.dictionary.to_pylist()


CUR = BillForm(
    name="CUR",
    required=(
        "line_item_usage_start_date",
        "line_item_usage_end_date",
        "line_item_line_item_type",
        "line_item_unblended_cost",
        "line_item_product_code",
        "line_item_usage_account_id",
    ),
    start=("lineitemusagestartdate",),
    end=("lineitemusageenddate",),
    amounts=(
        "lineitemunblendedcost",
        "reservationeffectivecost",
        "savingsplansavingsplaneffectivecost",
        "reservationunusedamortizedupfrontfeeforbillingperiod",
        "reservationunusedrecurringfee",
        "savingsplantotalcommitmenttodate",
        "savingsplanusedcommitment",
        _RESERVATION,
    ),
    texts={
        "service": ("lineitemproductcode",),
        "account": ("lineitemusageaccountid",),
        "region": ("productregioncode", "productregion"),
        "resource": ("lineitemresourceid",),
        "currency": ("lineitemcurrencycode",),
        "kind": (_TYPE,),
    },
    tags=("resourcetags", "costcategory"),
    cost=cost,
    category=category,
)
