"""`curb forecast`: events into days, days into questions, rows, table and chart."""

from __future__ import annotations

import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from curb.cli.forecast import draw, run_forecast, show
from curb.config.file import CurbConfig
from curb.detector.budgets.budget import Budget, ExchangeRate
from curb.detector.forecast.days import DailySpend, number_of
from curb.detector.forecast.month_end import Today
from curb.detector.forecast.pool import PoolSettings
from curb.detector.settings import DetectorSettings
from curb.views.forecast import DaySums, SeriesDays, answer_all, questions, read_events, report, row

START = datetime(2025, 3, 1, tzinfo=UTC)
FIRST_DAY = number_of(START.date())


def events(days: int, usd: float = 1.0) -> list[dict[str, object]]:
    """One event every 6 hours for two teams; the second costs twice as much."""
    found: list[dict[str, object]] = []
    for step in range(4 * days):
        at = START.timestamp() + step * 6 * 3600
        when = datetime.fromtimestamp(at, UTC).isoformat()
        for number, team in enumerate(("search", "ads")):
            tags = {"team": team, "project": "p", "env": "prod", "model": "m", "api_key": f"k{number}", "region": "eu"}
            found.append(
                {
                    "src": "llm",
                    "id": f"{step}-{team}",
                    "ts": when,
                    "recv": when,
                    "tags": tags,
                    "requests": 10,
                    "input_tokens": 100,
                    "output_tokens": 10,
                    "errors": 0,
                    "users": 1,
                    "cost_usd": usd * (number + 1),
                }
            )
    return found


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    lines = events(20)
    lines += lines[-8:]  # duplicates
    with gzip.open(tmp_path / "events.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return tmp_path


def series(team: str, usd: float, days: int = 10) -> SeriesDays:
    return SeriesDays("team", {"team": team}, DailySpend(FIRST_DAY, np.full(days, usd)), Today(usd / 2, 0.5))


def now(day: float) -> float:
    return START.timestamp() + day * 86400


def test_events_become_days_once(stream: Path) -> None:
    sums = read_events(stream, DetectorSettings())
    by_team = {each.tags["team"]: each for each in sums.series() if each.scope == "team"}
    assert by_team.keys() == {"search", "ads"}
    assert by_team["ads"].days.usd.tolist() == [8.0] * 19
    assert by_team["ads"].today == Today(8.0, 0.75)
    assert {each.scope for each in sums.series()} >= {"key", "team", "model"}


def test_days_are_local() -> None:
    sums = DaySums("Asia/Kathmandu")  # 5:45 ahead
    begin = START.timestamp()
    sums.add("team", (), begin + 18.2 * 3600, 1.0, begin)
    sums.add("team", (), begin + 18.3 * 3600, 2.0, begin + 86400)
    (each,) = sums.series()
    assert each.days.usd.tolist() == [1.0]
    assert each.today.usd == 2.0


def test_nothing_asks_nothing() -> None:
    assert report(DaySums("UTC"), DetectorSettings(), "team", 5) == ([], "")


def test_without_a_budget_the_month_is_asked_for() -> None:
    asked = questions([series("a", 1.0), series("b", 5.0)], DetectorSettings(), now(10.5), "team")
    assert [(q.series.tags["team"], q.period_name, q.budget) for q in asked] == [
        ("b", "month", None),
        ("a", "month", None),
    ]
    assert (asked[0].period.first_day, asked[0].period.days) == (FIRST_DAY, 31)


def test_at_midnight_the_month_before_is_known() -> None:
    (asked,) = questions([series("a", 1.0, 30)], DetectorSettings(), now(31), "team")
    assert asked.period.first_day == FIRST_DAY


def test_budgets_bring_their_period_and_amount() -> None:
    settings = DetectorSettings(
        budgets=(
            Budget(name="weekly", scope="team", match={"team": "a*"}, amount=10, currency="EUR", period="week"),
            Budget(name="all", scope="team", amount_usd=100, shared=True),
        ),
        exchange_rates=(ExchangeRate(currency="EUR", usd=1.2),),
    )
    asked = {q.budget: q for q in questions([series("a1", 1.0), series("b", 5.0)], settings, now(10.5), "team")}
    assert asked.keys() == {"weekly", "all", None}
    assert asked["weekly"].period.days == 7
    assert asked["weekly"].budget_usd == pytest.approx(12.0)
    assert asked["all"].series.days.usd.tolist() == [6.0] * 10
    found = row(asked["all"], asked["all"].answer(thorough=False))
    assert found["spent_usd"] == pytest.approx(63.0)
    assert found["forecast_usd"] == pytest.approx(186.0, rel=0.01)
    assert found["breach_date"] == "2025-03-17"
    assert found["breach_probability"] > 0.9


def test_a_quarter_of_an_hour_is_too_little_history(tmp_path: Path) -> None:
    settings = DetectorSettings(budgets=(Budget(name="day", scope="team", amount_usd=100.0, period="day"),))
    sums = DaySums("UTC")
    sums.add("team", (("team", "search"),), now(1.5), 1.66, now(1.5) + 900)
    asked, _ = report(sums, settings, "team", 10)
    (found,) = answer_all(asked, PoolSettings(), quick=True)
    unknown = ("forecast_usd", "low_usd", "high_usd", "breach_probability", "breach_date")
    assert [found[name] for name in unknown] == [None] * 5
    assert (found["spent_usd"], found["method"]) == (1.66, "too_little_history")
    console = Console(file=io.StringIO(), width=200)
    show(console, [found], "now")
    assert "too little history" in console.file.getvalue()  # type: ignore[attr-defined]
    assert draw([found]).startswith(b"\x89PNG")
    # The rest of the first day is not a whole day either; the next one is.
    sums.add("team", (("team", "search"),), now(2.1), 1.0, now(2.1))
    assert answer_all(report(sums, settings, "team", 10)[0], PoolSettings(), quick=True)[0]["forecast_usd"] is None
    sums.add("team", (("team", "search"),), now(3.1), 1.0, now(3.1))
    assert answer_all(report(sums, settings, "team", 10)[0], PoolSettings(), quick=True)[0]["forecast_usd"] is not None


def test_the_table_holds_what_people_need() -> None:
    settings = DetectorSettings(budgets=(Budget(name="cap", scope="team", match={"team": "b"}, amount_usd=100),))
    asked = questions([series("[red]a", 1.0), series("b", 5.0)], settings, now(10.5), "team")
    rows = answer_all(asked, PoolSettings(), quick=True)
    out = io.StringIO()
    rows[0] |= {"missing": ["prophet"], "imputed_usd": 14.21}
    show(Console(file=out, width=200), rows, "now")
    text = out.getvalue()
    for part in (
        "team=b",
        "team=[red]a",
        "$52.50",
        "$14.21",
        "$155",
        "$100.00 cap",
        "2025-03-21",
        "last_7_days",
        "not installed: prophet",
    ):
        assert part in text


def test_the_command_reads_files_and_draws(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart, out = stream / "chart.png", io.StringIO()
    code = run_forecast(
        CurbConfig(), stream, scope="team", top=5, quick=True, chart=chart, json_lines=True, console=Console(file=out)
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert [each["tags"]["team"] for each in rows] == ["ads", "search"]
    assert rows[0]["spent_usd"] == pytest.approx(160.0)
    assert rows[0]["forecast_usd"] == pytest.approx(248.0, rel=0.02)
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_one_and_of_an_ended_period() -> None:
    (asked,) = questions([series("a$b$", 1.0, 31)], DetectorSettings(), now(31), "team")
    found = row(asked, asked.answer(thorough=False))
    assert found["coming_usd"] == []
    assert draw([found]).startswith(b"\x89PNG")


def test_no_events_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    out = io.StringIO()
    code = run_forecast(
        CurbConfig(), tmp_path, scope="team", top=5, quick=True, chart=None, json_lines=False, console=Console(file=out)
    )
    assert code == 1
    assert "no spend" in out.getvalue()
