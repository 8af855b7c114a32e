"""Savings plans and reservations cost what was paid for them, whichever columns a report has."""

from __future__ import annotations

import json
from itertools import product
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


#: What a column may hold: all, nothing in any row, nothing in every other row that has it, 0 in all of them.
HELD = ("all", "none", "half", "zero")


def blanked(lines: list[dict[str, Any]], held: dict[str, str]) -> list[dict[str, Any]]:
    seen = dict.fromkeys(held, 0)
    found = []
    for each in lines:
        row = dict(each)
        for name, what in held.items():
            if row[name] is not None:
                seen[name] += 1
                if what == "none" or (what == "half" and seen[name] % 2 == 0):
                    row[name] = None
                if what == "zero" and name in (SHARE, RI_SHARE):  # of others 0 says something
                    row[name] = 0.0
        found.append(row)
    return found


@pytest.mark.parametrize("columns", [(SHARE, USED, TOTAL), (RI_SHARE, RI_UNUSED), (SHARE, USED, RI_SHARE)])
async def test_columns_that_are_there_and_say_nothing_change_no_total(tmp_path: Path, columns: tuple[str, ...]) -> None:
    """$3 on demand, plans of $30 of which $24 are used, reservations of $15 of which $12 are."""
    plan = [LINES[1] | {SHARE: share} for share in (7.0, 8.0, 9.0)]
    lines = [*plan, *LINES[4:5] * 3, *(LINES[at] for at in (0, 2, 5) for _ in range(3))]
    lines += [LINES[3] | {USED: used} for used in (7.0, 8.0, 9.0)]
    for number, held in enumerate(product(HELD, repeat=len(columns))):
        root = tmp_path / f"{number}"
        cur.Export(root / "cur", form="csv.gz").deliver(blanked(lines, dict(zip(columns, held, strict=True))))
        config = aws_cur.Config.model_validate({"kind": "aws_cur", "name": "aws", "url": str(root / "cur")})
        records = await Told(root / "state", config).read()
        assert sum(record.effective_cost for record in records) == pytest.approx(48.0), held
        assert sum(record.billed_cost for record in records) == pytest.approx(48.0), held


async def test_a_column_of_one_part_of_a_delivery_counts(tmp_path: Path) -> None:
    """The last part of a report has no commitments, and none of their columns."""
    export = cur.Export(tmp_path / "cur", form="csv.gz")
    manifest = export.deliver(LINES[1:])
    part = next((tmp_path / "cur").rglob("*.csv.gz"))
    plain = {name: value for name, value in LINES[0].items() if name not in COLUMNS}
    more = part.with_name("cur-00002.csv.gz")
    more.write_bytes(cur.csv_gz([plain], legacy=False))
    content = json.loads(manifest.read_text())
    content["dataFiles"].append(content["dataFiles"][0].replace(part.name, more.name))
    manifest.write_text(json.dumps(content))
    config = aws_cur.Config.model_validate({"kind": "aws_cur", "name": "aws", "url": str(tmp_path / "cur")})
    records = await Told(tmp_path / "state", config).read()
    assert sum(record.effective_cost for record in records) == pytest.approx(16.0)
