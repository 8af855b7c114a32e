"""How alerts are scored on labelled streams."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curb.evaluate.score import (
    Fired,
    Label,
    LabelledStream,
    epoch,
    fired,
    has_labels,
    read_labels,
    score,
    score_lines,
)
from tests.require import require

DAY, HOUR = 86400.0, 3600.0
START = epoch("2025-03-24T00:00:00Z")
KEY = {"team": "docs", "project": "docs-1", "env": "prod", "api_key": "k1"}


def label(
    kind: str = "agent_loop", at: float = 4 * DAY, hours: int = 10, tags: dict[str, str] | None = None, **fields: Any
) -> Label:
    """An incident of $10 an hour."""
    start = START + at
    found: dict[str, Any] = {
        "id": f"{kind}-1",
        "kind": kind,
        "label": "incident",
        "tags": tags or KEY,
        "start": start,
        "end": start + hours * HOUR,
        "excess_usd": 10.0 * hours,
        "windows": ((start, start + hours * HOUR),),
        "truth_at": start + np.arange(hours) * HOUR,
        "truth_usd": np.full(hours, 10.0),
    }
    return Label(**(found | fields))


def stream(*labels: Label) -> LabelledStream:
    return LabelledStream(START, START + 14 * DAY, 3600, labels)


def alert(at: float, **tags: str) -> Fired:
    return Fired(START + at, tags)


def test_dollars_are_lost_until_the_first_alert() -> None:
    scored = score(
        stream(label()), [alert(4 * DAY + 3 * HOUR + 60, api_key="k1"), alert(4 * DAY + 5 * HOUR, api_key="k1")]
    )
    kind = scored.kinds["agent_loop"]
    assert (kind.caught, kind.exact, kind.lost_usd, kind.minutes) == (1, 1, 40.0, [181.0])
    assert scored.repeats == 1
    assert scored.noise == []


def test_a_step_that_begins_with_the_alert_is_not_lost() -> None:
    assert score(stream(label()), [alert(4 * DAY + 3 * HOUR, api_key="k1")]).all_kinds.lost_usd == 30.0


def test_nothing_told_loses_everything() -> None:
    scored = score(stream(label()), [])
    assert scored.missed == ["agent_loop-1"]
    assert scored.all_kinds.lost_share == 1.0
    assert scored.all_kinds.median_minutes is None
    assert scored.summary()["recall"] == 0.0


@pytest.mark.parametrize(("after_end", "caught"), [(HOUR, 1), (HOUR + 1, 0)])
def test_an_alert_up_to_an_hour_after_the_end_still_catches(after_end: float, caught: int) -> None:
    scored = score(stream(label()), [alert(4 * DAY + 10 * HOUR + after_end, api_key="k1")])
    assert scored.all_kinds.caught == caught
    assert scored.noise == []


@pytest.mark.parametrize(("after_end", "noise"), [(DAY, 0), (DAY + 1, 1)])
def test_an_alert_up_to_a_day_after_the_end_is_no_noise(after_end: float, noise: int) -> None:
    scored = score(stream(label()), [alert(4 * DAY + 10 * HOUR + after_end, api_key="k1")])
    assert len(scored.noise) == noise
    assert scored.noise_per_day == pytest.approx(noise / 11)


@pytest.mark.parametrize(
    ("tags", "caught", "exact"),
    [
        ({"api_key": "k1"}, 1, 1),
        ({"api_key": "k1", "team": "another"}, 1, 1),
        ({"team": "docs"}, 1, 0),
        ({"team": "docs", "project": "docs-1"}, 1, 0),
        ({"team": "docs", "model": "gpt-4o"}, 0, 0),
        ({"team": "search"}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_who_is_named(tags: dict[str, str], caught: int, exact: int) -> None:
    scored = score(stream(label()), [alert(4 * DAY + HOUR, **tags)])
    assert (scored.all_kinds.caught, scored.all_kinds.exact) == (caught, exact)
    assert len(scored.noise) == 1 - caught


def test_a_node_is_told_from_its_group() -> None:
    node = label("idle_gpu", tags={"group": "dev", "node": "dev-1"})
    assert score(stream(node), [alert(4 * DAY + HOUR, group="dev", node="dev-2")]).missed == ["idle_gpu-1"]
    assert score(stream(node), [alert(4 * DAY + HOUR, group="dev", node="dev-1")]).all_kinds.exact == 1
    assert score(stream(node), [alert(4 * DAY + HOUR, group="dev")]).all_kinds.exact == 0


def test_look_alikes_are_flagged_in_their_windows_only() -> None:
    begin = START + 4 * DAY
    windows = ((begin, begin + HOUR), (begin + DAY, begin + DAY + HOUR))
    batch = label("nightly_batch", hours=48, label="benign", windows=windows)
    between, within = alert(4 * DAY + 5 * HOUR, api_key="k1"), alert(5 * DAY + 2 * HOUR, api_key="k1")
    assert score(stream(batch), [between]).benign_flagged == []
    assert score(stream(batch), [within]).benign_flagged == ["nightly_batch-1"]
    assert score(stream(batch), [alert(5 * DAY + HOUR, team="docs")]).benign_flagged == []
    assert score(stream(batch), [within]).all_kinds.incidents == 0


def test_the_warm_up_is_free() -> None:
    early = label("nightly_batch", at=DAY, label="benign")
    scored = score(stream(early), [alert(DAY + HOUR, api_key="k1"), alert(2 * DAY, api_key="elsewhere")])
    assert scored.benign_flagged == []
    assert scored.noise == []
    assert scored.alerts == 2


def test_immaterial_incidents_are_scored_neither_way() -> None:
    scored = score(stream(label(label="immaterial")), [alert(4 * DAY + HOUR, api_key="k1")])
    assert scored.all_kinds.incidents == 0
    assert scored.noise == []
    assert scored.all_kinds.recall is None


def test_noise_and_outcomes_point_into_the_list_given() -> None:
    alerts = [alert(9 * DAY, api_key="x"), alert(4 * DAY + 2 * HOUR, api_key="k1"), alert(4 * DAY + HOUR, api_key="k1")]
    scored = score(stream(label()), alerts)
    assert scored.noise == [0]
    assert scored.outcomes[0].caught_by == 2


def test_rows_count_from_when_they_interrupted() -> None:
    times = {
        "fired_at": "2025-03-28T00:00:00Z",
        "noticed_at": "2025-03-28T01:00:00Z",
        "paged_at": "2025-03-28T02:00:00Z",
    }
    rows = [
        {"tier": "page", "tags": {"team": "a"}, **times},
        {"tier": "notice", "tags": {"team": "b"}, "fired_at": times["fired_at"], "paged_at": None},
        {"tier": "digest", "tags": {"team": "c"}, **times},
    ]
    assert [(a.at, a.tags["team"]) for a in fired(rows)] == [
        (epoch(times["fired_at"]), "b"),
        (epoch(times["noticed_at"]), "a"),
    ]
    assert fired(rows, "page") == [Fired(epoch(times["paged_at"]), {"team": "a"})]


def write(directory: Path, *, windows: bool = False) -> Path:
    start, end = "2025-03-28T00:00:00Z", "2025-03-28T10:00:00Z"
    made = {"id": "agent_loop-1", "kind": "agent_loop", "label": "incident", "tags": KEY, "start": start, "end": end}
    made["excess_usd"] = 30.0
    if windows:
        made["windows"] = [[start, "2025-03-28T01:00:00Z"]]
    meta = {"start": "2025-03-24T00:00:00Z", "end": "2025-04-07T00:00:00Z", "step_s": 300}
    (directory / "labels.json").write_text(json.dumps({"meta": meta, "labels": [made]}))
    with gzip.open(directory / "truth.csv.gz", "wt") as file:
        file.write(
            "ts,label_id,excess_usd\n2025-03-28T05:00:00Z,agent_loop-1,20\n2025-03-28T00:00:00Z,agent_loop-1,10\n"
        )
    return directory


def test_labels_are_read(tmp_path: Path) -> None:
    assert not has_labels(tmp_path)
    found = read_labels(write(tmp_path, windows=True))
    assert has_labels(tmp_path)
    [only] = found.labels
    assert (found.start, found.step_s) == (START, 300)
    assert only.truth_usd.tolist() == [10.0, 20.0]
    assert only.windows == ((START + 4 * DAY, START + 4 * DAY + HOUR),)
    assert only.lost_usd(START + 4 * DAY + HOUR) == 10.0


def test_lines_say_what_was_caught_and_missed() -> None:
    other = label("fanout", tags={"api_key": "k2"})
    text = "\n".join(score_lines(score(stream(label(), other), [alert(4 * DAY + HOUR, api_key="k1")])))
    assert "caught 1 of 2 incidents (1 exactly), 55.0% of their dollars lost until then, median 60 min" in text
    assert "missed: fanout-1" in text
    assert "0 of 0 look-alikes flagged, 0.00 noise alerts a day" in text


def random_rows(found: LabelledStream, seed: int) -> list[dict[str, Any]]:
    """Alerts of every sort: on labels, beside them, coarse, late, and on nothing."""
    rng = random.Random(seed)
    rows = []
    for _ in range(120):
        about = rng.choice(found.labels)
        tags = dict(about.tags)
        choice = rng.random()
        if choice < 0.2:
            tags = {"team": tags["team"]}
        elif choice < 0.3:
            tags = {name: f"{value}-other" for name, value in tags.items()}
        at = about.start + rng.uniform(-2 * HOUR, about.end - about.start + 30 * HOUR)
        moment = f"{np.datetime64(int(at), 's')}Z"
        rows.append({"fired_at": moment, "tags": tags, "tier": rng.choice(("page", "notice", "digest"))})
    return rows


@pytest.mark.parametrize("tiers", ["page,notice", "page"])
def test_agrees_with_the_scorer_of_the_data(tmp_path: Path, tiers: str) -> None:
    given = os.environ.get("CURB_TEST_DATA")
    if not given:
        require("bench_s1", "set CURB_TEST_DATA to the directory that holds score.py and bench_s1")
    data, alerts = Path(given), tmp_path / "alerts.jsonl"
    found = read_labels(data / "bench_s1")
    for seed in range(2):
        rows = random_rows(found, seed)
        alerts.write_text("\n".join(map(json.dumps, rows)))
        command = [
            sys.executable,
            str(data / "score.py"),
            str(data / "bench_s1"),
            str(alerts),
            "--tiers",
            tiers,
            "--json",
        ]
        theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ours = score(found, fired(rows, "page" if tiers == "page" else "page+notice"))
        pooled = ours.all_kinds
        assert (pooled.caught, pooled.incidents, pooled.exact) == (
            theirs["caught"],
            theirs["incidents"],
            theirs["caught_exact"],
        )
        assert round(pooled.lost_share or 0, 4) == theirs["usd_lost_share"]
        assert round(pooled.median_minutes or 0, 1) == theirs["median_minutes"]
        assert ours.benign_flagged == theirs["lookalikes_flagged"]
        assert ours.missed == theirs["missed"]
        assert round(ours.noise_per_day, 3) == theirs["noise_per_day"]
        assert (ours.repeats, ours.alerts) == (theirs["repeats"], theirs["alerts"])
        for name, kind in ours.kinds.items():
            assert f"{kind.caught}/{kind.incidents}" == theirs["kinds"][name]["caught"]
            assert round(kind.lost_share or 0, 3) == theirs["kinds"][name]["lost"]
