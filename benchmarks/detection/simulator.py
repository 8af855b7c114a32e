"""The shipped head and classic rules on simulated spend: `python -m benchmarks.detection.simulator`.

Seeds below 1,000 are for tuning; figures that are told to anybody come from seeds of 40,000 and more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.detection.simulator_growth import GrowthLedger, GrowthResult
from benchmarks.detection.simulator_methods import (
    HEAD,
    METHODS,
    PAGE,
    SHIPPED,
    UNIT,
    UNIT_COST_THRESHOLD,
    Head,
    Rivals,
    Scored,
)
from benchmarks.detection.simulator_score import FAST, Excess, Ledger, Result
from benchmarks.detection.simulator_traffic import DAYS, Traffic
from curb.detector.heads.past import ScoreSettings

#: False alarms per series and month.
RATES = (1.0, 0.3, 0.1, 0.03)
_SHOWN_RATE = 0.3


@dataclass
class Outcome:
    """Everything that one run says."""

    series: int
    seed: int
    #: By method and rate; and at the thresholds that ship.
    at_rate: dict[str, dict[float, Result]]
    shipped: dict[str, Result]
    growth: GrowthResult
    cpu_s: float


def run(series: int, seed: int, settings: ScoreSettings, tell: Callable[[int], None] = lambda _: None) -> Outcome:
    """Simulate and score; `tell` hears of every day that is done."""
    began = time.process_time()
    traffic = Traffic(series, seed)
    head, rivals, excess = Head(traffic, settings), Rivals(traffic), Excess(traffic)
    ledgers, growth = {name: Ledger(traffic) for name in METHODS}, GrowthLedger(traffic)
    for day in traffic.days():
        excess.add(day)
        growth.add(day)
        scored: Scored = head.day(day) | rivals.day(day)
        for name, ledger in ledgers.items():
            ledger.add(day.number, scored[name])
        tell(day.number + 1)
    at_rate = {
        name: {rate: ledger.result(ledger.threshold(rate), excess) for rate in RATES}
        for name, ledger in ledgers.items()
    }
    shipped = {
        name: ledgers[method].result(threshold, excess)
        for name, method, threshold in (
            (SHIPPED, SHIPPED, 0.0),
            (f"{HEAD}, notice", HEAD, settings.notice_threshold),
            (f"{HEAD}, digest", HEAD, settings.digest_threshold),
            (UNIT, UNIT, UNIT_COST_THRESHOLD),
            (PAGE, PAGE, settings.page_threshold),
        )
    }
    return Outcome(series, seed, at_rate, shipped, growth.result(), time.process_time() - began)


def _cell(result: Result, kind: str) -> str:
    return f"{result.recall[kind]:.2f}/{result.minutes[kind]:.0f}/{result.leak[kind]:.2f}"


def _detail(title: str, results: dict[str, Result]) -> Table:
    table = Table(title=title)
    for name in ("method", "threshold", "false alarms", *FAST, "creep", "launches", "macro recall/leak"):
        table.add_column(name)
    for name, result in results.items():
        recall, leak = result.macro
        cells = [_cell(result, kind) for kind in (*FAST, "creep")]
        table.add_row(
            name,
            f"{result.threshold:.2f}",
            f"{result.false_alarms:.3f}",
            *cells,
            f"{result.launches:.2f}",
            f"{recall:.2f}/{leak:.2f}",
        )
    return table


def tables(outcome: Outcome) -> list[Table]:
    """What people see."""
    shown = {name: results[_SHOWN_RATE] for name, results in outcome.at_rate.items()}
    counts = next(iter(shown.values())).count
    about = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    macro = Table(title="mean recall/leak of the five fast types at equal false alarms per series-month")
    macro.add_column("method")
    for rate in RATES:
        macro.add_column(f"<= {rate:g}")
    for name, results in outcome.at_rate.items():
        cells = ["{:.2f}/{:.2f}".format(*results[rate].macro) for rate in RATES]
        macro.add_row(name, *cells)
    return [
        _detail(f"recall/median minutes/leak at <= {_SHOWN_RATE} false alarms per series-month ({about})", shown),
        macro,
        _detail("at the shipped thresholds", outcome.shipped),
    ]


def growth_line(growth: GrowthResult) -> str:
    """The growth rule in words."""
    kinds = ", ".join(f"{name} {share:.2f} of {count}" for name, (count, share) in growth.by_kind.items())
    return (
        f"growth rule: {growth.by_day_20:.2f} of {growth.count} creeps of 3 % a day by day 20 ({kinds}), "
        f"{growth.recall:.2f} by day 28, median day {growth.median_day:.0f}; {growth.false_alarms:.3f} false alarms "
        f"per series-month; {growth.launches:.2f} of launches are named growth"
    )


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The same for programs."""
    return asdict(outcome) | {
        "at_rate": {
            name: {str(rate): asdict(result) | {"macro": result.macro} for rate, result in results.items()}
            for name, results in outcome.at_rate.items()
        },
        "shipped": {name: asdict(result) | {"macro": result.macro} for name, result in outcome.shipped.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection.simulator", description=__doc__)
    parser.add_argument("--series", type=int, default=200, help="each counts twice: without and with an incident")
    parser.add_argument("--seed", type=int, default=40_000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=DAYS)
        outcome = run(options.series, options.seed, ScoreSettings(), lambda days: progress.update(task, completed=days))
    if options.json:
        print(json.dumps(as_json(outcome), indent=1))
        return
    console = Console(width=None if Console().is_terminal else 200)
    console.print(f"{options.series} series of 28 days, twice; seed {options.seed}; {outcome.cpu_s:.0f} CPU seconds")
    for table in tables(outcome):
        console.print(table)
    console.print(growth_line(outcome.growth))


if __name__ == "__main__":
    main()
