"""Savings plans and reservations cost what was paid for them, whichever columns a report has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curb.connectors.bills import aws_cur
from tests.fakes import aws_cur as cur
from tests.fakes.bills import JUNE, Told

SHARE = "savings_plan_savings_plan_effective_cost"
USED, TOTAL = "savings_plan_used_commitment", "savings_plan_total_commitment_to_date"
RI_SHARE, RI_UNUSED = "reservation_effective_cost", "reservation_unused_recurring_fee"
COLUMNS = (SHARE, USED, TOTAL, RI_SHARE, RI_UNUSED)


def line(kind: str, usd: float, **columns: float) -> dict[str, Any]:
    return cur.line(JUNE, usd, line_item_line_item_type=kind, **(dict.fromkeys(COLUMNS) | columns))


#: A plan of $10, of which usage of $12 by list took $9; a reservation of $5, of which usage took $4; $1 on demand.
LINES = [
    line("Usage", 1.0),
    line("SavingsPlanCoveredUsage", 12.0, **{SHARE: 9.0}),
    line("SavingsPlanNegation", -12.0),
    line("SavingsPlanRecurringFee", 10.0, **{USED: 9.0, TOTAL: 10.0}),
    line("DiscountedUsage", 0.0, **{RI_SHARE: 4.0}),
    line("RIFee", 5.0, **{RI_UNUSED: 1.0}),
]


@pytest.mark.parametrize("form", ["parquet", "csv.gz"])
@pytest.mark.parametrize(
    "gone",
    [(), COLUMNS, (USED, TOTAL), (SHARE,), (TOTAL,), (RI_UNUSED,), (RI_SHARE,), (USED, TOTAL, RI_UNUSED)],
    ids=lambda gone: "-".join(gone) or "all",
)
async def test_the_bill_is_what_was_paid(tmp_path: Path, gone: tuple[str, ...], form: str) -> None:
    lines = [{name: value for name, value in each.items() if name not in gone} for each in LINES]
    cur.Export(tmp_path / "cur", form=form).deliver(lines)
    config = aws_cur.Config.model_validate({"kind": "aws_cur", "name": "aws", "url": str(tmp_path / "cur")})
    records = await Told(tmp_path / "state", config).read()
    assert sum(record.effective_cost for record in records) == pytest.approx(16.0)
    assert sum(record.billed_cost for record in records) == pytest.approx(16.0)
    if SHARE not in gone:
        used = sum(record.effective_cost for record in records if record.commitment_discount_status == "Used")
        assert used == pytest.approx(9.0 + (0.0 if RI_SHARE in gone else 4.0))
