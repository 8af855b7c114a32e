"""The NAB scorer against cases worked out by hand, and the benchmark's own output."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import nab
from benchmarks.nab_score import PROFILES, Scorer, Series, make_series, probation_points, read_corpus, sigmoid, worth

STANDARD, LOW_FP, LOW_FN = PROFILES.values()


def series(points: int, *windows: tuple[int, int], name: str = "a/x") -> Series:
    """One sample a minute; windows by first and last index."""
    stamps = [f"2026-01-01 {at // 60:02d}:{at % 60:02d}:00" for at in range(points)]
    rows = [(stamp, float(at)) for at, stamp in enumerate(stamps)]
    return make_series(name, rows, [(stamps[first], stamps[last]) for first, last in windows])


def scores(points: int, **at: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.zeros(points)
    for key, value in at.items():
        found[int(key[1:])] = value
    return found


def test_probation_is_a_seventh_of_short_files_and_750_of_long_ones() -> None:
    assert [probation_points(n) for n in (0, 10, 100, 5000, 5001, 22_695)] == [0, 1, 15, 750, 750, 750]


def test_sigmoid() -> None:
    assert sigmoid(0) == 0
    assert sigmoid(-1) == pytest.approx(0.98661, abs=1e-5)
    assert sigmoid(3) == pytest.approx(-1, abs=1e-6)
    assert sigmoid(3.01) == -1


def test_the_first_point_of_a_window_is_worth_all_and_the_last_one_little() -> None:
    value, window = worth(series(100, (50, 59)))
    assert value[50] == pytest.approx(1)
    assert value[59] == pytest.approx((2 / (1 + math.exp(-0.5)) - 1) / 0.986614, abs=1e-5)
    assert window[49:61].tolist() == [-1, *[0] * 10, -1]


def test_false_positives_cost_all_but_less_right_behind_a_window() -> None:
    value, _ = worth(series(100, (50, 59)))
    assert value[49] == -1
    # Ten points are nine steps wide.
    assert value[60] == pytest.approx(2 / (1 + math.exp(5 / 9)) - 1)
    assert value[59 + 28] == -1


def test_a_detector_that_never_fires_scores_0_and_the_earliest_hits_alone_100() -> None:
    corpus = [series(100, (50, 59), (80, 89))]
    never = Scorer(corpus, [scores(100)])
    for profile in PROFILES.values():
        assert never.at(0.5, profile).score == 0
        assert Scorer(corpus, [scores(100, p50=1, p80=1)]).best(profile).score == pytest.approx(100)


def test_a_hit_a_miss_and_a_false_positive_by_hand() -> None:
    # One window hit at its first point, one missed, one false positive before both.
    found = Scorer([series(100, (50, 59), (80, 89))], [scores(100, p30=1, p50=1)])
    assert found.at(1, STANDARD).score == pytest.approx(100 * (1 - 1 - 0.11 + 2) / 4)
    assert found.at(1, LOW_FP).score == pytest.approx(100 * (1 - 1 - 0.22 + 2) / 4)
    assert found.at(1, LOW_FN).score == pytest.approx(100 * (1 - 2 - 0.11 + 4) / 6)
    result = found.at(1, STANDARD)
    assert (result.windows, result.windows_hit, result.false_positives) == (2, 1, 1)


def test_of_a_window_only_the_earliest_detection_counts() -> None:
    corpus = [series(100, (50, 59))]
    late = Scorer(corpus, [scores(100, p55=1, p57=1)]).at(1, STANDARD)
    assert late == Scorer(corpus, [scores(100, p55=1)]).at(1, STANDARD)
    assert late.score < Scorer(corpus, [scores(100, p51=1)]).at(1, STANDARD).score


def test_detections_in_the_probation_do_not_count() -> None:
    found = Scorer([series(100, (50, 59))], [scores(100, p3=1, p14=1, p50=1)]).at(1, STANDARD)
    assert found.score == pytest.approx(100)
    assert found.false_positives == 0


def test_one_threshold_for_all_series_and_every_score_is_tried() -> None:
    corpus = [series(100, (50, 59)), series(100, (50, 59), name="b/y")]
    # At .9 one hit; at .5 both; at .4 three false positives more.
    given = [scores(100, p50=0.9, p20=0.4, p21=0.4, p22=0.4), scores(100, p50=0.5)]
    best = Scorer(corpus, given).best(STANDARD)
    assert best.score == pytest.approx(100)
    assert (best.threshold, best.false_positives) == (0.5, 0)
    assert Scorer(corpus, given).best(STANDARD, [0]).threshold == 0.9


def test_points_of_equal_score_are_detected_together() -> None:
    # The hit alone would be 100; with its twin before the window it costs a false positive.
    best = Scorer([series(100, (50, 59))], [scores(100, p20=0.7, p50=0.7)]).best(STANDARD)
    assert (best.threshold, best.false_positives) == (0.7, 1)
    assert best.score == pytest.approx(100 * (2 - 0.11) / 2)


def test_the_best_may_be_never_to_fire() -> None:
    given = np.linspace(1, 2, 1000)
    given[950:] = 0
    best = Scorer([series(1000, (950, 959))], [given]).best(STANDARD)
    assert (best.score, best.threshold) == (0, math.inf)
    assert best.as_json()["threshold"] is None


def test_series_without_windows_cost_only() -> None:
    corpus = [series(100, (50, 59)), series(100, name="b/y")]
    found = Scorer(corpus, [scores(100, p50=1), scores(100, p60=1)])
    assert found.at(1, STANDARD).score == pytest.approx(100 * (2 - 0.11) / 2)
    assert math.isnan(found.at(1, STANDARD, [1]).score)


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one finite score per point"):
        Scorer([series(100)], [np.zeros(99)])
    with pytest.raises(ValueError, match="one finite score per point"):
        Scorer([series(100)], [scores(100, p1=math.nan)])
    with pytest.raises(ValueError, match="no point in the window"):
        make_series("a/x", [("2026-01-01 00:00:00", 1.0)], [("2026-01-02 00:00:00", "2026-01-02 01:00:00")])


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two series of 1,000 minutes of noise; one with a labelled spike."""
    rng = np.random.default_rng(3)
    values = {"a/flat": rng.normal(10, 1, 1000), "b/spike": rng.normal(10, 1, 1000)}
    values["b/spike"][600] = 100
    stamp = [f"2026-01-01 {at // 60:02d}:{at % 60:02d}:00" for at in range(1000)]
    with gzip.open(tmp_path / "nab.csv.gz", "wt", encoding="utf-8") as file:
        file.write("series,timestamp,value\n")
        for name, points in values.items():
            file.writelines(f"{name},{stamp[at]},{value}\n" for at, value in enumerate(points))
    windows = {"a/flat": [], "b/spike": [[f"{stamp[600]}.000000", f"{stamp[650]}.000000"]]}
    (tmp_path / "nab_windows.json").write_text(json.dumps(windows), encoding="utf-8")
    return tmp_path


