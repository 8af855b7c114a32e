"""The formats of `curb report` add up to the log's total to the cent, and no tag is markup, a formula or a colour."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from rich.console import Console

from curb.detector.settings import DetectorSettings
from curb.report import page, sheets, table, wording
from curb.report.figures import DayRow, Quotient
from tests.fakes.report_log import BILLED_USD, ESTIMATED_USD, HOSTILE, a_report

TOTALS = {"estimated": ESTIMATED_USD, "billed": BILLED_USD, "both": ESTIMATED_USD + BILLED_USD}
CENT = Decimal("0.01")


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def to_cents(values: Any) -> Decimal:
    return sum(map(Decimal, values), Decimal(0)).quantize(CENT)


@pytest.mark.parametrize("money", TOTALS)
async def test_every_format_adds_up_to_the_cent(money: Any) -> None:
    report, charges = await a_report(by=("team", "model"), money=money)
    total = Decimal(f"{TOTALS[money]:.2f}")
    assert to_cents(row["spend_usd"] for row in rows_of(sheets.group_csv(report))) == total
    focus = rows_of(sheets.focus_csv(report, charges))
    assert to_cents(row["EffectiveCost"] for row in focus) == total
    data = msgspec.json.decode(msgspec.json.encode(report))
    assert to_cents(repr(row["spend_usd"]) for row in data["groups"]) == total
    shown = io.StringIO()
    table.show(Console(file=shown, width=200), report, 3)
    first = shown.getvalue().split("Anomalies")[0]
    found = [re.search(r"│ +(-?\$[\d,]+\.\d\d) │", line) for line in first.splitlines()]
    amounts = [Decimal(each[1].replace("$", "").replace(",", "")) for each in found if each]
    assert sum(amounts[:-1]) == amounts[-1] == total
    cells = Cells()
    cells.feed(page.page(report))
    dollars = [Decimal(row[2].replace("$", "").replace(",", "")) for row in cells.rows if len(row) > 7]
    assert sum(dollars) == total


def test_cents_that_add_up_are_within_a_cent() -> None:
    amounts = [0.335, 0.335, 0.33, -5.005, 1e9 + 0.004]
    found = wording.cents(amounts, sum(amounts))
    assert sum(found) == round(sum(amounts) * 100)
    assert all(abs(cent - amount * 100) <= 1 for cent, amount in zip(found, amounts, strict=True))
    assert wording.cents([], 0.0) == []
    assert [wording.dollars(each) for each in (-123456, 5, 0)] == ["-$1,234.56", "$0.05", "$0.00"]


@pytest.mark.parametrize(
    ("number", "text"), [(1e-7, "0.0000001"), (1.5e16, "15000000000000000"), (-0.0, "0"), (2.5, "2.5")]
)
def test_numbers_for_programs_have_no_exponent(number: float, text: str) -> None:
    assert wording.amount(number) == text


@pytest.mark.parametrize(
    ("part", "before", "text"),
    [(0.123, 1.0, "+12 %"), (-1.0, 1.0, "-100 %"), (19.0, 1.0, "×20"), (None, 0.0, "new"), (None, None, "")],
)
def test_changes_for_people(part: float | None, before: float | None, text: str) -> None:
    assert wording.change(part, before=before) == text


def test_unit_costs_for_people() -> None:
    assert wording.each(Quotient(5, 0.0123, 0.5)) == "$0.012 +50 %"
    assert wording.each(Quotient(5, 1234.5)) == "$1,234.50"
    assert wording.each(Quotient(0, None)) == ""


# --- hostile tags -------------------------------------------------------------------------------------------------


async def test_no_cell_is_a_formula() -> None:
    report, charges = await a_report(by=("team", "model"), money="both")
    for text in (sheets.group_csv(report), sheets.focus_csv(report, charges)):
        for row in csv.reader(io.StringIO(text, newline="")):
            for cell in row:
                assert not re.match(r"\s*[=+@]|\s*-(?!\d+(\.\d+)?$)", cell), cell
    assert sheets.safe("-1") == "'-1"
    assert sheets.safe("plain-1") == "plain-1"
    teams = {row["team"] for row in rows_of(sheets.group_csv(report))}
    assert {"<script>alert(1)</script>", 'a";b,c', "x\ny", "'@SUM(A1)"} <= teams, "as they are, but for formulas"


class Cells(HTMLParser):
    """Elements and attributes of a page, and the cells of its body rows."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self._in_body = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")
        ]
        self._in_body = (self._in_body or tag == "tbody") and tag != "tfoot"
        if tag == "tr" and self._in_body:
            self.rows.append([])
        if tag == "td" and self._in_body:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._in_body = False

    def handle_data(self, data: str) -> None:
        if self._in_body and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


