"""The benchmark's streams made harder: labels and exact excess stay right, and a seed makes one stream."""

from __future__ import annotations

import copy
import gzip
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.detection import harder, streams
from benchmarks.detection.peers import read_events
from benchmarks.detection.streams import Row, Stream, iso
from curb.evaluate.score import epoch, read_labels

DAY, HOUR = 86400.0, 3600.0
START = epoch("2025-03-24T00:00:00Z")
PRICES = {"small": (1e-6, 4e-6), "middle": (1.5e-6, 6e-6), "large": (2e-6, 8e-6), "huge": (5e-5, 2e-4)}
STEP_S, DAYS, KEYS = 1800, 9, 12
LOOP = (START + 5 * DAY, START + 5 * DAY + 6 * HOUR)


def llm(key: int, at: float, requests: int, model: str, **tags: str) -> Row:
    given, made = requests * 1000, requests * 100
    price = PRICES[model]
    return {
        "id": f"{key:x}-{int(at - START):x}{''.join(tags)}",
        "ts": at,
        "recv": at + STEP_S + 5,
        "src": "llm",
        "tags": {"team": "a", "project": "a-1", "env": "prod", "model": model, "api_key": f"k{key}", "region": "home"}
        | tags,
        "requests": requests,
        "input_tokens": given,
        "output_tokens": made,
        "errors": requests // 50,
        "users": max(1, requests // 2),
        "cost_usd": round(given * price[0] + made * price[1], 6),
    }


def gpu(node: str, at: float) -> Row:
    tags = {"team": "labs", "group": "dev", "node": node, "instance": "x"}
    row = {"id": f"{node}-{int(at - START):x}", "ts": at, "recv": at + STEP_S + 5, "src": "gpu", "tags": tags}
    return row | {"gpu_util_pct": 50.0, "gpu_mem_gib": 20.0, "cost_usd": 2.0}


def label(kind: str, start: float, end: float, tags: dict[str, str], of: str = "incident") -> dict[str, Any]:
    return {"id": f"{kind}-1", "kind": kind, "label": of, "tags": tags, "start": iso(start), "end": iso(end)}


@pytest.fixture
def stream() -> Stream:
    """Twelve keys with one model each, one loop and one batch on the first two, nodes by day and one always on."""
    rows: list[Row] = []
    truth: dict[str, dict[float, float]] = {"agent_loop-1": {}, "nightly_batch-1": {}, "idle_gpu-1": {}}
    models = list(PRICES)
    for step in range(DAYS * 48):
        at = START + step * STEP_S
        for key in range(KEYS):
            row = llm(key, at, 200, models[key % 4])
            if key == 0 and LOOP[0] <= at < LOOP[1]:
                truth["agent_loop-1"][at] = row["cost_usd"] * 9
                row |= {name: row[name] * 10 for name in ("requests", "input_tokens", "output_tokens", "cost_usd")}
            rows.append(row)
        if step % 48 in (4, 5):
            rows.append(llm(1, at, 3000, "middle", job="nightly"))
            truth["nightly_batch-1"][at] = rows[-1]["cost_usd"]
        for node, on in (("always", True), ("day", 18 <= step % 48 < 38)):
            if on:
                rows.append(gpu(node, at))
    plan = {"src": "plan", "ts": START + DAY, "recv": START + DAY, "tags": {"api_key": "k1", "job": "nightly"}}
    labels = [
        label("agent_loop", *LOOP, {"team": "a", "api_key": "k0"}),
        label("nightly_batch", START, START + DAYS * DAY, {"team": "a", "api_key": "k1", "job": "nightly"}, "benign"),
        label("idle_gpu", START + 6 * DAY + 9 * HOUR, START + 6 * DAY + 19 * HOUR, {"group": "dev", "node": "day"}),
    ]
    truth["idle_gpu-1"] = {START + 6 * DAY + 9 * HOUR + i * STEP_S: 2.0 for i in range(20)}
    meta = {"start": iso(START), "end": iso(START + DAYS * DAY), "step_s": STEP_S}
    made = Stream(meta, sorted([*rows, plan], key=lambda row: row["recv"]), labels, truth)
    made.restate_labels()
    return made


def cost_of(stream: Stream, key: str, at: float) -> float:
    """Dollars of a key's own rows in a step."""
    return sum(
        row["cost_usd"]
        for row in stream.rows
        if row["tags"].get("api_key") == key and row["ts"] == at and "job" not in row["tags"]
    )


def rng(part: int = 0) -> np.random.Generator:
    return np.random.default_rng([21, part])


def test_a_stream_survives_writing_and_reading(stream: Stream, tmp_path: Path) -> None:
    streams.save(stream, tmp_path / "s")
    found = streams.load(tmp_path / "s")
    assert found.rows == stream.rows
    assert found.truth["agent_loop-1"] == pytest.approx(stream.truth["agent_loop-1"], abs=1e-6)
    [loop, *_] = read_labels(tmp_path / "s").labels
    assert loop.excess_usd == pytest.approx(loop.truth_usd.sum(), abs=0.01)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_users_are_gone_or_noisy(stream: Stream) -> None:
    with_users = copy.deepcopy(stream)
    streams.without_users(stream, 1)
    assert not any("users" in row for row in stream.rows)
    before = [row["users"] for row in with_users.rows if row["src"] == "llm"]
    again = copy.deepcopy(with_users)
    streams.noisy_users(with_users, 1)
    after = [row["users"] for row in with_users.rows if row["src"] == "llm"]
    noise = np.log(np.array(after) / np.array(before))
    assert 0.3 < noise.std() < 0.4
    assert all(isinstance(users, int) and users >= 1 for users in after)
    k3 = [row["users"] for row in with_users.rows if row["tags"].get("api_key") == "k3"]
    steps = np.log(np.array(k3) / 100)
    assert 0.8 < np.corrcoef(steps[:-1], steps[1:])[0, 1] < 0.95, "half an hour is an eighth of its memory"
    streams.noisy_users(again, 1)
    assert again.rows == with_users.rows


def test_prices_are_found_from_rows(stream: Stream) -> None:
    varied = [
        row | {"output_tokens": 0, "cost_usd": row["input_tokens"] * PRICES[row["tags"]["model"]][0]}
        for row in stream.rows
        if row["src"] == "llm"
    ]
    found = harder.implied_prices([*varied[:500], *(row for row in stream.rows[:500] if row["src"] == "llm")])
    assert {model: pytest.approx(price, rel=1e-3) for model, price in PRICES.items()} == found


def test_mixed_keys_keep_their_requests_and_their_share_of_excess(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copy.deepcopy(stream)
    monkeypatch.setattr(harder, "_MIXED_KEYS", 1.0)
    harder.mix_keys(stream, rng())
    ways: dict[str, set[tuple[str, str]]] = defaultdict(set)
    requests: dict[str, int] = Counter()
    for row in stream.rows:
        if row["src"] == "llm" and "job" not in row["tags"]:
            ways[row["tags"]["api_key"]].add((row["tags"]["model"], row["tags"]["region"]))
            requests[row["tags"]["api_key"]] += row["requests"]
    assert all(2 <= len(found) <= 3 for found in ways.values())
    assert requests == Counter(
        {
            f"k{key}": sum(
                row["requests"]
                for row in before.rows
                if row["tags"].get("api_key") == f"k{key}" and "job" not in row["tags"]
            )
            for key in range(KEYS)
        }
    )
    assert len({row["id"] for row in stream.rows if "id" in row}) == sum("id" in row for row in stream.rows)
    for at, usd in stream.truth["agent_loop-1"].items():
        assert usd / cost_of(stream, "k0", at) == pytest.approx(0.9, rel=1e-3)
    assert stream.truth["nightly_batch-1"] == before.truth["nightly_batch-1"], "rows of a job are as they were"
    assert not any({"huge", "small"} <= {model for model, _ in found} for found in ways.values()), "prices are near"


def test_two_deliveries_of_a_row_are_split_alike(stream: Stream) -> None:
    row = next(row for row in stream.rows if row["tags"].get("api_key") == "k2")
    ways = [harder._Part(None, None), harder._Part("small", None), harder._Part(None, "away")]
    once, again = (harder._split(row, ways, np.full(3, 1 / 3), PRICES, 5) for _ in range(2))
    assert once == again
    assert sum(part["requests"] for part in once) == row["requests"]
    assert len({part["id"] for part in once}) == len(once)


def test_schedules_shift_around_incidents_only(stream: Stream) -> None:
    before = copy.deepcopy(stream)
    harder.shift_schedules(stream, rng())

    def days(of: Stream, node: str) -> dict[int, tuple[float, float]]:
        found: dict[int, list[float]] = defaultdict(list)
        for row in of.rows:
            if row["tags"].get("node") == node:
                found[int((row["ts"] - START) // DAY)].append((row["ts"] - START) % DAY / HOUR)
        return {day: (min(hours), max(hours)) for day, hours in found.items()}

    assert days(stream, "always") == days(before, "always")
    shifted = days(stream, "day")
    moved = [day for day, edges in shifted.items() if edges != (9.0, 18.5)]
    assert len(moved) >= 4
    assert shifted[6] == (9.0, 18.5), "the day of the incident stays"
    assert all(7.4 <= first <= 10.6 and 16.9 <= last <= 20.1 for first, last in shifted.values())
    assert stream.truth == before.truth


def test_prompts_change_on_keys_that_nothing_happens_to(stream: Stream) -> None:
    before = copy.deepcopy(stream)
    harder.change_prompts(stream, rng())
    made = [label for label in stream.labels if label["kind"] == "prompt_change"]
    assert 1 <= len(made) <= 4
    for label in made:
        key, at = label["tags"]["api_key"], epoch(label["start"])
        assert key not in {"k0", "k1"}
        assert label["label"] == "benign"
        assert at >= START + 4 * DAY
        extra = cost_of(stream, key, at) - cost_of(before, key, at)
        assert stream.truth[label["id"]][at] == pytest.approx(extra, abs=1e-5)
        factors = {
            round(row["input_tokens"] / 200_000, 3)
            for row in stream.rows
            if row["tags"].get("api_key") == key and row["ts"] >= at
        }
        assert len(factors) == 1, "for good"
        assert 1.5 <= factors.pop() <= 3
        assert label["excess_usd"] == pytest.approx(sum(stream.truth[label["id"]].values()), abs=0.01)


def test_jobs_lose_tags_and_incidents_gain_them(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harder, "_UNTAGGED_BATCH", 1.0)
    monkeypatch.setattr(harder, "_TAGGED_INCIDENT", 1.0)
    harder.move_job_tags(stream, rng())
    jobs = Counter((row["tags"].get("api_key"), row["tags"]["job"]) for row in stream.rows if "job" in row["tags"])
    name = stream.labels[0]["tags"]["job"]
    assert jobs == {("k0", name): 12}
    assert "job" not in stream.labels[1]["tags"]


def test_gaps_lose_rows_with_their_excess_or_deliver_them_late(stream: Stream) -> None:
    before = copy.deepcopy(stream)
    harder.open_gaps(stream, rng())
    stream.restate_labels()
    left = {row["id"] for row in stream.rows if "id" in row}
    lost = {row["ts"] for row in before.rows if "id" in row and row["id"] not in left}
    assert lost
    assert not lost & {row["ts"] for row in stream.rows if row["src"] != "plan"}, "everyone's at once"
    for label_id, steps in stream.truth.items():
        assert steps.keys() == before.truth[label_id].keys() - lost
    for label in stream.labels:
        assert label["excess_usd"] == pytest.approx(sum(stream.truth[label["id"]].values()), abs=0.01)
    late = [row for row in stream.rows if row["src"] != "plan" and row["recv"] - row["ts"] > 2 * STEP_S]
    assert late
    arrivals = sorted({row["recv"] for row in stream.rows if row["src"] != "plan"})
    assert max(np.diff(arrivals)) >= HOUR
    assert [row["recv"] for row in stream.rows] == sorted(row["recv"] for row in stream.rows)


def test_an_incident_that_was_lost_is_no_longer_scored(stream: Stream) -> None:
    stream.truth["agent_loop-1"] = {}
    stream.restate_labels()
    assert stream.labels[0]["label"] == "immaterial"
    assert stream.labels[1]["label"] == "benign"


def test_rows_are_restated_and_corrected(stream: Stream) -> None:
    before = len(stream.rows)
    harder.restate_rows(stream, rng())
    ids = Counter(row["id"] for row in stream.rows if "id" in row)
    twice = {row_id for row_id, count in ids.items() if count == 2}
    corrections = [row for row in stream.rows if row.get("id", "").endswith("-c")]
    assert twice
    assert corrections
    assert len(stream.rows) == before + len(twice) + len(corrections)
    assert all(len({row["cost_usd"] for row in stream.rows if row.get("id") == row_id}) == 2 for row_id in twice)
    assert all(row.get("requests", 0) == 0 for row in corrections)


def test_broken_lines_are_of_every_sort_and_no_reader_takes_them(stream: Stream, tmp_path: Path) -> None:
    harder.break_lines(stream, rng())
    assert len(stream.raw) >= 8
    assert len({line[:40] for _, line in stream.raw}) > 4
    streams.save(stream, tmp_path / "s")
    with gzip.open(tmp_path / "s" / streams.EVENTS_FILE) as file:
        assert len(file.readlines()) == len(stream.rows) + len(stream.raw)
    kept = [record.id for record in read_events(tmp_path / "s")]
    assert sorted(kept) == sorted(row["id"] for row in stream.rows if "id" in row)


def test_one_seed_makes_one_stream(stream: Stream, tmp_path: Path) -> None:
    again, other = copy.deepcopy(stream), copy.deepcopy(stream)
    for made, seed, name in ((stream, 1, "a"), (again, 1, "b"), (other, 2, "c")):
        harder.make_harder(made, seed)
        streams.save(made, tmp_path / name)
    for file in ("events.jsonl.gz", "labels.json", "truth.csv.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / "events.jsonl.gz").read_bytes() != (tmp_path / "c" / "events.jsonl.gz").read_bytes()


def test_variants_of_a_cached_base_are_made_once(stream: Stream, tmp_path: Path) -> None:
    streams.save(stream, tmp_path / "base-s7")
    made = streams.make("nousers", 7, None, tmp_path)
    stamp = (made / "labels.json").stat().st_mtime_ns
    assert streams.make("nousers", 7, None, tmp_path) == made
    assert (made / "labels.json").stat().st_mtime_ns == stamp
    with pytest.raises(FileNotFoundError, match="--data"):
        streams.make("clean", 7, None, tmp_path)
