"""`curb tune`: incidents of known size in random keys, settings measured within the time, and the choice among them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from curb.config.file import load_text
from curb.detector.settings import DetectorSettings
from curb.evaluate import tune
from curb.evaluate.backtest import AlertLife, Backtest
from curb.evaluate.inject import Keys, inject, merged
from curb.stream.records.spend import UsageRecord
from curb.stream.time import DAY_S, HOUR_S, iso
from tests.fakes.alerts import an_alert

T0 = 1_750_032_000.0
SETTINGS = DetectorSettings()
NOW = tune.TunePoint.of(SETTINGS)


def keys_of(usd_per_hour: float = 2.0, count: int = 12, days: int = 14) -> Keys:
    """Keys of two teams that spend evenly, 100 requests an hour."""
    keys = Keys(SETTINGS.scopes)
    for hour in range(days * 24):
        for number in range(count):
            keys.add(
                UsageRecord(
                    id=f"{number}-{hour}",
                    charge_period_start=T0 + hour * HOUR_S,
                    received_at=T0 + hour * HOUR_S + 60,
                    effective_cost=usd_per_hour,
                    tags={"team": f"t{number % 2}", "project": "p", "api_key": f"k{number}", "model": "m"},
                    requests=100,
                    input_tokens=1000,
                    output_tokens=100,
                )
            )
    return keys


# --- incidents ----------------------------------------------------------------------------------------------------


def test_every_shape_is_injected_as_large_as_it_says() -> None:
    found = inject(keys_of(usd_per_hour=20.0), 1, seed=3, counts_from=T0 + 7 * DAY_S, step_s=300)
    excess = {each.shape.name: each.label.excess_usd for each in found}
    # Dollars over the usual $20 an hour: 2 × 6 h, 7 × 3 h, 19 × 1.5 h, 72 h that grow for half of them, 9 × 2 h × 0.4,
    # and a key of its own at 3 × 6 h.
    wanted = {"loop ×3": 240, "loop ×8": 420, "loop ×20": 570, "leak ×2": 1080, "retry storm": 144, "new key": 360}
    assert excess == pytest.approx(wanted, rel=0.01)
    for each in found:
        assert T0 + 7 * DAY_S < each.label.start < each.label.end <= T0 + 14 * DAY_S
        assert math.fsum(each.label.truth_usd) == pytest.approx(each.label.excess_usd)
        assert all(record.received_at == record.charge_period_start + 300 for record in each.records)
    storm = next(each for each in found if each.shape.name == "retry storm")
    assert sum(record.errors for record in storm.records) == pytest.approx(0.9 * 9 * 100 * 2, rel=0.05)
    new = next(each for each in found if each.shape.name == "new key")
    assert new.label.tags["api_key"].startswith("injected-")
    assert new.label.tags["team"] in ("t0", "t1"), "in the team of the key it was drawn from"


def test_the_seed_decides_who_and_when() -> None:
    def draw(seed: int) -> list[tuple[str, float]]:
        found = inject(keys_of(), 1, seed, T0 + 7 * DAY_S, 300)
        return [(each.label.tags["api_key"], each.label.start) for each in found]

    assert draw(1) == draw(1) != draw(2)


def test_an_incident_of_a_small_key_is_worth_finding() -> None:
    found = inject(keys_of(usd_per_hour=0.01), 3, 1, T0 + 7 * DAY_S, 300)
    assert len(found) == 11, "one a key and week, and a week less an hour counts"
    assert all(5 <= each.label.excess_usd <= 61 for each in found), [each.label.excess_usd for each in found]


def test_incidents_of_a_key_are_days_apart() -> None:
    found = inject(keys_of(count=3, days=60), 3, 1, T0 + 7 * DAY_S, 300)
    by_key: dict[str, list[tuple[float, float]]] = {}
    for each in found:
        if each.shape.name != "new key":
            by_key.setdefault(each.label.tags["api_key"], []).append((each.label.start, each.label.end))
    for spans in by_key.values():
        ordered = sorted(spans)
        assert all(after[0] - before[1] > DAY_S for before, after in pairwise(ordered))


def test_nothing_is_injected_where_there_is_no_room() -> None:
    assert inject(keys_of(days=7), 1, 1, T0 + 7 * DAY_S, 300) == []
    assert inject(Keys(SETTINGS.scopes), 1, 1, T0, 300) == []


def test_incidents_come_between_the_events_in_order_of_receipt() -> None:
    incidents = inject(keys_of(), 1, 1, T0 + 7 * DAY_S, 300)
    base = merged(incidents)[::7]
    found = list(tune.with_extra(base, merged(incidents)))
    times = [record.received_at for record in found if isinstance(record, UsageRecord)]
    assert len(found) == len(base) + len(merged(incidents))
    assert times == sorted(times)


# --- measuring ----------------------------------------------------------------------------------------------------


def a_bench(tmp_path: Path, *points: tune.TunePoint, **more: Any) -> tune.Bench:
    path = tmp_path / "events.jsonl"
    path.write_text("x" * 100, encoding="utf-8")
    incidents = inject(keys_of(), 1, 1, T0 + 7 * DAY_S, 300)
    bench = tune.Bench(path, SETTINGS, -math.inf, T0, T0 + 14 * DAY_S, T0 + 7 * DAY_S, 300, incidents, **more)
    bench.points = list(points) or [NOW]
    return bench


def life(at: float, tags: dict[str, str], tier: Any = "notice", **more: Any) -> AlertLife:
    alert = an_alert(alert_id=f"{at}-{tags}", fired_at=at, tags=tags, tier=tier, **more)
    loud = at if tier in ("notice", "page") else None
    return AlertLife(alert, alert, tier, loud, at if tier == "page" else None)


def test_a_setting_is_judged_on_both_streams(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    first, second = bench.incidents[0].label, bench.incidents[1].label
    middle = (first.start + first.end) / 2
    quiet = {"team": "t9", "api_key": "k99"}
    untouched = [
        life(T0 + 8 * DAY_S, quiet),
        life(T0 + 9 * DAY_S, quiet, "page"),
        life(T0 + 9.5 * DAY_S, quiet, "digest"),
        life(T0 + DAY_S, quiet, "page"),
        life(T0 + 9 * DAY_S, {"team": "t9"}, kind="budget"),
    ]
    injected = [life(middle, dict(first.tags)), life(second.start - 60, dict(second.tags)), *untouched]
    found = tune.judge(bench, NOW, untouched, injected)
    assert found.recall == pytest.approx(1 / len(bench.incidents)), "an alert from before the incident finds nothing"
    total = sum(each.label.excess_usd for each in bench.incidents)
    assert found.lost_usd == pytest.approx(total - first.excess_usd / 2, rel=0.02)
    assert found.lost_share == pytest.approx(found.lost_usd / total)
    assert found.tiers == {"page": 1, "notice": 1, "digest": 1}, "after the days of learning, without budgets"
    assert (found.alerts_per_day, found.pages_per_day) == (pytest.approx(2 / 7), pytest.approx(1 / 7))
    assert found.by_shape[bench.incidents[0].shape.name] == (1, 1)


def test_verdicts_of_people_count(tmp_path: Path) -> None:
    start = T0 + 8 * DAY_S
    judged = [
        tune.JudgedAlert(True, {"api_key": "k1"}, start, start + HOUR_S, 5.0),
        tune.JudgedAlert(False, {"api_key": "k2"}, start, start + HOUR_S, 5.0),
        tune.JudgedAlert(False, {"api_key": "k3"}, start, start + HOUR_S, 5.0),
        tune.JudgedAlert(True, {"api_key": "k1"}, T0, T0 + HOUR_S, 5.0),
    ]
    alerts = [life(start + 60, {"api_key": "k1"}), life(start + 60, {"api_key": "k3"})]
    found = tune.judge(a_bench(tmp_path, judged=judged), NOW, alerts, [])
    assert (found.real, found.wrong) == ((1, 1), (1, 2))


def test_what_is_not_done_in_time_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran, shown = 0.0, [], []

    def run(bench: tune.Bench, setting: tune.TunePoint, *, injected: bool, progress: Any) -> Backtest:
        nonlocal now
        ran.append((setting, injected))
        now += 10.0
        bench.at = T0 + 7 * DAY_S
        progress(0)
        return Backtest()

    monkeypatch.setattr(tune.Bench, "run", run)
    points = tune.grid(NOW)[:4]
    bench = a_bench(tmp_path, *points)
    found = list(tune.measure(bench, 45.0, shown.append, clock=lambda: now))
    assert [each.setting for each in found] == points[:2], "the third was in its first run at 50 s"
    assert ran == [(points[0], False), (points[0], True), (points[1], False), (points[1], True), (points[2], False)]
    assert shown == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_ctrl_c_ends_a_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(bench: tune.Bench, setting: tune.TunePoint, *, injected: bool, progress: Any) -> Backtest:
        if setting != NOW:
            raise KeyboardInterrupt
        return Backtest()

    monkeypatch.setattr(tune.Bench, "run", run)
    measured = tune.measure(a_bench(tmp_path, *tune.grid(NOW)), math.inf, lambda done: None)
    assert next(measured).setting == NOW
    with pytest.raises(KeyboardInterrupt):
        next(measured)


def stream(path: Path, days: float, usd: float = 1.0) -> Path:
    """Three keys, a line an hour."""
    path.mkdir(exist_ok=True)
    lines = [
        {
            "src": "llm", "id": f"{key}-{hour}", "ts": iso(T0 + hour * HOUR_S), "recv": iso(T0 + (hour + 1) * HOUR_S),
            "cost_usd": usd, "requests": 50, "input_tokens": 500, "output_tokens": 50,
            "tags": {"team": "a", "project": "p", "api_key": key},
        }
        for hour in range(int(days * 24))
        for key in ("k1", "k2", "k3")
    ]  # fmt: skip
    (path / "events.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def hasty() -> Callable[[], float]:
    """A clock on which a back-test looks slow at once, so that the probe is short."""
    seconds = iter(range(0, 100_000, 1000))
    return lambda: float(next(seconds))


def test_a_short_stream_is_taken_whole(tmp_path: Path) -> None:
    bench = tune.prepare(stream(tmp_path, 6), SETTINGS, per_shape=1, seed=1, minutes=1e6, clock=hasty())
    assert (bench.bucket_s, bench.counted_days) == (3600, pytest.approx(4, abs=0.1))
    assert bench.points == tune.grid(NOW)
    assert len(bench.incidents) > 3


def test_a_long_stream_is_cut_to_its_newest_days(tmp_path: Path) -> None:
    bench = tune.prepare(stream(tmp_path, 30), SETTINGS, per_shape=1, seed=1, minutes=90, clock=hasty())
    assert bench.end - bench.start == pytest.approx(14 * DAY_S)
    assert len(bench.points) == 1, "the time is for the current setting alone"
    assert all(each.label.start >= bench.counts_from >= bench.since for each in bench.incidents)
    old = merged(inject(keys_of(days=30), 1, 1, T0, 300))
    kept = list(bench.stream(injected=False)(iter(old)))
    assert 0 < len(kept) < len(old)


@pytest.mark.parametrize(
    ("days", "settings", "why"),
    [
        (2, {}, "has 2.0 days; tuning needs 4"),
        (6, {"scopes": [{"name": "team", "group_by": ["team"], "detect": False}]}, "no scope of principals"),
        (0, {}, "no usage"),
    ],
)
def test_streams_that_cannot_be_tuned_on(tmp_path: Path, days: float, settings: dict[str, Any], why: str) -> None:
    detector = DetectorSettings.model_validate(settings)
    with pytest.raises(tune.TooShortError, match=why):
        tune.prepare(stream(tmp_path, days), detector, per_shape=1, seed=1, minutes=10)


# --- the choice ---------------------------------------------------------------------------------------------------


def tried(setting: tune.TunePoint, recall: float, lost: float, alerts: float, **more: Any) -> tune.TriedSetting:
    tiers = {"page": 0, "notice": round(alerts * 10), "digest": 0}
    return tune.TriedSetting(setting, recall, {}, 100 * lost, lost, alerts, 0.0, tiers, **more)


LOW, HIGH = NOW.scaled(floors=0.4), NOW.scaled(floors=2.5)
CURRENT = tried(NOW, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("others", "accepted", "best"),
    [
        ([tried(LOW, 0.8, 0.2, 0.9), tried(HIGH, 0.2, 0.8, 0.1)], None, LOW),
        ([tried(LOW, 0.8, 0.2, 4.0), tried(HIGH, 0.5, 0.5, 0.5)], None, NOW),
        ([tried(LOW, 0.8, 0.2, 4.0)], 5.0, LOW),
        ([tried(LOW, 0.5, 0.495, 0.5)], None, NOW),
        ([tried(HIGH, 0.5, 0.5, 0.2)], None, HIGH),
        ([tried(LOW, 0.9, 0.1, 3.0), tried(HIGH, 0.2, 0.8, 0.2)], 0.1, HIGH),
    ],
    ids=["fewest dollars", "too loud", "loud is accepted", "hardly better", "as good and quieter", "none quiet enough"],
)
def test_the_recommended_setting(others: list[tune.TriedSetting], accepted: float | None, best: tune.TunePoint) -> None:
    assert tune.recommend([CURRENT, *others], accepted).setting == best


def test_what_a_person_called_real_must_stay() -> None:
    current = CURRENT._replace(real=(2, 2))
    loses_one = tried(HIGH, 0.9, 0.1, 0.1, real=(1, 2))
    assert tune.recommend([current, loses_one], None) is current


def test_the_frontier_leaves_out_what_is_beaten() -> None:
    beaten, finder = tried(HIGH, 0.4, 0.6, 0.5), tried(LOW, 0.9, 0.6, 0.5)
    assert tune.frontier([CURRENT, beaten, finder]) == [CURRENT, finder]


def test_the_grid_has_the_current_setting_first_and_each_once() -> None:
    points = tune.grid(NOW)
    assert points[0] == NOW
    assert len(set(points)) == len(points)
    assert tune.grid(tune.TunePoint((0, 0, 0, 0, 0), 0, 0)) == [tune.TunePoint((0, 0, 0, 0, 0), 0, 0)]


def test_the_patch_merges_and_has_only_what_changes() -> None:
    best = tried(NOW.scaled(floors=0.4, notice=3.0), 0.8, 0.2, 0.4)
    text = tune.patch(CURRENT, best, 23.0)
    found = load_text(text).detector
    assert tune.TunePoint.of(found) == best.setting
    assert "page_at_risk_usd" not in text
    assert found == best.setting.applied(SETTINGS)
    assert load_text(tune.patch(CURRENT, CURRENT, 23.0)).detector == SETTINGS
    only_pages = tune.patch(CURRENT, tried(NOW.scaled(page=3.0), 0.5, 0.5, 0.4), 23.0)
    assert "score" not in only_pages
    assert load_text(only_pages).detector.alerts.page_at_risk_usd == 30
