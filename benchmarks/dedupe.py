"""How long the window of ids is, what it costs an id, and whether a backfill's overlap counts once, at a given rate.

Run `python -m benchmarks.dedupe`. Two sets of strings, which forget by count, are timed beside it in the same run, so
the ratio holds on a busy machine.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from curb.detector.rollup.dedupe import DedupeSettings, RecentIds, SavedIds

#: Ids of one call: what a message of the daemon holds at most, twice.
BATCH = 1000
#: Ids in the two sets of the comparison.
SETS = 2_000_000


class TwoSets:
    """Ids in two generations of sets, forgotten by count."""

    def __init__(self) -> None:
        self._young, self._old = set[str](), set[str]()

    def known(self, ids: list[str]) -> int:
        """How many of the ids are known; remembers all."""
        known = self._young.intersection(ids) | self._old.intersection(ids)
        self._young.update(ids)
        if len(self._young) >= SETS // 2:
            self._old, self._young = self._young, set()
        return len(known)


def batch(rng: random.Random) -> list[str]:
    """New ids as gateways make them."""
    return [f"chatcmpl-{rng.getrandbits(96):024x}" for _ in range(BATCH)]


def known(ids: RecentIds, names: list[str], at: float) -> int:
    """How many of the ids are known, as the rollup asks."""
    if ids.is_due(at):
        ids.begin_slice(at)
    ids.offer(len(names))
    new = ids.first_seen(names)
    return 0 if new is None else len(names) - int(np.count_nonzero(new))


def fill(hours: float, per_second: int, overlap_s: float, directory: Path) -> tuple[RecentIds, list[list[str]], float]:
    """A window at the rate, with the ids of the last `overlap_s` and the time it has come to."""
    rng, ids, sets = random.Random(1), RecentIds(DedupeSettings(), "bench", directory), TwoSets()
    total = int(hours * 3600 * per_second)
    recent: list[list[str]] = []
    taken: dict[str, list[float]] = {"runs": [], "sets": []}
    for done in range(0, total, BATCH):
        names, at = batch(rng), done / per_second
        before = time.process_time()
        wrong = known(ids, names, at)
        between = time.process_time()
        sets.known(names)
        taken["runs"].append(between - before)
        taken["sets"].append(time.process_time() - between)
        assert not wrong, "an id that never came was taken for another"
        if done >= total - overlap_s * per_second:
            recent.append(names)
    for name, each in taken.items():
        mean, tail = sum(each) / total * 1e6, statistics.quantiles(each[-len(each) // 4 :], n=100)[98] * 1e3
        print(f"{name}: {mean:.2f} µs an id, the longest call {max(each) * 1e3:.0f} ms, 99 % under {tail:.1f} ms")
    print(f"ratio {sum(taken['runs']) / sum(taken['sets']):.2f}")
    return ids, recent, total / per_second


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a window, send the overlap again, snapshot and restore. How many counted twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--per-second", type=int, default=4000)
    parser.add_argument("--overlap-minutes", type=float, default=15.0)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        ids, recent, at = fill(args.hours, args.per_second, 60 * args.overlap_minutes, Path(directory))
        print(f"{len(ids):,} ids, window {ids.window_s(at) / 3600:.2f} h of {args.hours:g} h")
        before = time.process_time()
        snapshot = msgspec.msgpack.encode(ids.dump())
        took_s = time.process_time() - before
        on_disk = sum(path.stat().st_size for path in Path(directory).iterdir())
        print(f"snapshot {len(snapshot) / 1e6:.1f} MB in {took_s * 1e3:.0f} ms, files {on_disk / 1e6:.0f} MB")
        again, before = RecentIds(DedupeSettings(), "bench", Path(directory)), time.process_time()
        again.load(msgspec.msgpack.decode(snapshot, type=SavedIds), at)
        print(f"restored in {(time.process_time() - before) * 1e3:.0f} ms")
        sent = sum(map(len, recent))
        twice = sent - sum(known(again, names, at) for names in recent)
        print(f"overlap sent again: {twice:,} of {sent:,} counted twice")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, with the overlap in it")
    return twice


if __name__ == "__main__":
    main()
