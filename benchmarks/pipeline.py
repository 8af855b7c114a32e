"""Events per CPU-second of the whole detector beside decoding alone, a plain Python loop, River, polars and duckdb.

Run `python -m benchmarks.pipeline`. Rounds are interleaved, so the ratios hold on a busy machine; the rates do not. The
detector is measured twice in each: saturated, and at the batches of a daemon that gets 2,000 events a second.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import math
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import peers
from benchmarks.results import Measured
from curb.detector.pipeline import Pipeline
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode, encode_lines
from curb.stream.records.spend import UsageRecord

KEYS, COMBINATIONS, DUPLICATES = 5_000, 40_000, 0.01
#: Event time of the warm-up: several buckets close in it.
WARM_S = 300.0
#: Roles as in the default scopes, and all of them are scored.
SCOPES = (
    Scope(name="key", group_by=("team", "project", "api_key")),
    Scope(name="team", group_by=("team",), role="total"),
    Scope(name="model", group_by=("model",), role="total"),
    Scope(name="project", group_by=("project", "env"), role="total"),
)
SETTINGS = DetectorSettings(scopes=SCOPES, guard=GuardSettings(max_new_series_per_minute=1_000_000))


def make_events(count: int, per_second: float) -> list[UsageRecord]:
    """Usage of many keys, in the order of receipt; one in a hundred is sent twice.

    The first events, one per combination of labels, are for warming up. They come in `WARM_S`, so that every series
    is known and scored when the measured part begins.
    """
    rng = random.Random(1)
    keys = [f"{rng.getrandbits(64):016x}" for _ in range(KEYS)]
    combinations = [
        {
            "team": f"team-{i % KEYS % 40:02d}",
            "project": f"project-{i % KEYS % 400:03d}",
            "env": "prod",
            "model": f"model-{i // KEYS}",
            "api_key": keys[i % KEYS],
        }
        for i in range(COMBINATIONS)
    ]
    events: list[UsageRecord] = []
    for at in range(COMBINATIONS + count):
        if at > 2 * COMBINATIONS and rng.random() < DUPLICATES:
            events.append(events[-rng.randrange(1, 5_000)])
            continue
        warm_s = WARM_S * min(1.0, at / COMBINATIONS)
        received_at = 1_750_000_000 + round(warm_s + max(0, at - COMBINATIONS) / per_second, 3)
        event = UsageRecord(
            id=f"{rng.getrandbits(64):016x}",
            charge_period_start=round(received_at - rng.random() * 5, 3),
            received_at=received_at,
            effective_cost=round(rng.random() / 100, 6),
            tags=combinations[at if at < COMBINATIONS else rng.randrange(COMBINATIONS)],
            requests=1,
            input_tokens=rng.randrange(1, 8000),
            output_tokens=rng.randrange(1, 2000),
        )
        events.append(event)
    return events


def decode_only(lines: Sequence[bytes]) -> None:
    """One object a line, thrown away."""
    decode = msgspec.json.Decoder(UsageRecord).decode
    for line in lines:
        decode(line)


class Naive:
    """Decode, dedupe and sum into dictionaries; no buckets, no lateness, no scores."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._plan: list[tuple[defaultdict[tuple[str, ...], float], tuple[str, ...]]] = [
            (defaultdict(float), scope.group_by) for scope in SCOPES
        ]

    def run(self, lines: Sequence[bytes]) -> None:
        """Count the events of `lines`."""
        decode = msgspec.json.Decoder(UsageRecord).decode
        seen, plan = self._seen, self._plan
        for line in lines:
            event = decode(line)
            if event.id in seen:
                continue
            seen.add(event.id)
            for total, tags in plan:
                total[tuple([event.tags[tag] for tag in tags])] += event.effective_cost


class River:
    """The same scopes with dedupe, scored by River's GaussianScorer event by event; no buckets."""

    def __init__(self) -> None:
        make = importlib.import_module("river.anomaly").GaussianScorer
        self._seen: set[str] = set()
        self._plan: list[tuple[defaultdict[tuple[str, ...], Any], tuple[str, ...]]] = [
            (defaultdict(make), scope.group_by) for scope in SCOPES
        ]

    def run(self, lines: Sequence[bytes]) -> None:
        """Score and learn the events of `lines`."""
        decode = msgspec.json.Decoder(UsageRecord).decode
        seen, plan = self._seen, self._plan
        for line in lines:
            event = decode(line)
            if event.id in seen:
                continue
            seen.add(event.id)
            for scorers, tags in plan:
                scorer = scorers[tuple([event.tags[tag] for tag in tags])]
                scorer.score_one(None, event.effective_cost)
                scorer.learn_one(None, event.effective_cost)


class Curb:
    """Everything: decode, dedupe, sum, buckets, lateness, scores, alerts."""

    def __init__(self, flush_every: int) -> None:
        self.pipeline = Pipeline(SETTINGS)
        self._flush_every = flush_every

    def run(self, messages: Sequence[bytes]) -> None:
        """Feed `messages`, with a commit every `flush_every` and at the end."""
        for at, message in enumerate(messages, 1):
            self.pipeline.feed(message)
            if at % self._flush_every == 0:
                self.pipeline.tick()
        self.pipeline.tick()


def totals(pipeline: Pipeline) -> peers.Totals:
    """Dollars by scope and tags, as the detector has them."""
    return {
        scope.name: {tuple(tags.values()): usd for tags, usd in pipeline.shard.totals(scope.name)} for scope in SCOPES
    }


