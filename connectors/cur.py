"""AWS Cost and Usage Reports, CUR 2.0 and legacy names alike: which line costs what, and what kind it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from connectors.bill_lines import BillForm, Texts
from connectors.bill_sums import Floats

_TYPE = "lineitemlineitemtype"
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
    types = lines.texts(_TYPE)
    for of, plus, minus in _AMORTISED:
        rows = _are(types, of)
        if rows.any() and lines.has(*plus, *minus):
            effective[rows] = sum(lines.amounts(name)[rows] for name in plus)
            effective[rows] -= sum(lines.amounts(name)[rows] for name in minus)
    upfront = _are(types, "Fee") & _filled(lines.texts("reservationreservationarn"))
    effective[upfront | _are(types, "SavingsPlanNegation") | _are(types, "SavingsPlanUpfrontFee")] = 0.0
    return effective, billed


def category(texts: Mapping[str, str]) -> tuple[str, bool]:
    """Refunds and whatever AWS invents next are adjustments."""
    return _CATEGORIES.get(texts.get("kind", ""), "Adjustment"), False


def _are(types: pa.Array, of: str) -> NDArray[np.bool_]:
    if pa.types.is_dictionary(types.type):
        place = types.dictionary.to_pylist()
        if of not in place:
            return np.zeros(len(types), np.bool_)
        found: NDArray[np.bool_] = types.indices.fill_null(-1).to_numpy(zero_copy_only=False) == place.index(of)
        return found
    same: NDArray[np.bool_] = pc.equal(types, of).fill_null(False).to_numpy(zero_copy_only=False)
    return same


def _filled(texts: pa.Array) -> NDArray[np.bool_]:
    filled: NDArray[np.bool_] = pc.fill_null(pc.not_equal(texts.cast(pa.string()), ""), False).to_numpy(
        zero_copy_only=False
    )
    return filled


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
    start="lineitemusagestartdate",
    end="lineitemusageenddate",
    amounts=(
        "lineitemunblendedcost",
        "reservationeffectivecost",
        "savingsplansavingsplaneffectivecost",
        "reservationunusedamortizedupfrontfeeforbillingperiod",
        "reservationunusedrecurringfee",
        "savingsplantotalcommitmenttodate",
        "savingsplanusedcommitment",
        "reservationreservationarn",
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