async def test_the_page_is_alone_and_no_tag_is_markup() -> None:
    report, _ = await a_report(by=("team", "model"))
    text = page.page(report)
    found = Cells()
    found.feed(text)
    assert not found.links, "nothing from elsewhere, no handler"
    assert not found.names & {"script", "img", "link", "iframe", "object"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "url(" not in text
    assert "\x1b" not in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 1
    assert text.count('<rect class="bar"') == 31


async def test_the_terminal_shows_no_escape_codes_of_tags() -> None:
    report, _ = await a_report()
    shown = io.StringIO()
    table.show(Console(file=shown, width=200), report, 20)
    assert "\x1b" not in shown.getvalue()
    assert "�[31mred" in shown.getvalue()
    assert "x�y" in shown.getvalue()


# --- the chart ----------------------------------------------------------------------------------------------------


def test_bars_are_in_the_picture_and_credits_below_the_line() -> None:
    days = [DayRow(f"2026-10-{day:02}", usd, usd, 0.0) for day, usd in enumerate((10.0, 0.0, -4.0, 7.5), 1)]
    found = page.chart(days)
    heights = [bar.height for bar in found.bars]
    assert heights[0] / heights[2] == pytest.approx(2.5, rel=0.01)
    assert found.bars[2].y == pytest.approx(found.bars[0].y + heights[0], abs=0.2), "from the line of no dollars"
    assert all(0 <= bar.y <= bar.y + bar.height <= found.height for bar in found.bars)
    assert {"$0", "$10"} <= {label for _, label in found.lines}
    assert page.chart([DayRow("2026-10-01", 0.0, 0.0, 0.0)]).bars[0].height == 0.0


# --- FOCUS --------------------------------------------------------------------------------------------------------


async def test_focus_rows_have_what_focus_demands() -> None:
    detector = DetectorSettings(time_zone="Europe/Berlin")
    report, charges = await a_report(money="both", detector=detector)
    rows = rows_of(sheets.focus_csv(report, charges))
    nullable = {"ChargeClass", "InvoiceId", "PricingQuantity", "PricingUnit", "RegionId", "SubAccountId", "x_Model"}
    nullable.add("x_SharedBy")
    for row in rows:
        assert list(row) == list(sheets.FOCUS_COLUMNS)
        assert all(value for name, value in row.items() if name not in nullable), row
        for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
            assert re.fullmatch(r"-?\d+\.\d+", row[name])
        moments = [row[f"{what}Period{edge}"] for what in ("Billing", "Charge") for edge in ("Start", "End")]
        first, last, start, end = (datetime.strptime(each, "%Y-%m-%dT%H:%M:%SZ") for each in moments)
        assert first <= start < end <= last
        assert row["ChargeCategory"] in ("Usage", "Tax", "Credit")
        assert (row["PricingQuantity"] == "") == (row["PricingUnit"] == "") == (row["ChargeCategory"] == "Tax")
        assert isinstance(msgspec.json.decode(row["Tags"], type=dict[str, str]), dict)
    assert (rows[0]["ChargePeriodStart"], rows[0]["BillingPeriodEnd"]) == (
        "2026-09-30T22:00:00Z",
        "2026-10-31T23:00:00Z",
    )
    gpu = next(row for row in rows if row["ServiceCategory"] == "Compute")
    assert (gpu["PricingQuantity"], gpu["PricingUnit"], gpu["EffectiveCost"]) == ("2.0", "GPU-Hours", "12.5")


async def test_a_focus_row_is_a_day_a_service_and_tags() -> None:
    report, charges = await a_report()
    rows = rows_of(sheets.focus_csv(report, charges))
    untagged = [row for row in rows if row["Tags"] == "{}"]
    assert [(row["EffectiveCost"], row["PricingQuantity"], row["x_Requests"]) for row in untagged] == [
        ("1.0", "3000.0", "3")
    ]
    assert sorted(row["x_Model"] for row in rows if row["EffectiveCost"] == "1.11") == sorted(map(sheets.safe, HOSTILE))
