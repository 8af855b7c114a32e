"""`curb preflight`: what a run costs, which budgets would count it, the verdict, and what is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from curb.cli.preflight.cost import ANY, CALLS, GPU, GpuHours, calls_cost, gpu_cost
from curb.cli.preflight.fit import BudgetFit, PlannedRun, compare
from curb.config.file import CurbConfig, load_text
from curb.connectors.pricing.book import shipped_book
from curb.detector.budgets.rows import row_id
from curb.detector.settings import DetectorSettings
from tests.fakes.spend import T0

DAY, HOUR = 86_400, 3600
#: Wednesday noon, in a month that has 13.5 days left.
NOW = T0 + 2 * DAY + 12 * HOUR


def settings(*budgets: dict[str, Any]) -> DetectorSettings:
    return DetectorSettings.model_validate({"budgets": budgets})


def budget(name: str = "search", **more: Any) -> dict[str, Any]:
    return {"name": name, "scope": "team", "match": {"team": "search"}, "amount_usd": 1000.0, **more}


def row(name: str = "search", tags: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    tags = {"team": "search"} if tags is None else tags
    start, end = T0 - 15 * DAY, T0 + 15 * DAY
    counted = {
        "spent_usd": 400.0,
        "amount_usd": 1000.0,
        "forecast_usd": 700.0,
        "period_start": start,
        "period_end": end,
    }
    return {"id": row_id(name, tags), "name": name, "tags": tags, **counted, **more}


def run(usd: float, hours: float | None = None, sources: frozenset[str] = ANY, **tags: str) -> PlannedRun:
    return PlannedRun(usd, hours, tags or {"team": "search"}, sources)


def only(*runs: PlannedRun, rows: list[dict[str, Any]] | None = None, of: DetectorSettings | None = None) -> BudgetFit:
    found = compare(runs, [row()] if rows is None else rows, of or settings(budget()), NOW)
    (fit,) = found.fits
    return fit


def test_too_little_history_forecasts_nothing_and_crosses_nothing() -> None:
    new = row(spent_usd=1.66, forecast_usd=None)
    fit = only(run(900.0), rows=[new])
    assert (fit.verdict, fit.forecast_usd, fit.forecast_with_usd) == ("fits", None, None)
    assert only(run(999.0), rows=[new]).verdict == "over"
    # Of two partitions one knows a whole day: no total is claimed.
    assert only(run(1.0), rows=[new, row()]).forecast_usd is None


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usd", "verdict"),
    [(0, "fits"), (300, "fits"), (300.01, "crosses"), (600, "crosses"), (600.01, "over"), (5000, "over")],
)
def test_a_run_is_compared_with_what_is_spent_and_with_the_forecast(usd: float, verdict: str) -> None:
    fit = only(run(usd))
    assert fit.verdict == verdict
    assert (fit.left_usd, fit.with_usd, fit.forecast_with_usd) == (600.0, 400.0 + usd, 700.0 + usd)


def test_without_a_row_the_whole_amount_is_left() -> None:
    fit = only(run(1000), rows=[])
    assert (fit.verdict, fit.spent_usd, fit.left_usd) == ("fits", 0.0, 1000.0)
    assert fit.period_start <= NOW < fit.period_end


def test_a_row_of_a_period_that_is_over_says_nothing_of_this_one() -> None:
    fit = only(run(900), rows=[row(period_end=NOW - 1, spent_usd=999.0)])
    assert (fit.verdict, fit.spent_usd) == ("fits", 0.0)


def test_what_was_added_to_an_amount_counts() -> None:
    assert only(run(1500), rows=[row(amount_usd=2500.0)]).verdict == "fits"


def test_several_runs_add_up() -> None:
    assert only(run(200), run(200)).verdict == "crosses"


def test_parts_of_a_shared_budget_in_several_partitions_add_up() -> None:
    fit = only(run(1), rows=[row(), row()])
    assert (fit.spent_usd, fit.forecast_usd) == (800.0, 1400.0)


def test_a_run_over_the_end_of_the_period_is_shared_out() -> None:
    a_day = settings(budget(amount_usd=100.0, period="day"))
    # 12 hours are left of today: half of a run of 24 hours falls into tomorrow.
    fit = only(run(150, hours=24), rows=[], of=a_day)
    assert (fit.run_usd, fit.later_usd, fit.verdict) == (75.0, 75.0, "fits")
    # Of 72 hours 24 fall into one later day.
    fit = only(run(360, hours=72), rows=[], of=a_day)
    assert (fit.run_usd, fit.later_usd, fit.verdict) == (60.0, 120.0, "over")


# --- which budgets ----------------------------------------------------------------------------------------------------


def test_every_budget_that_would_count_it_is_compared() -> None:
    found = compare(
        [run(10, team="search", project="answers", api_key="k1")],
        [],
        settings(
            budget(),
            budget("other", match={"team": "ads"}),
            budget("all", match={}, shared=True),
            budget("each-key", scope="key", match={}),
        ),
        NOW,
    )
    assert [(fit.name, fit.tags) for fit in found.fits] == [
        ("search", {"team": "search"}),
        ("all", {}),
        ("each-key", {"team": "search", "project": "answers", "api_key": "k1"}),
    ]
    assert found.missing == {}


def test_a_missing_tag_is_named_with_the_budgets_that_need_it() -> None:
    found = compare(
        [run(10, job="train")],
        [],
        settings(budget(), budget("each-team", match={}), budget("each-key", scope="key", match={})),
        NOW,
    )
    assert found.fits == []
    assert found.missing == {"team": ["search", "each-team"], "api_key": ["each-key"]}
    assert found.verdict == "fits"


def test_a_budget_that_another_tag_rules_out_needs_nothing() -> None:
    found = compare([run(10, team="ads")], [], settings(budget(scope="key", match={"team": "search"})), NOW)
    assert (found.fits, found.missing) == ([], {})


def test_a_key_has_one_row_whatever_team_its_records_carry() -> None:
    known = row("each-key", {"team": "old", "project": "p", "api_key": "k1"})
    of = settings(budget("each-key", scope="key", match={}))
    assert only(run(1, team="new", api_key="k1"), rows=[known], of=of).spent_usd == 400.0
    assert only(run(1, team="new", api_key="k2"), rows=[known], of=of).spent_usd == 0.0
    # A job of the key has a row of its own.
    assert only(run(1, api_key="k1", job="night"), rows=[known], of=of).spent_usd == 0.0


@pytest.mark.parametrize(("sources", "names"), [(CALLS, ["key"]), (GPU, []), (ANY, ["key"])])
def test_scopes_count_what_they_are_made_of(sources: frozenset[str], names: list[str]) -> None:
    found = compare(
        [run(10, None, sources, team="search", api_key="k1")], [], settings(budget("key", scope="key", match={})), NOW
    )
    assert [fit.name for fit in found.fits] == names


# --- prices -----------------------------------------------------------------------------------------------------------

OWN = {
    "connectors": [
        {
            "kind": "dcgm",
            "name": "gpus",
            "targets": [{"url": "http://gpu:9400/metrics"}],
            "prices": [{"gpu": "H100", "usd_per_hour": 2.5}, {"instance": "dgx", "gpus": 8, "usd_per_hour": 16.0}],
        }
    ]
}


def config(data: Any = None) -> CurbConfig:
    return load_text(json.dumps(data or {}))


def test_gpu_hours_cost_what_the_configuration_says() -> None:
    cost = gpu_cost(config(OWN), GpuHours("h100", 8, 6), NOW)
    assert (cost.usd, cost.sources, cost.hours, cost.doubt) == (120.0, GPU, 6, "")
    assert cost.what == "8 × H100 for 6 h at $2.50 an hour each"
    of_instance = gpu_cost(config(OWN), GpuHours("", 4, 1, instance="dgx"), NOW)
    assert (of_instance.usd, of_instance.what) == (8.0, "4 × GPU of dgx for 1 h at $2.00 an hour each")


def test_a_gpu_without_a_price_is_never_free_and_says_so() -> None:
    cost = gpu_cost(config(), GpuHours("Q9000", 1, 1), NOW)
    assert cost.usd > 1
    assert "no price for Q9000" in cost.doubt


def test_calls_cost_what_the_price_book_says() -> None:
    cost = calls_cost(shipped_book(), "gpt-4o", 1000, 200, 10_000, NOW, "")
    assert cost.usd == pytest.approx(10_000 * (1000 * 2.5e-6 + 200 * 1e-5))
    assert (cost.sources, cost.doubt) == (CALLS, "")
    assert "no price for mystery-1" in calls_cost(shipped_book(), "mystery-1", 1000, 200, 1, NOW, "").doubt
