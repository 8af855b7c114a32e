"""The tables in Markdown of the benchmarks beside the real traces: NAB, simulated spend, forecasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.detection.markdown import duration, number, table

_PROFILES = ("standard", "low FP", "low FN")
_SHOWN_RATE = "0.3"

Json = Mapping[str, Any]


# --- NAB ----------------------------------------------------------------------------------------------------------


def nab(found: Json) -> dict[str, str]:
    """`python -m benchmarks.nab --json`; with --cross-validate and --sensitivity a sentence each."""
    detectors: dict[str, Json] = found["detectors"]
    ours = next(iter(detectors.values()))
    rows = [(f"**{name}**" if each is ours else name, *_nab_cells(each)) for name, each in detectors.items()]
    categories = [
        (category, *_nab_cells({profile: ours[profile]["categories"][category] for profile in _PROFILES}))
        for category in ours["standard"]["categories"]
    ]
    columns = (*_PROFILES, "windows hit", "FP points")
    made = {"nab": table(("detector", *columns), rows), "nab categories": table(("category", *columns), categories)}
    said = []
    if rows_moved := found.get("sensitivity"):
        scores = [row["score"] for row in rows_moved]
        worst = min(rows_moved, key=lambda row: float(row["score"]))
        said.append(
            f"* Each parameter moved one grid step both ways ({len(scores)} runs): worst {worst['score']:.1f} "
            f"(`{worst['parameter']}` {worst['value']:g}), mean {sum(scores) / len(scores):.1f}."
        )
    if halves := found.get("cross_validation"):
        said.append(
            f"* Threshold chosen on one half of the series, score of the other half, {halves['halves']} halves: mean "
            f"{halves['mean']:.1f}, from {halves['least']:.1f} to {halves['greatest']:.1f}; each half with the "
            f"threshold that is best for itself: {halves['mean_with_own_threshold']:.1f}."
        )
    if said:
        made["nab robustness"] = "\n".join(said)
    return made


def _nab_cells(by_profile: Mapping[str, Json]) -> tuple[str, ...]:
    standard = by_profile["standard"]
    scores = (number(by_profile[profile]["score"], ".1f") for profile in _PROFILES)
    return (*scores, f"{standard['windows_hit']} of {standard['windows']}", str(standard["false_positives"]))


# --- simulated spend ----------------------------------------------------------------------------------------------


def simulator(found: Json) -> dict[str, str]:
    """`python -m benchmarks.detection.simulator --json`."""
    at_rate: dict[str, dict[str, Json]] = found["at_rate"]
    rates = list(next(iter(at_rate.values())))
    equal = {name: results[_SHOWN_RATE] for name, results in at_rate.items()}
    rows = [(name, *(_pair(results[rate]["macro"]) for rate in rates)) for name, results in at_rate.items()]
    growth = found["growth"]
    sentence = (
        f"A growth rule on daily sums (3 % a day) would see {growth['by_day_20']:.2f} of {growth['count']} creeps by "
        f"day 20 and {growth['recall']:.2f} by day 28, with {growth['false_alarms']:.3f} false alarms per series-month."
    )
    return {
        "simulator": _simulated(equal, with_alarms=False),
        "simulator rates": table(("method", *(f"≤ {float(rate):g}" for rate in rates)), rows),
        "simulator shipped": _simulated(found["shipped"], with_alarms=True),
        "simulator growth": sentence,
    }


def _simulated(results: Mapping[str, Json], *, with_alarms: bool) -> str:
    """Recall · median minutes · share of dollars leaked, by type of incident."""
    kinds = list(next(iter(results.values()))["recall"])
    rows = []
    for name, each in results.items():
        alarms = (f"{each['false_alarms']:.3f}",) if with_alarms else ()
        rows.append((name, *alarms, *(_triple(each, kind) for kind in kinds), _pair(each["macro"])))
    head = ("method", *(("false alarms",) if with_alarms else ()), *kinds, "mean of the first five")
    return table(head, rows)


def _triple(result: Json, kind: str) -> str:
    return f"{result['recall'][kind]:.2f} · {duration(result['minutes'][kind])} · {result['leak'][kind]:.2f}"


def _pair(macro: Sequence[float]) -> str:
    return f"{macro[0]:.2f} · {macro[1]:.2f}"


# --- forecasts ----------------------------------------------------------------------------------------------------


def month_end(rows: Sequence[Json]) -> dict[str, str]:
    """`python -m benchmarks.detection.month_end --json`: mean absolute error in percent by day; how often it held."""
    days = sorted({row["day"] for row in rows})
    lines = []
    for kind in dict.fromkeys(row["series"] for row in rows):
        mine = [row for row in rows if row["series"] == kind]
        periods = sum(row["forecasts"] for row in mine if row["method"] == "Curb") // len(days)
        for method in dict.fromkeys(row["method"] for row in mine):
            by_day = {row["day"]: row for row in mine if row["method"] == method}
            held = [by_day[day]["coverage"] for day in days]
            ours = method == "Curb"
            shown = (f"{kind} ({periods})" if ours else "", f"**{method}**" if ours else method)
            covered = "" if held[0] is None else ", ".join(f"{100 * share:.0f}" for share in held) + " %"
            lines.append((*shown, *(f"{by_day[day]['mape']:.1f}" for day in days), covered))
    return {"forecasts": table(("series (periods)", "method", *(f"day {day}" for day in days), "interval held"), lines)}
