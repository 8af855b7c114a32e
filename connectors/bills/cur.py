"""AWS Cost and Usage Reports, CUR 2.0 and legacy names alike: which line costs what, and what kind it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curb.connectors.bills.cells.arrow import to_numbers
from curb.connectors.bills.charges import LineKind
from curb.connectors.bills.lines import BillForm, Texts
from curb.connectors.bills.sums import Floats, Settled, Totals

_TYPE, _RESERVATION = "lineitemlineitemtype", "reservationreservationarn"
_SP_COST, _RI_COST = "savingsplansavingsplaneffectivecost", "reservationeffectivecost"
_SP_USED, _SP_TOTAL = "savingsplanusedcommitment", "savingsplantotalcommitmenttodate"
_RI_UNUSED, _RI_UPFRONT = "reservationunusedrecurringfee", "reservationunusedamortizedupfrontfeeforbillingperiod"
_SP_USAGE, _SP_NEGATION = "SavingsPlanCoveredUsage", "SavingsPlanNegation"
_SP_FEE, _SP_BOUGHT, _RI_USAGE, _RI_FEE = "SavingsPlanRecurringFee", "SavingsPlanUpfrontFee", "DiscountedUsage", "RIFee"
#: Types of lines that are settled when all of them are known.
_GROUPS = frozenset({_SP_USAGE, _SP_NEGATION, _SP_FEE, _SP_BOUGHT, _RI_USAGE, _RI_FEE})
_KINDS = {
    "Usage": LineKind("Usage", "usage"),
    "DiscountedUsage": LineKind("Usage", "usage", "Used"),
    "SavingsPlanCoveredUsage": LineKind("Usage", "usage", "Used"),
    "Fee": LineKind("Purchase", "fee"),
    "RIFee": LineKind("Purchase", "commitment", "Unused"),
    "SavingsPlanRecurringFee": LineKind("Purchase", "commitment", "Unused"),
    "SavingsPlanUpfrontFee": LineKind("Purchase", "purchase"),
    "SavingsPlanNegation": LineKind("Adjustment", "commitment"),
    "Tax": LineKind("Tax", "tax"),
    "Credit": LineKind("Credit", "credit"),
    "EdpDiscount": LineKind("Credit", "credit"),
    "PrivateRateDiscount": LineKind("Credit", "credit"),
    "BundledDiscount": LineKind("Credit", "credit"),
    "Discount": LineKind("Credit", "credit"),
    "Refund": LineKind("Adjustment", "refund"),
}


def cost(lines: Texts) -> tuple[Floats, Floats]:
    """Effective is amortised where the columns say so: what commitments cover costs its share, fees what is unused.

    What a fee costs without columns of its own, and what is not amortised at all, is settled at the end.
    """
    billed = lines.amounts("lineitemunblendedcost")
    effective = billed.copy()
    kinds, names = _numbered(lines.texts(_TYPE))

    def are(kind: str) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = kinds == (names.index(kind) if kind in names else len(names))
        return same

    for kind, column in ((_SP_USAGE, _SP_COST), (_RI_USAGE, _RI_COST)):
        if kind in names and lines.has(column):
            rows = are(kind) & lines.given(column)
            effective[rows] = lines.amounts(column)[rows]
    if _SP_FEE in names and lines.has(_SP_USED):
        total = lines.amounts(_SP_TOTAL) if lines.has(_SP_TOTAL) else billed
        rows = are(_SP_FEE)
        effective[rows] = total[rows] - lines.amounts(_SP_USED)[rows]
    if _RI_FEE in names and lines.has(_RI_UNUSED):
        rows = are(_RI_FEE)
        effective[rows] = lines.amounts(_RI_UNUSED)[rows] + lines.amounts(_RI_UPFRONT)[rows]
    if "Fee" in names and lines.has(_RESERVATION, _RI_COST):  # bought upfront: its usage has the cost
        numbers, reservations = _numbered(lines.texts(_RESERVATION))
        effective[are("Fee") & np.array([*map(bool, reservations), False])[numbers]] = 0.0
    return effective, billed


def group(texts: Mapping[str, str]) -> str:
    """The type of a line of a commitment, empty for others."""
    kind = texts.get("kind", "")
    return kind if kind in _GROUPS else ""


def settle(totals: Totals, has: Callable[..., bool]) -> Settled:
    """A negation and an upfront fee are nothing where the usage has its share of them; else all count as billed.

    A fee without columns of its own is what the usage leaves of it.
    """
    found: dict[str, tuple[float, float]] = {}
    plans, reservations = (_SP_USAGE, _SP_FEE, _SP_COST, _SP_USED), (_RI_USAGE, _RI_FEE, _RI_COST, _RI_UNUSED)
    for usage, fee, column, own in (plans, reservations):
        share, listed = totals.get(usage, (0.0, 0.0))
        if has(column) and (usage not in totals or abs(share - listed) > 1e-9):
            if not has(own):
                paid = totals.get(fee, (0.0, 0.0))[1]
                found[fee] = 0.0, max(0.0, paid - share) / paid if paid > 0 else 0.0
            if usage == _SP_USAGE:
                found |= {_SP_NEGATION: (0.0, 0.0), _SP_BOUGHT: (0.0, 0.0)}
        else:
            found[fee] = 0.0, 1.0
    return found


def category(texts: Mapping[str, str]) -> LineKind:
    """Whatever AWS invents next is an adjustment."""
    return _KINDS.get(texts.get("kind", ""), LineKind("Adjustment", "adjustment"))


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
        _RI_COST,
        _SP_COST,
        _RI_UPFRONT,
        _RI_UNUSED,
        _SP_TOTAL,
        _SP_USED,
        _RESERVATION,
    ),
    texts={
        "service": ("lineitemproductcode",),
        "account": ("lineitemusageaccountid",),
        "region": ("productregioncode", "productregion"),
        "resource": ("lineitemresourceid",),
        "currency": ("lineitemcurrencycode",),
        "kind": (_TYPE,),
        "usage_type": ("lineitemusagetype",),
        "principal": ("lineitemiamprincipal",),
    },
    tags=("resourcetags", "costcategory", "product"),
    cost=cost,
    category=category,
    group=group,
    settle=settle,
    usd=lambda lines: np.full(lines.rows, np.nan),  # a report says no other currency
    provider="AWS",
    nested={"product": "product_name"},
    splits=True,
)
