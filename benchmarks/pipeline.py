"""Events per CPU-second of the whole detector beside decoding alone, a plain Python loop, and River, in one run.

Run `python -m benchmarks.pipeline`. Rounds are interleaved, so the ratios hold on a busy machine; the rates do not.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from curb.detector.pipeline import Pipeline
from curb.detector.rollup.tag_table import GuardSettings
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.log.codec import encode, encode_lines
from curb.stream.records.spend import UsageRecord

KEYS, COMBINATIONS, DUPLICATES = 5_000, 40_000, 0.01
#: Event time of the warm-up: several buckets close in it.
WARM_S = 300.0
SCOPES = (
    Scope(name="key", group_by=("team", "project", "api_key")),
    Scope(name="team", group_by=("team",)),
    Scope(name="model", group_by=("model",)),
    Scope(name="project", group_by=("project", "env")),
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


def check(events: Sequence[UsageRecord], pipeline: Pipeline) -> None:
    """Hold the totals of every scope against an independent exact sum; raises SystemExit where they differ."""
    unique = {event.id: event for event in events}.values()
    for scope in SCOPES:
        parts: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for event in unique:
            parts[tuple([event.tags[tag] for tag in scope.group_by])].append(event.effective_cost)
        totals = {tuple(tags.values()): total for tags, total in pipeline.shard.totals(scope.name)}
        if totals.keys() != parts.keys():
            raise SystemExit(f"scope {scope.name}: {len(totals)} series, expected {len(parts)}")
        for key, costs in parts.items():
            if not math.isclose(totals[key], math.fsum(costs), rel_tol=1e-9):
                raise SystemExit(f"scope {scope.name}, {key}: {totals[key]}, expected {math.fsum(costs)}")


def cpu_seconds(work: Callable[[Any], None], load: Any) -> float:
    """CPU time of one call."""
    gc.collect()
    start = time.process_time()
    work(load)
    return time.process_time() - start


def round_of(lines: Sequence[bytes], messages: Sequence[bytes], warm: int, flush_every: int) -> dict[str, float]:
    """CPU seconds of each contender on the same events, after each has seen every combination of labels once."""
    size = math.ceil(len(lines) / len(messages))
    seconds = {"decode": cpu_seconds(decode_only, lines[warm:])}
    contenders: dict[str, tuple[Any, Sequence[bytes], int]] = {
        "naive": (Naive(), lines, warm),
        "curb": (Curb(flush_every), messages, warm // size),
    }
    if importlib.util.find_spec("river") is not None:
        contenders["river"] = (River(), lines, warm)
    for name, (contender, load, until) in contenders.items():
        contender.run(load[:until])
        seconds[name] = cpu_seconds(contender.run, load[until:])
    return seconds


def report(name: str, meaning: str, above: Sequence[float], below: Sequence[float]) -> None:
    """The ratio of two rates: median and range over the rounds, from the CPU seconds of each."""
    ratios = [slow / fast for slow, fast in zip(above, below, strict=True)]
    print(f"{name:3} {meaning:32} {statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-second", type=float, default=2_000.0, help="events per second of event time")
    parser.add_argument("--per-message", type=int, default=500)
    parser.add_argument("--per-flush", type=int, default=100_000, help="events between two commits")
    options = parser.parse_args(arguments)
    events = make_events(options.events, options.per_second)
    lines = [encode(event) for event in events]
    size = options.per_message
    messages = [encode_lines(events[at : at + size]) for at in range(0, len(events), size)]
    flush_every = max(1, options.per_flush // size)
    everything = Curb(flush_every)
    everything.run(messages)
    check(events, everything.pipeline)
    # Neither the sample itself nor what was imported is what a daemon's garbage collector has to walk through.
    del everything, events
    gc.collect()
    gc.freeze()
    length = sum(map(len, lines)) / len(lines)
    print(f"{options.events:,} events of {length:.0f} B, {KEYS:,} keys, {COMBINATIONS:,} combinations of labels,")
    print(f"{len(SCOPES)} scopes, {size} events a message. Totals equal the independent sum.\n")
    rounds = [round_of(lines, messages, COMBINATIONS, flush_every) for _ in range(options.rounds)]
    seconds = {name: [each[name] for each in rounds] for name in rounds[0]}
    for name, each in seconds.items():
        print(f"{name:8} {options.events / statistics.median(each):12,.0f} events per CPU-second")
    print(f"\nratios of rates, median of {options.rounds} rounds (range)")
    report("T1", "curb / decode only (>= 0.3)", seconds["decode"], seconds["curb"])
    report("T2", "curb / plain Python loop", seconds["naive"], seconds["curb"])
    if "river" in seconds:
        report("T5", "curb / River per event", seconds["river"], seconds["curb"])
    else:
        print("T5  not measured: river is not installed")


if __name__ == "__main__":
    main()
