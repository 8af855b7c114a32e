"""How far a bill is known does not hang on a file's time alone: copies and archives bear wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curb.connectors.bills import focus_file
from curb.connectors.connector import Noted
from curb.stream.time import iso
from tests.fakes import focus_file as focus
from tests.fakes.bills import JUNE, NOW, Told, write

DAY = 86_400.0
#: Until the source's own lag is learned.
LAG_S = 2 * DAY


def days(count: int, **changes: Any) -> list[dict[str, Any]]:
    """A day's charge for each day of June so far."""
    return [
        focus.line(JUNE + n * DAY, 100.0, ChargePeriodEnd=iso(JUNE + (n + 1) * DAY), **changes) for n in range(count)
    ]


async def known(told: Told) -> tuple[float | None, tuple[str, ...]]:
    """How far the bill is complete, and what it notes about that."""
    cursor, batch = None, await told.bill.read(None)
    while batch.more:
        cursor, batch = batch.cursor, await told.bill.read(batch.cursor or cursor)
    assert isinstance(told.bill, Noted)
    notes = told.bill.notes()
    told.cursor = batch.cursor
    await told.bill.close()
    return batch.complete_until, notes


def bill(tmp_path: Path) -> Told:
    config = focus_file.Config.model_validate({"kind": "focus_file", "name": "bill", "url": str(tmp_path / "x.csv")})
    return Told(tmp_path / "state", config)


@pytest.mark.parametrize("dated", [0.0, 315_532_800.0, JUNE + 2 * DAY], ids=["1970", "1980", "in the middle"])
async def test_a_file_dated_before_its_charges_is_known_to_the_end_of_them(tmp_path: Path, dated: float) -> None:
    write(tmp_path / "x.csv", focus.csv_text(days(10)), dated)
    told = bill(tmp_path)
    until, notes = await known(told)
    assert until == JUNE + 10 * DAY - LAG_S
    assert notes[0].startswith("complete up to 2025-06-09 00:00 UTC")
    assert "x.csv is dated" in notes[1]
    assert "before usage that it holds" in notes[1]
    (_, read) = await told.bill.check()
    assert read.ok
    assert "before usage that it holds" in read.detail

    # It is forgotten with a delivery whose time is right.
    write(tmp_path / "x.csv", focus.csv_text(days(12)), NOW - 3600)
    until, notes = await known(told)
    assert until == NOW - 3600 - LAG_S
    assert len(notes) == 1
    assert "dated" not in (await told.bill.check())[1].detail


async def test_what_is_paid_ahead_or_not_over_says_nothing_about_the_time_of_a_file(tmp_path: Path) -> None:
    next_month = JUNE + 30 * DAY
    ahead = focus.line(next_month, 1200.0, ChargePeriodEnd=iso(next_month + 31 * DAY), ChargeFrequency="Recurring")
    bought = focus.line(JUNE + 15 * DAY, 900.0, ChargeCategory="Purchase")
    stray = focus.line(NOW + 300 * DAY, 1.0)
    today = focus.line(JUNE + 9 * DAY, 3.0, ChargePeriodEnd=iso(JUNE + 10 * DAY))
    at = JUNE + 9 * DAY + 6 * 3600
    write(tmp_path / "x.csv", focus.csv_text([*days(9), ahead, bought, stray, today]), at)
    told = bill(tmp_path)
    until, notes = await known(told)
    assert until == at - LAG_S
    assert len(notes) == 1
    assert "dated" not in (await told.bill.check())[1].detail
