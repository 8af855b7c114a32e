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
_FEE = "Fee"
#: Types of lines that are settled when all of them are known. A fee is one of them where a reservation was bought.
_GROUPS = (_SP_USAGE, _SP_NEGATION, _SP_FEE, _SP_BOUGHT, _RI_USAGE, _RI_FEE, _FEE)
#: Behind the type of a line whose columns do not say what it costs amortised.
_OPEN = "?"
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
    """Effective is amortised where a line says so: what commitments cover costs its share, fees what is unused.

    All else is as billed, and settled at the end.
    """
    billed = lines.amounts("lineitemunblendedcost")
    effective = billed.copy()
    of = _types(lines)
    for kind, column in ((_SP_USAGE, _SP_COST), (_RI_USAGE, _RI_COST)):
        rows = of(kind) & lines.given(column)
        if rows.any():
            effective[rows] = lines.amounts(column)[rows]
    for kind, unused in ((_SP_FEE, _unused_plan), (_RI_FEE, _unused_reservation)):
        rows = of(kind)
        if rows.any():
            left, known = unused(lines, billed)
            effective[rows & known] = left[rows & known]
    return effective, billed


def group(lines: Texts) -> tuple[NDArray[np.int32], list[str]]:
    """For each line its place in the names: its type where it belongs to a commitment, and whether it is open."""
    names = ["", *_GROUPS, *(kind + _OPEN for kind in _GROUPS)]
    found, of, billed = np.zeros(lines.rows, np.int32), _types(lines), lines.amounts("lineitemunblendedcost")

    def put(rows: NDArray[np.bool_], kind: str, known: NDArray[np.bool_] | None = None) -> None:
        found[rows] = names.index(kind)
        if known is not None:
            found[rows & ~known] = names.index(kind + _OPEN)

    for kind in (_SP_NEGATION, _SP_BOUGHT):
        put(of(kind), kind)
    if (covered := of(_SP_USAGE)).any():
        # Some reports write 0 where they have nothing to say.
        put(covered, _SP_USAGE, lines.given(_SP_COST) & ((lines.amounts(_SP_COST) != 0) | (billed == 0)))
    put(of(_RI_USAGE), _RI_USAGE, lines.given(_RI_COST))
    for kind, unused in ((_SP_FEE, _unused_plan), (_RI_FEE, _unused_reservation)):
        if (fees := of(kind)).any():
            put(fees, kind, unused(lines, billed)[1])
    fees = of(_FEE)
    if fees.any() and lines.has(_RESERVATION):
        numbers, reservations = _numbered(lines.texts(_RESERVATION))
        put(fees & np.array([*map(bool, reservations), False])[numbers], _FEE)
    return found, names


def settle(totals: Totals, has: Callable[..., bool]) -> Settled:
    """A negation and an upfront fee are nothing where the usage has its share of them; else all count as billed.

    What the columns leave open of a fee is what the usage leaves of it. Usage without a share of its own among others
    that have one costs nothing, and the fee so much more.
    """
    found: dict[str, tuple[float, float]] = {}
    plans = _SP_USAGE, _SP_FEE, _SP_COST, (_SP_NEGATION, _SP_BOUGHT)
    reservations = _RI_USAGE, _RI_FEE, _RI_COST, (_FEE,)
    for usage, fee, column, bought in (plans, reservations):
        share, listed = totals.get(usage, (0.0, 0.0))
        used = usage in totals or usage + _OPEN in totals
        if not has(column) or (used and (share <= 0 or abs(share - listed) < 1e-9)):
            # Also where the column says 0 of everything: there is no share then, and all counts as billed.
            found |= dict.fromkeys((fee, fee + _OPEN, usage + _OPEN), (0.0, 1.0))
            continue
        found |= dict.fromkeys(bought, (0.0, 0.0))
        own, paid = totals.get(fee, (0.0, 0.0))
        paid_open = totals.get(fee + _OPEN, (0.0, 0.0))[1]
        if usage + _OPEN in totals:
            found[usage + _OPEN] = 0.0, 0.0
            found[fee] = found[fee + _OPEN] = 0.0, _share(paid + paid_open - share, paid + paid_open)
        elif paid_open > 0:
            found[fee + _OPEN] = 0.0, _share(paid + paid_open - share - own, paid_open)
    return found


def _share(left: float, paid: float) -> float:
    return max(0.0, left) / paid if paid > 0 else 0.0


def _unused_plan(lines: Texts, billed: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """What a plan's fee leaves of its commitment, and where the line says so."""
    used, total = lines.amounts(_SP_USED), lines.amounts(_SP_TOTAL)
    known = lines.given(_SP_USED) & ((used != 0) | (total != 0) | (billed == 0))
    return np.where(total != 0, total, billed) - used, known


def _unused_reservation(lines: Texts, _billed: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The same of a reservation's fee."""
    return lines.amounts(_RI_UNUSED) + lines.amounts(_RI_UPFRONT), lines.given(_RI_UNUSED)


def category(texts: Mapping[str, str]) -> LineKind:
    """Whatever AWS invents next is an adjustment."""
    return _KINDS.get(texts.get("kind", ""), LineKind("Adjustment", "adjustment"))


def _types(lines: Texts) -> Callable[[str], NDArray[np.bool_]]:
    """Which lines are of a type."""
    numbers, names = _numbered(lines.texts(_TYPE))

    def are(kind: str) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = numbers == (names.index(kind) if kind in names else len(names))
        return same

    return are


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
