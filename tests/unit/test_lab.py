"""The notebook module: recordings read and written, alerts held against known incidents, the pick and its patch."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from curb.config.file import load_text
from curb.demo.incident import AgentLoop
from curb.demo.recording import default_loops, demo_recording
from curb.demo.trace import Trace, default_directory
from curb.detector.heads.past import ScoreSettings
from curb.detector.settings import DetectorSettings
from curb.evaluate import lab
from curb.evaluate.backtest import AlertLife
from tests.fakes.alerts import T0, an_alert

pytestmark = pytest.mark.long

HOUR, DAY = 3600.0, 86400.0
SCORE = ScoreSettings()
#: Two days count, after three of warm-up.
COUNTS_FROM = T0 + 3 * DAY
INCIDENT = lab.KnownIncident({"team": "search", "api_key": "k1"}, COUNTS_FROM + HOUR, COUNTS_FROM + 2 * HOUR, 40.0)
OTHER = lab.KnownIncident({"team": "sales", "api_key": "k2"}, COUNTS_FROM + DAY, COUNTS_FROM + DAY + HOUR, 60.0)
RECORDING = lab.Recording(Path("unread"), [INCIDENT, OTHER], T0, T0 + 5 * DAY)

_TAGS = {"team": "search", "project": "rank", "api_key": "k1"}


def life(
    minutes: float, *, tags: dict[str, str] = _TAGS, tier: str = "notice", paged: float | None = None
) -> AlertLife:
    """An alert that opened, and perhaps paged, so many minutes after the start of INCIDENT."""
    alert = an_alert(alert_id=f"a{minutes}-{tags}", fired_at=INCIDENT.start + 60 * minutes, tags=tags, tier=tier)
    noticed_at = None if tier == "digest" else alert.fired_at
    return AlertLife(alert, alert, tier, noticed_at, None if paged is None else INCIDENT.start + 60 * paged)


def judged(*alerts: AlertLife) -> lab.Trial:
    return lab.judge(RECORDING, SCORE, alerts)


# --- judge --------------------------------------------------------------------------------------------------------


def test_an_alert_in_time_finds_its_incident() -> None:
    outcome = judged(life(15))
    assert (outcome.recall, outcome.noise_per_day, outcome.median_minutes, outcome.alerts) == (0.5, 0.0, 15.0, 1)
    # A quarter of $40 before the alert, and all $60 of the one nobody saw.
    assert outcome.usd_lost_share == pytest.approx((10 + 60) / 100)


def test_the_first_of_several_alerts_counts_and_none_is_noise() -> None:
    outcome = judged(life(30), life(6))
    assert (outcome.median_minutes, outcome.noise_per_day) == (6.0, 0.0)
    assert outcome.usd_lost_share == pytest.approx((4 + 60) / 100)


def test_all_found_at_once_loses_nothing() -> None:
    both = judged(life(0), life((OTHER.start - INCIDENT.start) / 60, tags={"team": "sales"}))
    assert (both.recall, both.usd_lost_share, both.noise_per_day, both.median_minutes) == (1.0, 0.0, 0.0, 0.0)


def test_just_after_the_incident_it_is_found_and_all_is_lost() -> None:
    outcome = judged(life(119))
    assert (outcome.recall, outcome.noise_per_day) == (0.5, 0.0)
    assert outcome.usd_lost_share == 1.0


@pytest.mark.parametrize("minutes", [121.0, -1.0])
def test_too_late_or_before_it_is_noise(minutes: float) -> None:
    outcome = judged(life(minutes))
    assert (outcome.recall, outcome.usd_lost_share, outcome.median_minutes) == (0.0, 1.0, None)
    assert outcome.noise_per_day == 0.5


def test_open_before_and_risen_to_a_page_during_the_incident_finds_it() -> None:
    outcome = judged(life(-10, tier="page", paged=12))
    assert (outcome.recall, outcome.noise_per_day, outcome.median_minutes) == (0.5, 0.0, 12.0)


@pytest.mark.parametrize("tags", [{"team": "search", "api_key": "k9"}, {"team": "sales"}, {"node": "n1"}, {}], ids=str)
def test_tags_that_contradict_or_share_nothing_are_noise(tags: dict[str, str]) -> None:
    outcome = judged(life(15, tags=tags))
    assert (outcome.recall, outcome.noise_per_day) == (0.0, 0.5)


def test_an_alert_of_the_whole_team_belongs() -> None:
    assert judged(life(15, tags={"team": "search"})).recall == 0.5


def test_the_digest_and_the_warmup_count_neither_way() -> None:
    in_warmup = -(INCIDENT.start - T0) / 60 + 1
    assert judged(life(15, tier="digest"), life(in_warmup)).alerts == 0
    early = lab.KnownIncident({"team": "search"}, T0, T0 + HOUR, 1000.0)
    recording = RECORDING._replace(incidents=[early, INCIDENT])
    outcome = lab.judge(recording, SCORE, [life(0)])
    assert (outcome.recall, outcome.usd_lost_share) == (1.0, 0.0)


# --- best and its patch -------------------------------------------------------------------------------------------


def an_outcome(threshold: float, lost: float, noise: float, **score: Any) -> lab.Trial:
    settings = ScoreSettings(notice_threshold=threshold, **score)
    return lab.Trial(settings, 1.0, lost, noise, 5.0, 1)


def test_best_loses_least_within_the_accepted_noise() -> None:
    outcomes = [an_outcome(0, 0.1, 3.0), an_outcome(2, 0.2, 0.9), an_outcome(4, 0.3, 0.1)]
    assert lab.best(outcomes, noise_per_day=1.0).threshold == 2
    assert lab.best(outcomes, noise_per_day=5.0).threshold == 0
    assert lab.best(outcomes, noise_per_day=0.0).threshold == 4, "none is quiet enough: the quietest"


def test_best_of_equals_is_the_quieter_then_the_higher() -> None:
    outcomes = [an_outcome(0, 0.2, 0.5), an_outcome(3, 0.2, 0.0), an_outcome(1, 0.2, 0.0)]
    assert lab.best(outcomes).threshold == 3


def test_the_patch_loads_and_says_only_what_is_not_shipped() -> None:
    shipped = lab.yaml_patch(an_outcome(2.0, 0.1, 0.0))
    assert shipped == "detector:\n  score:\n    notice_threshold: 2.0\n"
    outcome = an_outcome(-1.5, 0.1, 0.0, floors_usd=(0.2, 0.6, 1.2, 2.4, 5.0), hold_minutes=5)
    patch = lab.yaml_patch(outcome)
    assert load_text(patch).detector.score == outcome.score
    assert len(patch.splitlines()) == 5


# --- recordings ---------------------------------------------------------------------------------------------------


def write(directory: Path, *, incident: dict[str, Any], name: str = "events.jsonl.gz") -> Path:
    times = ["2026-03-24T10:15:00Z", "2026-03-24T10:05:00Z", "2026-03-28T10:15:00+00:00"]
    events = [{"src": "llm", "id": f"r{n}", "ts": at, "cost_usd": 0.1, "tags": {}} for n, at in enumerate(times)]
    lines = "".join(json.dumps(event) + "\n" for event in events).encode()
    (directory / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    (directory / "incidents.jsonl").write_text(json.dumps(incident) + "\n\n", encoding="utf-8")
    return directory


AN_INCIDENT = {
    "tags": {"api_key": "k-17"},
    "start": "2026-03-27T10:00:00Z",
    "end": "2026-03-27T12:00:00+01:00",
    "usd": 4,
}


@pytest.mark.parametrize("name", ["events.jsonl.gz", "events.jsonl"])
def test_load_reads_the_span_and_the_incidents(tmp_path: Path, name: str) -> None:
    recording = lab.load(write(tmp_path, incident=AN_INCIDENT, name=name), warmup_days=2)
    assert (recording.start, recording.end) == (1774346700.0, 1774346700.0 + 4 * DAY + 600)
    assert recording.counts_from == recording.start + 2 * DAY
    assert recording.incidents == [lab.KnownIncident({"api_key": "k-17"}, 1774605600.0, 1774609200.0, 4.0)]


@pytest.mark.parametrize(
    "wrong", [{"end": "2026-03-27T10:00:00Z"}, {"tags": {}}, {"start": "yesterday"}, {"usd": None}], ids=str
)
def test_load_refuses_incidents_that_cannot_be(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"incident|Invalid|Expected"):
        lab.load(write(tmp_path, incident=AN_INCIDENT | wrong))


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"incidents\.jsonl"):
        lab.load(tmp_path)
    (tmp_path / "incidents.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"events\.jsonl"):
        lab.load(tmp_path)
    (tmp_path / "events.jsonl").touch()
    with pytest.raises(ValueError, match="holds no event"):
        lab.load(tmp_path)


def test_the_demo_recording_holds_its_loops_and_a_sweep_finds_one(tmp_path: Path) -> None:
    trace = Trace.load(default_directory())
    first = default_loops(trace)[0]
    loop = AgentLoop(first.key, first.start, first.end, first.factor)
    recording = demo_recording(default_directory(), tmp_path / "recording", [loop], step_s=600)
    assert recording == lab.load(tmp_path / "recording")
    (incident,) = recording.incidents
    assert incident.tags == trace.key(loop.key).tags
    assert incident.usd == pytest.approx(40, rel=0.02), "$60 an hour for 40 minutes"
    (outcome,) = lab.sweep(recording, [3], DetectorSettings())
    assert (outcome.threshold, outcome.recall, outcome.alerts) == (3.0, 1.0, 1)


def test_the_default_loops_are_eight_of_several_sizes() -> None:
    trace = Trace.load(default_directory())
    loops = default_loops(trace)
    assert len({loop.key for loop in loops}) == 8
    assert all(trace.start + 3 * DAY <= loop.start < loop.end <= trace.end for loop in loops)
    hourly = [
        (loop.factor - 1) * trace.usual_usd_per_hour(trace.key(loop.key), loop.start - HOUR, loop.start)
        for loop in loops
    ]
    assert hourly == pytest.approx([60, 40, 30, 20, 12, 8, 5, 3])


# --- showing ------------------------------------------------------------------------------------------------------


def test_the_table_has_a_row_per_outcome() -> None:
    none_found = an_outcome(8, 1.0, 0.0)._replace(recall=0.0, median_minutes=None)
    rows = lab.table([an_outcome(0.5, 0.123, 1.26), none_found]).splitlines()
    assert rows[2:] == ["| 0.5 | 100% | 12.3% | 1.3 | 5.0 |", "| 8 | 0% | 100.0% | 0.0 | – |"]


def test_the_chart_has_a_line_per_sweep_and_one_label_per_place(tmp_path: Path) -> None:
    sweeps = {
        "shipped": [an_outcome(2, 0.5, 0.0), an_outcome(4, 0.5, 0.0)],
        "lower": [an_outcome(2, 0.1, 2.0), an_outcome(4, 0.3, 0.0)],
    }
    figure = lab.chart(sweeps)
    left, right = figure.axes
    lines = {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in right.get_lines()}
    assert lines == {"shipped": [(0.0, 0.5), (0.0, 0.5)], "lower": [(2.0, 0.1), (0.0, 0.3)]}
    assert sorted(text.get_text() for text in right.texts) == ["2", "2 to 4", "4"]
    assert [line.get_ydata().tolist() for line in left.get_lines()] == [[1.0, 1.0], [1.0, 1.0]]
    figure.savefig(tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
