"""Tables of 80 columns, as in pipes, CI and cron: names stay readable, amounts whole, and keys are summed up."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from curb.cli import budget_table
from curb.cli.preflight.command import _table
from curb.cli.preflight.fit import BudgetFit
from curb.report import table
from curb.report.figures import BudgetRow
from tests.fakes.spend import T0

KEYS = 12


def printed(width: int, *shown: Any) -> str:
    out = io.StringIO()
    for each in shown:
        Console(file=out, width=width).print(each)
    return out.getvalue()


def key_row(number: int, **more: Any) -> dict[str, Any]:
    tags = {"api_key": f"sk-team-search-{number:02}"}
    times = {"period_start": T0, "period_end": T0 + 86_400}
    of: dict[str, Any] = {"id": f"b{number}", "name": "each-key-day", "tags": tags, "amount_usd": 1000.0, **times}
    return {**of, "spent_usd": 1234.5 - number, "forecast_usd": None, **more}


@pytest.mark.parametrize("width", [80, 200])
def test_budgets_sum_up_the_keys_beyond_the_largest_five(width: int) -> None:
    out = io.StringIO()
    rows = [key_row(number) for number in range(KEYS)]
    budget_table.show(Console(file=out, width=width), rows, float(T0), every=False)
    shown = out.getvalue()
    assert shown.count("each-key-day") == 6
    assert "$1,230.50" in shown
    assert "each-key-day: 7 more of 12, $8,585.50 spent together; see --all" in shown
    assert "too little history" in shown
    budget_table.show(Console(file=(whole := io.StringIO()), width=width), rows, float(T0), every=True)
    assert whole.getvalue().count("each-key-day") == KEYS


def test_a_report_sums_up_the_keys_beyond_the_largest_five() -> None:
    rows = [
        BudgetRow("each-key-day", {"api_key": f"k{n:02}"}, "day", 31, int(n < 7), 3100.0, 1234.5 - n, 1.2, False)
        for n in range(KEYS)
    ]
    shown = printed(80, table._budgets(type("Report", (), {"budgets": rows})()))  # type: ignore[arg-type]
    assert "each-key-day" in shown
    assert "each-key-day: 7 more" in shown
    assert "$3,100.00" in shown
    assert "$8,585.50" in shown
    assert "k05" not in shown


@pytest.mark.parametrize("width", [80, 140])
def test_preflight_breaks_no_amount(width: int) -> None:
    times = T0 - 86_400.0, T0 + 86_400.0
    fit = BudgetFit("search-week", "week", {"team": "search"}, True, *times, 12_100.0, 1138.0, 1250.0, 1180.0)
    shown = printed(width, _table([fit], wide=width >= 130))
    for amount in ("$12,100.00", "$1,138.00", "$2,318.00", "$2,430.00", "search-week", "2025-06-17", "fits"):
        assert amount in shown
