"""Tables of the benchmark in Markdown, and how they get into pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection import markdown, markdown_others, report


def stream(seed: int, recall: float, lost_usd: float, told: dict[str, Any] | None) -> dict[str, Any]:
    figures = {figure.name: None for figure in markdown.COLUMNS} | {"recall": recall}
    kind = {"incidents": 1, "caught": int(told is not None), "lost_usd": lost_usd, "total_usd": 100.0}
    incident = {"id": "leak-1", "excess_usd": 100.0, "lost_usd": lost_usd, "told": told}
    noise = {"tier": "page", "kind": "runaway", "channel": "dollars/5min", "actual_usd": 12.0, "expected_usd": 2.0}
    return {
        "variant": "base",
        "seed": seed,
        "figures": figures,
        "kinds": {"leaked_key": kind | {"minutes": [told["minutes"]] if told else []}},
        "incidents": [incident],
        "noise": [noise],
        "flagged": ["launch-1"],
    }


def method(name: str, family: str) -> dict[str, Any]:
    figures = {"recall": 0.5, "exact_recall": 0.5, "usd_lost_share": 0.25, "noise_per_day": 2.0, "repeats": 1.0}
    counts = {"benign": 9, "benign_flagged": 3}
    return {"method": name, "family": family, "median_minutes": 30.0} | figures | counts


@pytest.fixture
def results() -> dict[str, Any]:
    late = {"minutes": 200.0, "tier": "page", "channel": "errors"}
    streams = [stream(21, 1.0, 40.0, late), stream(22, 0.8, 100.0, None)]
    return {"streams": streams, "methods": {"base": [method("Curb", "Curb"), method("hour > $20", "naive")]}}


def test_variants_have_mean_range_and_bars(results: dict[str, Any]) -> None:
    lines = markdown.detection_tables(results)["variants"].splitlines()
    assert lines[2].startswith("| **base**, 2 | mean | 0.900 **missed** |")
    assert lines[3].startswith("|  | range | 0.800–1.000 |")
    assert "≥ 0.95 · 0.98" in lines[4]


def test_kinds_are_pooled_over_streams(results: dict[str, Any]) -> None:
    assert "| leaked key | 1/2 · 70.0% · 3 h |" in markdown.detection_tables(results)["kinds"]


def test_misses_come_dearest_first_then_noise_then_look_alikes(results: dict[str, Any]) -> None:
    lines = markdown.detection_tables(results)["misses base"].splitlines()[2:]
    assert lines[0] == "| leak-1 | 22 | **missed** | $100 of $100 |"
    assert lines[1] == "| leak-1 | 21 | after 3 h (errors) | $40 of $100 |"
    assert lines[2] == "| page runaway (dollars/5min), $10 over | 21 | on nothing |  |"
    assert lines[-1] == "| launch-1 | 22 | a look-alike, reported |  |"


def test_peers_stand_beside_curb(results: dict[str, Any]) -> None:
    made = markdown.detection_tables(results)
    assert "| hour > $20 | 0.50 | 0.50 | 0.250 | 2.00 | 1.0 | 30 | 3/9 |" in made["peers base"]
    assert "| **Curb** | 0.50 · 25.0% · 2.0 |" in made["peers"]
    assert "| **Curb** | 50% | 25.0% | 2.0 | 30 min |" in made["readme"]


def test_ablation_marks_what_differs() -> None:
    usual = {figure.name: 0.5 for figure in markdown.COLUMNS}
    rows = [{"variant": "base", "without": "as shipped"} | usual, {"variant": "base", "without": "x"} | usual]
    rows[1]["recall"] = 0.25
    table = markdown.ablation(rows)["ablation base"].splitlines()
    assert table[2].startswith("| as shipped | 0.500 | 0.500 |")
    assert table[3].startswith("| x | **0.250** | 0.500 |")


def test_a_page_is_filled_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: kinds -->\nold\n<!-- end -->\nb\n<!-- table: other -->\nkept\n<!-- end -->\n")
    assert markdown.fill(page, {"kinds": "new \\1"}) == ["other"]
    text = page.read_text()
    assert "old" not in text
    assert "new \\1" in text
    assert "kept" in text
    assert markdown.fill(page, {"kinds": "new \\1"}) == ["other"]
    assert page.read_text() == text


def test_forecasts_by_day_with_the_share_that_held() -> None:
    common = {"series": "bill", "forecasts": 4}
    rows = [{"method": "Curb", "day": day, "mape": float(day), "coverage": 0.8} | common for day in (5, 10, 20)] + [
        {"method": "run rate", "day": day, "mape": 30.0, "coverage": None} | common for day in (5, 10, 20)
    ]
    lines = markdown_others.month_end(rows)["forecasts"].splitlines()
    assert lines[2] == "| bill (4) | **Curb** | 5.0 | 10.0 | 20.0 | 80, 80, 80 % |"
    assert lines[3] == "|  | run rate | 30.0 | 30.0 | 30.0 |  |"


def test_every_marker_of_the_pages_has_a_maker(results: dict[str, Any]) -> None:
    known = set(markdown.detection_tables(results)) | set(report.pictures())
    known |= {"nab", "nab categories", "nab robustness", "simulator", "simulator rates", "simulator shipped"}
    known |= {"simulator growth", "forecasts", "population"}
    known |= {f"{name} {variant}" for name in ("misses", "peers", "ablation") for variant in markdown.BARS}
    known |= {"misses hard", "misses weak"}
    pages = [report.DOCS.parent / "README.md", *report.DOCS.rglob("*.md")]
    names = {name for page in pages for _, name, _ in markdown.MARKED.findall(page.read_text(encoding="utf-8"))}
    assert {"variants", "readme", "forecasts"} <= names
    assert names <= known