def exact(events: Sequence[UsageRecord]) -> peers.Totals:
    """The same, summed independently."""
    unique = {event.id: event for event in events}.values()
    found: peers.Totals = {}
    for scope in SCOPES:
        parts: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for event in unique:
            parts[tuple([event.tags[tag] for tag in scope.group_by])].append(event.effective_cost)
        found[scope.name] = {tags: math.fsum(costs) for tags, costs in parts.items()}
    return found


def cpu_seconds(work: Callable[[Any], None], load: Any) -> float:
    """CPU time of one call."""
    gc.collect()
    start = time.process_time()
    work(load)
    return time.process_time() - start


class Point(NamedTuple):
    """How the detector gets its events: so many a message, and so many between two commits."""

    name: str
    per_message: int
    per_flush: int


#: A backlog that is worked off, and 2,000 events a second with a commit every half a second.
POINTS = (Point("", 500, 100_000), Point(" at 1,000", 100, 1_000))


class Load:
    """The same events as lines, as messages of each point, and as a file."""

    def __init__(self, events: Sequence[UsageRecord], directory: Path) -> None:
        self.lines = [encode(event) for event in events]
        self.messages = {
            point: [
                encode_lines(events[at : at + point.per_message]) for at in range(0, len(events), point.per_message)
            ]
            for point in POINTS
        }
        measured = directory / "events.jsonl"
        measured.write_bytes(b"\n".join(self.lines[COMBINATIONS:]) + b"\n")
        scopes = {scope.name: scope.group_by for scope in SCOPES}
        self.peers = peers.installed(scopes, measured)


def round_of(load: Load) -> dict[str, float]:
    """CPU seconds of each contender on the same events, after each has seen every combination of labels once.

    What works in one batch has nothing to see before.
    """
    seconds = {"decode": cpu_seconds(decode_only, load.lines[COMBINATIONS:])}
    contenders: dict[str, tuple[Any, Sequence[bytes], int]] = {"naive": (Naive(), load.lines, COMBINATIONS)}
    for point in POINTS:
        curb = Curb(max(1, point.per_flush // point.per_message))
        contenders[f"curb{point.name}"] = (curb, load.messages[point], COMBINATIONS // point.per_message)
    if importlib.util.find_spec("river") is not None:
        contenders["river"] = (River(), load.lines, COMBINATIONS)
    for name, (contender, all_of_it, until) in contenders.items():
        contender.run(all_of_it[:until])
        seconds[name] = cpu_seconds(contender.run, all_of_it[until:])
    for name, peer in load.peers.items():
        seconds[name] = cpu_seconds(peer.run, load.lines[COMBINATIONS:])
    return seconds


def ratios(rounds: Sequence[dict[str, float]]) -> list[Measured]:
    """Rates of the detector over those of others, which are CPU seconds of others over those of the detector."""
    found = []
    for point in POINTS:
        for name, other, meaning, least in (
            ("T1", "decode", "decoding only", 0.3 if point.name else 0.5),
            ("T2", "naive", "a plain Python loop", 1.2 if point.name else 2.5),
            ("T5", "river", "River's GaussianScorer", None if point.name else 2.5),
            ("T6 polars", "polars", "polars in one batch", None),
            ("T6 duckdb", "duckdb", "duckdb in one batch", None),
        ):
            if other in rounds[0]:
                values = [each[other] / each[f"curb{point.name}"] for each in rounds]
                words = f"whole detector ÷ {meaning}{', 1,000 a commit' if point.name else ''}"
                found.append(Measured(f"{name}{point.name}", words, values, at_least=least))
    return found


def prepared(count: int, per_second: float, directory: Path) -> Load:
    """The load, after everybody's totals were compared. Raises SystemExit where they differ."""
    events = make_events(count, per_second)
    load, truth = Load(events, directory), exact(events)
    for point in POINTS:
        curb = Curb(max(1, point.per_flush // point.per_message))
        curb.run(load.messages[point])
        if not peers.agree(totals(curb.pipeline), truth):
            raise SystemExit(f"totals at {point.per_flush:,} events a commit differ from an independent sum")
    timed = exact(events[COMBINATIONS:])
    for name, peer in load.peers.items():
        peer.run(load.lines[COMBINATIONS:])
        if not peers.agree(peer.totals(), timed):
            raise SystemExit(f"totals of {name} differ from an independent sum")
    return load


def main(arguments: Sequence[str] | None = None) -> list[Measured]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-second", type=float, default=2_000.0, help="events per second of event time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="curb-bench-") as directory:
        load = prepared(options.events, options.per_second, Path(directory))
        # Neither the sample itself nor what was imported is what a daemon's garbage collector has to walk through.
        gc.collect()
        gc.freeze()
        length = sum(map(len, load.lines)) / len(load.lines)
        print(f"{options.events:,} events of {length:.0f} B, {KEYS:,} keys, {COMBINATIONS:,} combinations of labels,")
        print(f"{len(SCOPES)} scopes. The totals of everybody are those of an independent sum.\n")
        rounds = [round_of(load) for _ in range(options.rounds)]
    for name in rounds[0]:
        rate = options.events / statistics.median(each[name] for each in rounds)
        print(f"{name:14} {rate:12,.0f} events per CPU-second")
    print(f"\nratios of rates, median of {options.rounds} rounds (range)")
    found = ratios(rounds)
    for each in found:
        print(each.line)
    for name in ("river", "polars", "duckdb"):
        if name not in rounds[0]:
            print(f"{name} is not installed, and not measured")
    return found


if __name__ == "__main__":
    main()
