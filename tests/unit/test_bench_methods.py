"""The methods beside Curb, the bars, and the command's options of the detection benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detection import peers
from benchmarks.detection.ablation import ABLATIONS, checked
from benchmarks.detection.bars import verdict
from benchmarks.detection.chart import Point, incident, overview, spend_of
from benchmarks.detection.measure import patched
from benchmarks.detection.run import numbers, overrides
from curb.detector.settings import DetectorSettings
from curb.evaluate.score import Label
from curb.stream.records.spend import GpuRecord, SpendRecord, UsageRecord

DAY, HOUR = 86400, 3600
START = 1742774400.0
RUNAWAY = START + 6 * DAY + 3 * HOUR


def usage(key: str, at: float, usd: float) -> SpendRecord:
    return UsageRecord(
        id=f"{key}{at}", charge_period_start=at, received_at=at + HOUR, effective_cost=usd, tags={"api_key": key}
    )


def gpu(node: str, at: float) -> SpendRecord:
    tags = {"group": node[0], "node": node}
    return GpuRecord(id=f"{node}{at}", charge_period_start=at, received_at=at, effective_cost=1.0, tags=tags)


@pytest.fixture
def events() -> list[SpendRecord]:
    """Eight days of one calm key at $1 an hour and one that burns $50 an hour for ten hours on the seventh."""
    found = []
    for quarter in range(8 * 96):
        at = START + quarter * 900
        burns = RUNAWAY <= at < RUNAWAY + 10 * HOUR
        found += [usage("calm", at, 0.25), usage("burns", at, 12.5 if burns else 0.25)]
    return found


@pytest.mark.parametrize("detect", [peers.over_yesterday, peers.over_percentile, peers.fixed, peers.litellm])
def test_rules_tell_of_the_runaway_once(events: list[SpendRecord], detect: object) -> None:
    told = detect(events, 900)  # type: ignore[operator]
    assert [tags for _, tags in told] == [{"api_key": "burns"}]
    assert RUNAWAY < told[0][0] <= RUNAWAY + 3 * HOUR


def test_rules_by_the_day_tell_later(events: list[SpendRecord]) -> None:
    [(at, tags)] = peers.optscale(events, 900)
    assert (at, tags) == (START + 6 * DAY + 6 * HOUR, {"api_key": "burns"})
    [(at, tags)] = peers.next_day(events, 900)
    assert (at, tags) == (START + 8 * DAY, {"api_key": "burns"})


def test_seasonal_rule_knows_the_same_time_yesterday(events: list[SpendRecord]) -> None:
    again = [usage("burns-daily", START + quarter * 900, 5.0 if quarter % 96 < 1 else 0.0) for quarter in range(768)]
    assert peers.over_percentile([*events, *again], 900, seasonal=True) == peers.over_percentile(events, 900)
    assert len(peers.over_percentile([*events, *again], 900)) > 1


def test_hours_are_sums_of_four_quarters(events: list[SpendRecord]) -> None:
    found, hour = peers._hours(events)
    calm = found.subjects.index({"api_key": "calm"})
    assert hour[calm, :5].tolist() == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_groups_whose_nodes_come_and_go_are_watched_whole() -> None:
    events = [gpu(node, START + hour * HOUR) for hour in range(120) for node in ("a1", "b1")]
    events += [gpu("b2", START + 100 * HOUR)]
    found = peers.grid(events, HOUR)
    assert found.subjects == [{"node": "a1"}, {"group": "b"}]
    assert found.usd[1, [99, 100]].tolist() == [1.0, 2.0]


def test_an_alert_comes_back_only_after_its_time() -> None:
    grid = peers.Grid(START, HOUR, [{"api_key": "k"}], np.zeros((1, 120)))
    over = np.zeros((1, 120), np.bool_)
    over[0, [10, 80, 82, 90]] = True
    told = [int((at - START) // HOUR) - 1 for at, _ in peers.alerts(grid, over, reopen_h=6)]
    assert told == [80, 90], "not in the warm-up, not again within six hours"


@pytest.mark.parametrize(
    ("figure", "value", "expected"),
    [
        ("recall", 0.98, "target"),
        ("recall", 0.96, "gate"),
        ("recall", 0.94, "MISSED"),
        ("noise/day", 0.3, "gate"),
        ("CPU s", 9, ""),
    ],
)
def test_verdicts(figure: str, value: float, expected: str) -> None:
    assert verdict("base", figure, value) == expected


def test_settings_are_changed_by_path() -> None:
    changed = patched(DetectorSettings(), overrides(["detector.grace_s=60", "alerts.freeze_s=0"]))
    assert (changed.grace_s, changed.alerts.freeze_s) == (60, 0)
    with pytest.raises(KeyError, match=r"no setting alerts\.nothing"):
        patched(DetectorSettings(), {"alerts.nothing": 1})


def test_ablations_change_something() -> None:
    assert checked(ABLATIONS)
    with pytest.raises(ValueError, match="changes nothing"):
        checked({"idle": {"grace_s": DetectorSettings().grace_s}})


def test_seeds_are_numbers_and_ranges() -> None:
    assert numbers("1,3-5") == [1, 3, 4, 5]


def test_pictures_are_drawn(events: list[SpendRecord]) -> None:
    truth = RUNAWAY + np.arange(40) * 900.0
    end = RUNAWAY + 10 * HOUR
    tags = {"api_key": "burns"}
    label = Label("loop-1", "loop", "incident", tags, RUNAWAY, end, 490.0, ((RUNAWAY, end),), truth, np.full(40, 12.25))
    alert = {
        "fired_at": "2025-03-30T03:15:00Z",
        "tier": "page",
        "explanation": "burns $50/h",
        "expected_usd_per_hour": 1,
    }
    figure = incident(events, label, alert, 900)
    texts = [text.get_text() for text in figure.texts]
    assert texts == [r"loop on burns, \$490", r"burns \$50/h"]
    assert "page, 15 min after" in [line.get_label() for line in figure.axes[0].lines]
    assert spend_of(events, tags, RUNAWAY, end, 900).usd_per_hour.tolist() == [50.0] * 40
    assert "Curb told nobody." in [text.get_text() for text in incident(events, label, None, 900).texts]


def test_the_chart_names_every_method() -> None:
    points = [Point("Curb", "Curb", 1.0, 0.1, 0.01), Point("fixed", "naive", 0.6, 9.0, 0.4)]
    texts = [text.get_text() for text in overview(points, "all").axes[0].texts]
    assert texts == ["fixed (40% lost)", "Curb (1% lost)"]
