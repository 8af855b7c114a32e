"""Runs every benchmark with a target, one after the other, in some minutes: `python -m benchmarks`.

What was measured is printed, kept in `benchmarks/results.json` and drawn for the documentation. With `--only`
what the file had of other targets stays.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks import caps, daemon, dedupe, pipeline
from benchmarks.detection import tick
from benchmarks.detection.chart import write as write_picture
from benchmarks.results import PICTURE, Measured, kept, picture, write

_SERIES, _MANY_SERIES = 10_000, 100_000


def ticks() -> list[Measured]:
    """One tick of everything, in rounds with fewer series."""
    rounds = [(tick.measure(1_000, tick.Load()), tick.measure(_SERIES, tick.Load())) for _ in range(5)]
    flat = [(many.tick_ms / _SERIES) / (few.tick_ms / 1_000) for few, many in rounds]
    return [
        Measured("T7", "one tick, 10,000 series, CPU", [many.tick_ms for _, many in rounds], " ms", at_most=50),
        Measured("T7 flat", "the same by series ÷ that of 1,000 series", flat, at_most=1),
    ]


def caps_on_time() -> list[Measured]:
    """Hard caps at both rates; each 99th percentile is of about a hundred caps."""
    found = []
    for per_second in (100, 2_000):
        words = f"event accepted to its cap's alert, p99, {per_second:,}/s"
        value = caps.p99(asyncio.run(caps.measure(per_second, 30.0)))
        found.append(Measured(f"T9 at {per_second:,}", words, [value], " s", at_most=2))
    return found


def memory() -> list[Measured]:
    """Processes of their own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        many = pool.submit(tick.resident_mib, _MANY_SERIES).result()
    return [
        Measured("T10", "memory of a detector with 100,000 series", [many], " MiB", at_most=700),
        Measured("T10 idle", "memory of the idle daemon", [daemon.main([])], " MiB", at_most=250),
    ]


def quiet_backlog() -> list[Measured]:
    """A daemon that finds usage on its log."""
    values = [asyncio.run(caps.backlog(300_000)) for _ in range(3)]
    return [Measured("T12", "300,000 events of a quiet source, time ÷ CPU", values, at_most=2)]


def overlap() -> list[Measured]:
    """A backfill that sends 15 minutes again after a restart."""
    twice = dedupe.main(["--hours", "0.35", "--per-second", "4000", "--overlap-minutes", "15"])
    return [Measured("T13", "events of a 15-minute overlap counted twice", [twice], at_most=0)]


#: The targets of each part, and what measures them.
PARTS: dict[str, Callable[[], list[Measured]]] = {
    "T1 T2 T5 T6": lambda: pipeline.main([]),
    "T7": ticks,
    "T9": caps_on_time,
    "T10": memory,
    "T12": quiet_backlog,
    "T13": overlap,
}


def main() -> None:
    """Each part with its defaults; run one as a module of its own for its options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names_of = [name for names in PARTS for name in names.split()]
    parser.add_argument(
        "--only", nargs="+", choices=names_of, default=[], help="targets, and what is measured with them"
    )
    only = set(parser.parse_args().only)
    found: dict[str, Measured] = {each.name: each for each in kept()} if only else {}
    for names, part in PARTS.items():
        if only and not only & set(names.split()):
            continue
        print(f"\n# {names}\n", flush=True)
        found |= {each.name: each for each in part()}
    ordered = sorted(found.values(), key=lambda each: int(each.name.split()[0][1:]))
    print("\n# Targets: median (range), gate\n")
    for each in ordered:
        print(each.line)
    write(ordered)
    write_picture(picture(ordered), PICTURE)


if __name__ == "__main__":
    main()
