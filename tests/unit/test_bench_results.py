"""What `python -m benchmarks` keeps of its targets: a file that says each figure with its range, and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import peers, results
from benchmarks.results import Measured

T1 = Measured("T1", "detector ÷ decoding", [0.2, 0.6, 0.4], at_least=0.3)
T9 = Measured("T9", "cap to alert", [3.0], " s", at_most=2)
T13 = Measured("T13", "counted twice", [0, 0], at_most=0)
T6 = Measured("T6", "detector ÷ polars", [0.5])


@pytest.mark.parametrize(
    ("measured", "value", "kept", "gate"),
    [(T1, 0.4, True, "≥ 0.3"), (T9, 3.0, False, "≤ 2 s"), (T13, 0, True, "≤ 0"), (T6, 0.5, None, "")],
)
def test_the_median_is_compared_with_the_gate(measured: Measured, value: float, kept: bool | None, gate: str) -> None:
    assert (measured.value, measured.kept, measured.gate) == (value, kept, gate)
    assert ("MISSED" in measured.line) == (kept is False)


def test_the_file_has_value_and_range_by_target_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert results.kept(path) == []
    results.write([T1, T9, T13, T6], path)
    targets = json.loads(path.read_text(encoding="utf-8"))["targets"]
    assert {name: targets["T1"][name] for name in ("value", "min", "max")} == {"value": 0.4, "min": 0.2, "max": 0.6}
    assert list(targets) == ["T1", "T9", "T13", "T6"]
    assert results.kept(path) == [T1, T9, T13, T6]


def test_the_file_of_the_project_has_the_targets_that_are_documented() -> None:
    assert {each.name.split()[0] for each in results.kept()} >= {
        "T1",
        "T2",
        "T5",
        "T6",
        "T7",
        "T9",
        "T10",
        "T12",
        "T13",
    }


def test_a_picture_shows_what_has_a_gate() -> None:
    pytest.importorskip("matplotlib")
    (axes,) = results.picture([T1, T9, T13, T6]).axes
    assert [label.get_text().split(":")[0] for label in axes.get_yticklabels()] == ["T13", "T9", "T1"]


def test_totals_agree_only_where_all_series_have_the_same_dollars() -> None:
    totals = {"key": {("a",): 1.0, ("b",): 2.0}}
    assert peers.agree(totals, {"key": {("b",): 2.0, ("a",): 1.0 + 1e-12}})
    assert not peers.agree(totals, {"key": {("a",): 1.0, ("b",): 2.001}})
    assert not peers.agree(totals, {"key": {("a",): 1.0}})


@pytest.mark.parametrize("name", ["polars", "duckdb"])
def test_peers_drop_duplicates_and_sum_by_scope(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    lines = [
        json.dumps({"id": number, "effective_cost": usd, "tags": {"team": team, "api_key": key}}).encode()
        for number, usd, team, key in [("1", 1.0, "t", "a"), ("1", 1.0, "t", "a"), ("2", 2.0, "t", "b")]
    ]
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines))
    peer = peers.installed({"key": ("team", "api_key"), "team": ("team",)}, path)[name]
    peer.run(lines)
    assert peer.totals() == {"key": {("t", "a"): 1.0, ("t", "b"): 2.0}, "team": {("t",): 3.0}}
