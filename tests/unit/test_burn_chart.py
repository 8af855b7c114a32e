"""Charts as SVG, the burn over time behind them, and the usual hour."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from curb.detector.forecast.spend_history import HourlySpend
from curb.serve.pages.burn_chart import BurnChart, draw, numbered
from curb.stream.time import HOUR_S
from curb.views.burn import BurnOverTime, usual_hours
from curb.views.explanation import Mark, Point
from tests.fakes.alerts import T0

HOSTILE = '"><script>x</script>'
START = int(T0) // HOUR_S * HOUR_S


def line(count: int, rate: float = 5.0) -> list[Point]:
    return [Point(T0 + 60 * i, rate + i % 3, rate) for i in range(count)]


def test_a_chart_has_its_lines_and_marks_and_no_markup_of_others() -> None:
    marks = [Mark(T0 + 60, "starts"), Mark(T0 + 61, HOSTILE), Mark(T0 + 1200, "ends"), Mark(T0 - 9e6, "before")]
    chart = BurnChart(line(30), (0.5, 1.5), [(T0 + 60, 9.0), (T0 + 600, 9.0)], marks, [(T0 + 60, T0 + 600)])
    svg = draw(chart, HOSTILE)
    assert svg is not None
    for part in ("line actual", "line expected", "line without", 'class="band"', 'class="lease"', ">1–2<", ">3<"):
        assert part in svg
    assert "<script>" not in svg
    assert [each.mark.text for each in numbered(chart)] == ["starts", HOSTILE, "ends"]


@pytest.mark.parametrize("points", [[], line(1), [Point(T0, 1.0, 1.0), Point(T0, 2.0, 1.0)]])
def test_one_moment_is_no_chart(points: list[Point]) -> None:
    assert draw(BurnChart(points), "") is None


@pytest.mark.parametrize("rate", [0.0, math.nan, 1e-9, 1e12])
def test_any_rate_can_be_drawn(rate: float) -> None:
    svg = draw(BurnChart([Point(T0 + i, rate, math.nan) for i in range(5)]), "")
    assert svg is not None
    assert "nan" not in svg
    assert "inf" not in svg
    assert svg.count("<line") < 20


def test_many_points_are_drawn_by_their_highest() -> None:
    points = line(5000)
    points[3333] = Point(points[3333].at, 1000.0, 5.0)
    svg = draw(BurnChart(points), "")
    assert svg is not None
    assert len(svg) < 60_000
    assert "$1,000" in svg


def test_the_usual_hour_is_the_median_of_the_days_before() -> None:
    usd = np.array([float(hour % 24 + 100 * (hour // 24 == 2)) for hour in range(24 * 6)])
    usual = usual_hours(usd)
    assert np.isnan(usual[: 3 * 24]).all(), "of three days at least"
    assert usual[5 * 24 + 7] == 7.0, "one odd day changes nothing"
    assert np.isnan(usual_hours(np.full(200, np.nan))).all()


def shard(*series: tuple[str, str, list[float]]) -> Any:
    """Series of scope, key and dollars an hour that end at the same hour."""

    def hourly(i: int) -> HourlySpend:
        usd = series[i][2]
        return HourlySpend(START - HOUR_S * len(usd), np.array(usd))

    return SimpleNamespace(
        history=SimpleNamespace(held=lambda: range(len(series)), hourly=hourly),
        subject=lambda i: (series[i][0], {"api_key": series[i][1]}),
        number_of=lambda scope, tags: next(
            (i for i, (name, key, _) in enumerate(series) if (name, {"api_key": key}) == (scope, tags)), None
        ),
    )


def test_hours_come_before_the_samples_and_add_up() -> None:
    samples = [Point(START - HOUR_S / 2, 7.0, 6.0), Point(START, 8.0, 6.0)]
    recent: Any = SimpleNamespace(totals=lambda scope: samples, of=lambda scope, tags: [])
    one = shard(("key", "a", [1.0, 2.0, 3.0]), ("key", "b", [10.0, math.nan]), ("team", "a", [99.0]))
    burn = BurnOverTime(lambda: [one], recent)
    hours = burn.of_scope("key", 0.0, by_hours=True)
    assert [(each.at, each.usd_per_hour) for each in hours] == [
        (START - 2.5 * HOUR_S, 1.0),
        (START - 1.5 * HOUR_S, 12.0),
        (START - 0.5 * HOUR_S, 3.0),
    ]
    assert [each.usd_per_hour for each in burn.of_scope("key", 0.0, by_hours=False)] == [1.0, 12.0, 7.0, 8.0]
    assert [each.usd_per_hour for each in burn.of_scope("key", START - 2 * HOUR_S, by_hours=False)] == [12.0, 7.0, 8.0]
    assert [each.usd_per_hour for each in burn.of_series("key", {"api_key": "a"}, 0.0, by_hours=True)] == [
        1.0,
        2.0,
        3.0,
    ]
    assert burn.of_series("key", {"api_key": "c"}, 0.0, by_hours=True) == []