def test_the_command_scores_every_point_and_prints_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data / "out.csv"
    assert nab.main(["--data", str(data), "--scores", str(out), "--json", "--cross-validate"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["score"] == pytest.approx(100)
    assert found["detectors"][nab.OURS]["standard"]["windows_hit"] == 1
    assert len(found["detectors"]) == 5
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["series"] for row in rows] == ["a/flat"] * 1000 + ["b/spike"] * 1000
    # What was written scores as what was printed.
    corpus = read_corpus(data)
    written = [np.array([float(row["score"]) for row in rows if row["series"] == each.name]) for each in corpus]
    assert Scorer(corpus, written).best(STANDARD).score == found["score"]


def test_the_command_prints_tables(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nab.main(["--data", str(data), "--no-peers"]) == 0
    assert f"| {nab.OURS} | 100.0 | 100.0 | 100.0 | 1 of 1 | 0 |" in capsys.readouterr().out


def test_missing_data_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert nab.main(["--data", str(tmp_path)]) == 2
    assert "nab_windows.json" in capsys.readouterr().err


def test_every_parameter_is_moved_both_ways_and_stays_valid() -> None:
    moved = list(nab.neighbours(nab.SETTINGS))
    names = type(nab.SETTINGS).model_fields.keys() - {"one_sided", "warmup_points"}
    assert sorted(name for name, _, _ in moved) == sorted([*names, *names])
    for name, value, changed in moved:
        assert getattr(changed, name) == value != getattr(nab.SETTINGS, name)
        type(changed).model_validate(changed.model_dump())


def test_the_real_corpus_keeps_its_bar() -> None:
    root = os.environ.get("CURB_TEST_DATA")
    if not root:
        pytest.skip("CURB_TEST_DATA does not name the directory of the benchmark data")
    corpus = read_corpus(Path(root) / "nab")
    assert nab.report(corpus, nab.score_corpus(nab.SETTINGS, corpus)).total["standard"].score >= 76
