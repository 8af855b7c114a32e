"""Makes a labelled stream harder without changing what is right: mixed keys, shifted schedules, gaps, bad rows."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.detection.streams import Row, Stream, iso, ornstein_uhlenbeck
from curb.evaluate.score import WARMUP_DAYS, epoch

_HOUR, _DAY = 3600.0, 86400.0
_OTHER_REGIONS = ("us-west-2", "eu-west-1")
#: Shares of keys that use several models or regions, of node days without work, of rows that are restated or broken.
_MIXED_KEYS, _MISSING_DAYS, _RESTATED, _CORRECTED, _BROKEN = 0.6, 0.1, 0.003, 0.002, 0.002
#: Chance that a batch loses its job tag, and that an incident carries one.
_UNTAGGED_BATCH, _TAGGED_INCIDENT = 0.35, 0.35
_JOB_INCIDENTS = ("agent_loop", "fanout", "retry_storm")
_COUNTS = ("requests", "input_tokens", "output_tokens", "errors", "users")
_PROMPT_CHANGES, _PROMPT_CHANGE_DAYS, _GAPS = 4, 3.0, 4


def make_harder(stream: Stream, seed: int) -> None:
    """All of it, the same for the same seed."""
    parts = (mix_keys, shift_schedules, change_prompts, move_job_tags, open_gaps, restate_rows, break_lines)
    for i, part in enumerate(parts):
        part(stream, np.random.default_rng([seed, 2, i]))
    stream.restate_labels()


# --- several models and regions per key ---------------------------------------------------------------------------


class _Part(NamedTuple):
    """One of the ways a key's requests go. None is the key's own."""

    model: str | None
    region: str | None


def mix_keys(stream: Stream, rng: np.random.Generator) -> None:
    """Split the own rows of most keys between two or three models and regions whose shares change over days."""
    prices = implied_prices(stream.rows)
    home = _homes(stream.rows)
    parts = {key: _parts(rng, model, prices) for key, (model, _) in home.items() if rng.random() < _MIXED_KEYS}
    steps = int((stream.end - stream.start) // stream.step_s) + 1
    weights = {}
    for key, ways in parts.items():
        noise = ornstein_uhlenbeck(rng, steps, len(ways), 0.5, 2 * _DAY / stream.step_s)
        shares = np.exp(noise + np.array([1.0, *rng.normal(0, 0.5, len(ways) - 1)]))
        weights[key] = shares / shares.sum(1, keepdims=True)
    salt = int(rng.integers(2**32))
    factors: dict[tuple[str, float], float] = {}
    rows: list[Row] = []
    for row in stream.rows:
        key = row["tags"].get("api_key")
        own = key in parts and "job" not in row["tags"] and row["tags"].get("region") == home[key][1]
        if not own or row["src"] != "llm" or row["requests"] < 1:
            rows.append(row)
            continue
        ways = parts[key] if row["tags"]["model"] == home[key][0] else [_Part(None, p.region) for p in parts[key]]
        split = _split(row, ways, weights[key][int((row["ts"] - stream.start) // stream.step_s)], prices, salt)
        rows += split
        if row["cost_usd"] > 0:
            factors[key, row["ts"]] = sum(part["cost_usd"] for part in split) / row["cost_usd"]
    stream.rows = rows
    _scale_truth(stream, factors)


def implied_prices(rows: Iterable[Row]) -> dict[str, tuple[float, float]]:
    """Dollars per input and output token of each model, from what the rows cost."""
    seen: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for row in rows:
        if row["src"] == "llm" and len(seen[row["tags"]["model"]]) < 2000:
            seen[row["tags"]["model"]].append((row["input_tokens"], row["output_tokens"], row["cost_usd"]))
    found = {}
    for model, lines in seen.items():
        table = np.array(lines, float)
        (per_input, per_output), *_ = np.linalg.lstsq(table[:, :2], table[:, 2], rcond=None)
        found[model] = (max(float(per_input), 0.0), max(float(per_output), 0.0))
    return found


def _homes(rows: Iterable[Row]) -> dict[str, tuple[str, str]]:
    """The model and region each key uses most."""
    counts: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in rows:
        if row["src"] == "llm" and "job" not in row["tags"]:
            counts[row["tags"]["api_key"]][row["tags"]["model"], row["tags"]["region"]] += 1
    return {key: count.most_common(1)[0][0] for key, count in sorted(counts.items())}


def _parts(rng: np.random.Generator, model: str, prices: dict[str, tuple[float, float]]) -> list[_Part]:
    price = prices[model][0] + prices[model][1]
    near = [m for m, (i, o) in sorted(prices.items()) if m != model and 0.5 <= (i + o) / max(price, 1e-12) <= 2]
    regions = [*rng.permutation(_OTHER_REGIONS).tolist()]
    parts = [_Part(None, None)]
    for i in range(int(rng.integers(1, 3))):
        other = str(rng.choice(near)) if near and rng.random() < 0.7 else None
        region = regions[i] if other is None or rng.random() < 0.5 else None
        parts.append(_Part(other, region))
    return parts


def _split(
    row: Row, ways: Sequence[_Part], weights: Any, prices: dict[str, tuple[float, float]], salt: int
) -> list[Row]:
    # Drawn from the id, so that two deliveries of one row are split alike.
    draw = np.random.default_rng([salt, *row["id"].encode()])
    total, found = row["requests"], []
    own = _cost(row, prices[row["tags"]["model"]])
    for i, count in enumerate(draw.multinomial(total, weights)):
        if not count:
            continue
        model, region = ways[i].model or row["tags"]["model"], ways[i].region or row["tags"]["region"]
        share = int(count) / total
        ratio = _cost(row, prices[model]) / own if own > 0 and ways[i].model else 1.0
        part = {**row, "id": f"{row['id']}-{i}" if i else row["id"], "requests": int(count)}
        part["tags"] = {**row["tags"], "model": model, "region": region}
        part |= {name: round(row[name] * share) for name in ("input_tokens", "output_tokens", "errors")}
        if "users" in row:
            part["users"] = max(1, round(row["users"] * share))
        part["cost_usd"] = round(row["cost_usd"] * share * ratio, 6)
        found.append(part)
    return found


def _cost(row: Row, price: tuple[float, float]) -> float:
    return float(row["input_tokens"] * price[0] + row["output_tokens"] * price[1])


def _scale_truth(stream: Stream, factors: dict[tuple[str, float], float]) -> None:
    """What was excess of a row is excess of its parts; rows that were not split keep theirs."""
    for label in stream.labels:
        elsewhere = label["kind"] == "leaked_key" and not label.get("same_model")
        if "api_key" not in label["tags"] or "job" in label["tags"] or elsewhere:
            continue
        steps = stream.truth.get(label["id"], {})
        for at in steps:
            steps[at] *= factors.get((label["tags"]["api_key"], at), 1.0)


# --- schedules ----------------------------------------------------------------------------------------------------


def shift_schedules(stream: Stream, rng: np.random.Generator) -> None:
    """Nodes go on and off 20 to 90 minutes earlier or later each day, and stay off on some."""
    step = stream.step_s
    keep: list[Row] = []
    added: list[Row] = []
    by_node: dict[str, list[Row]] = defaultdict(list)
    for row in stream.rows:
        (by_node[row["tags"]["node"]] if row["src"] == "gpu" else keep).append(row)
    for _, rows in sorted(by_node.items()):
        rows.sort(key=lambda row: row["ts"])
        labelled = [
            (epoch(label["start"]) - 2 * _HOUR, epoch(label["end"]) + 2 * _HOUR)
            for label in stream.labels
            if label["tags"].get("node") == rows[0]["tags"]["node"]
            or ("node" not in label["tags"] and label["tags"].get("group") == rows[0]["tags"]["group"])
        ]
        for run in _runs(rows, 2 * step):
            added += _shifted(run, stream, labelled, rng)
    stream.rows = sorted(keep + added, key=lambda row: row["recv"])


def _runs(rows: Sequence[Row], pause_s: float) -> list[list[Row]]:
    """Stretches in which a node was on."""
    runs: list[list[Row]] = []
    for row in rows:
        if not runs or row["ts"] - runs[-1][-1]["ts"] > pause_s:
            runs.append([])
        runs[-1].append(row)
    return runs


def _shifted(
    run: list[Row], stream: Stream, labelled: Sequence[tuple[float, float]], rng: np.random.Generator
) -> list[Row]:
    first, last = run[0]["ts"], run[-1]["ts"]
    touched = [(b, e) for b, e in labelled if b <= last and first <= e]
    if last - first < 4 * _HOUR or (first <= stream.start and last >= stream.end - 2 * stream.step_s):
        return run
    if not touched and rng.random() < _MISSING_DAYS:
        return []
    begin_by, end_by = (float(rng.choice((-1, 1)) * rng.uniform(20, 90) * 60) for _ in range(2))
    if first <= stream.start or any(b <= first + d <= e for b, e in touched for d in (begin_by, 0)):
        begin_by = 0.0
    if last >= stream.end - 2 * stream.step_s or any(b <= last + d <= e for b, e in touched for d in (end_by, 0)):
        end_by = 0.0
    found = [row for row in run if first + begin_by <= row["ts"] <= last + end_by]
    step, template = stream.step_s, run[0]
    early = range(1, int(-begin_by // step) + 1)
    late = range(1, int(end_by // step) + 1)
    moments = [first - i * step for i in early] + [last + i * step for i in late]
    for i, at in enumerate(moments):
        if stream.start <= at < stream.end:
            like = run[int(rng.integers(len(run)))]
            recv = at + step + float(rng.exponential(4))
            found.append({**template, "id": f"{template['id']}-x{i}", "ts": at, "recv": recv} | _load(like))
    return found


def _load(row: Row) -> Row:
    return {name: row[name] for name in ("gpu_util_pct", "gpu_mem_gib") if name in row}


# --- prompts and jobs ---------------------------------------------------------------------------------------------


def change_prompts(stream: Stream, rng: np.random.Generator) -> None:
    """On a few keys that nothing happens to, input tokens per request grow for good: a new prompt, not an incident."""
    prices = implied_prices(stream.rows)
    labelled = {label["tags"].get("api_key") for label in stream.labels}
    spend: Counter[str] = Counter()
    for row in stream.rows:
        if row["src"] == "llm":
            spend[row["tags"]["api_key"]] += row["cost_usd"]
    days = (stream.end - stream.start) / _DAY
    free = sorted(key for key, usd in spend.items() if key not in labelled and usd > days)
    first, last = stream.start + (WARMUP_DAYS + 1) * _DAY, stream.end - _PROMPT_CHANGE_DAYS * _DAY
    for i, key in enumerate(rng.permutation(free)[:_PROMPT_CHANGES].tolist(), 1):
        at = first + rng.random() * max(last - first, 0.0)
        at -= (at - stream.start) % stream.step_s
        factor = float(rng.uniform(1.5, 3))
        tags = {}
        truth: dict[float, float] = defaultdict(float)
        seen: set[str] = set()
        for row in stream.rows:
            if row["src"] != "llm" or row["tags"]["api_key"] != key or row["ts"] < at:
                continue
            more = round(row["input_tokens"] * (factor - 1))
            usd = more * prices[row["tags"]["model"]][0]
            row["input_tokens"] += more
            row["cost_usd"] = round(row["cost_usd"] + usd, 6)
            tags = {name: row["tags"][name] for name in ("team", "project", "env", "api_key")}
            if row["ts"] < at + _PROMPT_CHANGE_DAYS * _DAY and row["id"] not in seen:
                truth[row["ts"]] += usd
                seen.add(row["id"])
        if tags:
            stream.truth[f"prompt_change-{i}"] = dict(truth)
            times = {"start": iso(at), "end": iso(min(at + _PROMPT_CHANGE_DAYS * _DAY, stream.end))}
            label = {"id": f"prompt_change-{i}", "kind": "prompt_change", "label": "benign", "tags": tags, **times}
            stream.labels.append({**label, "announced": False, "factor": round(factor, 2)})
    stream.restate_labels()


def move_job_tags(stream: Stream, rng: np.random.Generator) -> None:
    """Some batches lose their job tag, and some incidents happen inside a tagged job."""
    untagged: set[tuple[str, str]] = set()
    tagged: dict[tuple[str, float], str] = {}
    for label in stream.labels:
        key, job, chance = label["tags"].get("api_key"), label["tags"].get("job"), rng.random()
        if key and job and chance < _UNTAGGED_BATCH:
            untagged.add((key, job))
            del label["tags"]["job"]
        elif label["kind"] in _JOB_INCIDENTS and chance < _TAGGED_INCIDENT:
            name = label["tags"]["job"] = f"agent-run-{int(rng.integers(100, 999))}"
            tagged |= {(key, at): name for at in stream.truth.get(label["id"], {})}
    for row in stream.rows:
        tags = row["tags"]
        if (tags.get("api_key"), tags.get("job")) in untagged:
            row["tags"] = {name: value for name, value in tags.items() if name != "job"}
        elif "job" not in tags and row["src"] == "llm" and (tags["api_key"], row["ts"]) in tagged:
            row["tags"] = {**tags, "job": tagged[tags["api_key"], row["ts"]]}


# --- the collector ------------------------------------------------------------------------------------------------


def open_gaps(stream: Stream, rng: np.random.Generator) -> None:
    """Stretches of hours in which nothing arrives from anyone: half are lost, half come in a burst afterwards."""
    room = (stream.end - stream.start - 2 * _DAY) / _GAPS
    for i in range(_GAPS):
        length = float(rng.uniform(1, 6)) * _HOUR
        begin = stream.start + 2 * _DAY + i * room + rng.random() * max(room - length - _HOUR, 0.0)
        begin -= (begin - stream.start) % stream.step_s
        end = begin + length - length % stream.step_s
        if i % 2:
            for row in stream.rows:
                if begin <= row["recv"] < end and row["src"] != "plan":
                    row["recv"] = end + float(rng.uniform(0, 120))
            continue
        stream.rows = [row for row in stream.rows if row["src"] == "plan" or not begin <= row["ts"] < end]
        for label_id, steps in stream.truth.items():
            stream.truth[label_id] = {at: usd for at, usd in steps.items() if not begin <= at < end}
    stream.rows.sort(key=lambda row: row["recv"])


def restate_rows(stream: Stream, rng: np.random.Generator) -> None:
    """Some rows come again hours later with another cost, and some get a row that corrects them."""
    more = []
    for row, chance in zip(stream.rows, rng.random(len(stream.rows)), strict=True):
        if row["src"] == "plan" or chance >= _RESTATED + _CORRECTED:
            continue
        recv = row["recv"] + float(rng.uniform(1, 24)) * _HOUR
        if chance < _RESTATED:
            more.append({**row, "recv": recv, "cost_usd": round(row["cost_usd"] * float(rng.uniform(0.5, 1.5)), 6)})
            continue
        change = row["cost_usd"] * float(rng.choice((-1, 1, 1)) * rng.uniform(0.05, 0.3))
        nothing: Row = {name: 0 for name in _COUNTS if name in row}
        more.append({**row, **nothing, "id": f"{row['id']}-c", "recv": recv, "cost_usd": round(change, 6)})
    stream.rows = sorted(stream.rows + more, key=lambda row: row["recv"])


def break_lines(stream: Stream, rng: np.random.Generator) -> None:
    """Lines that no reader can use, among the others."""
    count = max(8, int(len(stream.rows) * _BROKEN))
    rows = [row for row in stream.rows if row["src"] == "llm"]
    kinds = itertools.cycle(range(8))
    for i in rng.integers(len(rows), size=count).tolist():
        stream.raw.append((rows[i]["recv"], _broken(rows[i], next(kinds))))


def _broken(row: Row, kind: int) -> bytes:
    whole = {**row, "id": f"{row['id']}-b", "ts": iso(row["ts"]), "recv": iso(row["recv"])}
    changes: list[Row] = [
        {"cost_usd": float("nan")},
        {"cost_usd": -abs(row["cost_usd"]) - 1},
        {"ts": "1970-01-01T00:00:00Z"},
        {"ts": "2100-01-01T00:00:00Z"},
        {"cost_usd": "a lot", "requests": [1]},
        {"tags": "none"},
    ]
    line = json.dumps({**whole, **(changes[kind] if kind < len(changes) else {})}, separators=(",", ":")).encode()
    if kind == 6:
        return line[: len(line) // 2]
    return line.replace(b'"src"', b'"\xff\xfe"') if kind == 7 else line
