"""The tables of the benchmark in Markdown, made from saved results, and put between their markers in pages."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.detection.bars import BARS, FIGURES, MORE_IS_BETTER, verdict

#: `<!-- table: NAME -->` … `<!-- end -->`
MARKED = re.compile(r"(<!-- table: ([a-z0-9 -]+) -->\n).*?(<!-- end -->)", re.S)
#: What a figure is called in a table, and how it is written. CPU seconds are of the machine, not of the detector.
COLUMNS = tuple(figure for figure in FIGURES if figure.name != "CPU s")
_LATE_SHARE, _LATE_USD = 0.1, 10.0

Streams = Sequence[Mapping[str, Any]]
Rows = list[tuple[str, ...]]


def fill(page: Path, tables: Mapping[str, str]) -> list[str]:
    """Write the tables between their markers; the names of those without one, which stay."""
    text = page.read_text(encoding="utf-8")
    missing = [name for _, name, _ in MARKED.findall(text) if name not in tables]

    def replaced(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}\n{tables[name]}\n\n{end}" if name in tables else found.group(0)

    page.write_text(MARKED.sub(replaced, text), encoding="utf-8")
    return missing


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def detection_tables(found: Mapping[str, Any]) -> dict[str, str]:
    """All tables of `python -m benchmarks.detection --json`."""
    grouped: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for stream in found["streams"]:
        grouped[stream["variant"]].append(stream)
    made = {"variants": variants(grouped), "kinds": kinds(grouped)}
    for variant, streams in grouped.items():
        made[f"misses {variant}"] = misses(streams)
    for variant, methods in found["methods"].items():
        made[f"peers {variant}"] = peers(methods)
    if found["methods"]:
        made["readme"] = in_short(next(iter(found["methods"].values())))
        made["peers"] = peers_by_variant(found["methods"])
    return made


# --- Curb alone ---------------------------------------------------------------------------------------------------


def variants(grouped: Mapping[str, Streams]) -> str:
    """Mean and range of every figure on every variant, and what it is held to."""
    rows: Rows = []
    for variant, streams in grouped.items():
        values = {
            figure.name: [v for stream in streams if (v := stream["figures"][figure.name]) is not None]
            for figure in COLUMNS
        }
        rows.append(
            (f"**{variant}**, {len(streams)}", "mean", *(_mean(variant, f.name, values, f.form) for f in COLUMNS))
        )
        if len(streams) > 1:
            rows.append(("", "range", *(_range(values[figure.name], figure.form) for figure in COLUMNS)))
        if bars := BARS.get(variant):
            rows.append(("", "gate · target", *(_bar(bars, figure.name) for figure in COLUMNS)))
    return table(("variant, streams", "", *(figure.name for figure in COLUMNS)), rows)


def _mean(variant: str, name: str, values: Mapping[str, Sequence[float]], form: str) -> str:
    if not values[name]:
        return "–"
    mean = fmean(values[name])
    mark = verdict(variant, name, mean)
    shown = format(mean, form)
    return f"{shown} **missed**" if mark == "MISSED" else f"**{shown}**" if mark else shown


def _range(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}}–{max(values):{form}}" if values else "–"


def _bar(bars: Mapping[str, tuple[float, float]], name: str) -> str:
    if name not in bars:
        return ""
    gate, target = bars[name]
    return f"{'≥' if name in MORE_IS_BETTER else '≤'} {gate:g} · {target:g}"


def kinds(grouped: Mapping[str, Streams]) -> str:
    """Incidents by kind, pooled over the streams of a variant: caught of all, dollars lost, median minutes."""
    shown = {variant: streams for variant, streams in grouped.items() if any(stream["kinds"] for stream in streams)}
    names = sorted({name for streams in shown.values() for stream in streams for name in stream["kinds"]})
    rows = [(name.replace("_", " "), *(_kind(streams, name) for streams in shown.values())) for name in names]
    return table(("kind", *shown), rows)


def _kind(streams: Streams, name: str) -> str:
    parts = [stream["kinds"][name] for stream in streams if name in stream["kinds"]]
    incidents, caught = (sum(part[key] for part in parts) for key in ("incidents", "caught"))
    if not incidents:
        return "–"
    lost = sum(part["lost_usd"] for part in parts) / max(sum(part["total_usd"] for part in parts), 1e-9)
    minutes = sorted(minute for part in parts for minute in part["minutes"])
    return f"{caught}/{incidents} · {lost:.1%} · " + (duration(minutes[len(minutes) // 2]) if minutes else "never")


def duration(minutes: float) -> str:
    """90 min, 5 h, 3.2 d; NaN is never."""
    if math.isnan(minutes):
        return "never"
    return (
        f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.0f} h"
        if minutes < 2880
        else f"{minutes / 1440:.1f} d"
    )


def misses(streams: Streams) -> str:
    """What went wrong: missed and late incidents, dearest first, noise, flagged look-alikes."""
    rows: list[tuple[float, tuple[str, ...]]] = []
    for stream in streams:
        seed = str(stream["seed"])
        for each in stream["incidents"]:
            lost, total, told = each["lost_usd"], each["excess_usd"], each["told"]
            if told is None or (lost > _LATE_SHARE * total and lost > _LATE_USD):
                what = "**missed**" if told is None else f"after {duration(told['minutes'])} ({told['channel']})"
                rows.append((-lost, (each["id"], seed, what, f"${lost:,.0f} of ${total:,.0f}")))
        rows += [(1.0, (_noise(each), seed, "on nothing", "")) for each in stream["noise"]]
        rows += [(2.0, (each, seed, "a look-alike, reported", "")) for each in stream["flagged"]]
    if not rows:
        return "Nothing was missed, late, or told for nothing."
    return table(("what", "seed", "", "lost"), [row for _, row in sorted(rows)])


def _noise(row: Mapping[str, Any]) -> str:
    over = (row["actual_usd"] or 0.0) - (row["expected_usd"] or 0.0)
    return f"{row['tier']} {row['kind']} ({row['channel']}), ${over:,.0f} over"


# --- beside others ------------------------------------------------------------------------------------------------

_METHOD_COLUMNS: dict[str, tuple[str, str]] = {
    "recall": ("recall", ".2f"),
    "exact_recall": ("exact", ".2f"),
    "usd_lost_share": ("$ lost", ".3f"),
    "noise_per_day": ("noise/day", ".2f"),
    "repeats": ("repeats", ".1f"),
    "median_minutes": ("median min", ".0f"),
}


def peers(methods: Sequence[Mapping[str, Any]]) -> str:
    """One line per method, the mean over streams."""
    rows = [
        (
            _method(method),
            *(number(method[name], form) for name, (_, form) in _METHOD_COLUMNS.items()),
            f"{method['benign_flagged']}/{method['benign']}",
        )
        for method in methods
    ]
    return table(("method", *(title for title, _ in _METHOD_COLUMNS.values()), "look-alikes"), rows)


#: The methods that people know best.
_IN_SHORT = ("Curb", "hour > 3x day before, $2", "LiteLLM: today > 3x week, $10", "Prophet 99.5 %, hourly, $2")


def in_short(methods: Sequence[Mapping[str, Any]]) -> str:
    """A few methods, for who reads one table only."""
    rows = [
        (
            _method(method),
            number(method["recall"], ".0%"),
            number(method["usd_lost_share"], ".1%"),
            number(method["noise_per_day"], ".1f"),
            duration(method["median_minutes"]),
        )
        for method in methods
        if method["method"] in _IN_SHORT
    ]
    head = (
        "mean of all streams",
        "incidents found",
        "share of their cost spent before the alert",
        "false alerts a day",
        "median delay",
    )
    return table(head, rows)


def peers_by_variant(by_variant: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Recall, share of dollars lost and noise a day of every method on every variant."""
    found = {variant: {method["method"]: method for method in methods} for variant, methods in by_variant.items()}
    first = next(iter(by_variant.values()))
    rows = [(_method(method), *(_three(methods[method["method"]]) for methods in found.values())) for method in first]
    return table(("method", *found), rows)


def _method(method: Mapping[str, Any]) -> str:
    name = str(method["method"]).replace("*", "\\*")
    return f"**{name}**" if method["family"] == "Curb" else name


def _three(method: Mapping[str, Any]) -> str:
    figures = (
        (method[name], form) for name, form in (("recall", ".2f"), ("usd_lost_share", ".1%"), ("noise_per_day", ".1f"))
    )
    return " · ".join(number(value, form) for value, form in figures)


# --- what each part adds ------------------------------------------------------------------------------------------


def ablation(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`python -m benchmarks.detection.ablation --json`, one table a variant; what differs from the shipped is bold."""
    made = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        shipped = mine[0]

        def cell(row: Mapping[str, Any], name: str, form: str, usual: Mapping[str, Any] = shipped) -> str:
            shown = number(row[name], form)
            return shown if shown == number(usual[name], form) else f"**{shown}**"

        lines = [(str(row["without"]), *(cell(row, f.name, f.form) for f in COLUMNS)) for row in mine]
        made[f"ablation {variant}"] = table(("", *(figure.name for figure in COLUMNS)), lines)
    return made


#: By the name of the file of results, without its ending: what makes tables of it.
MAKERS: dict[str, Callable[[Any], dict[str, str]]] = {"detection": detection_tables, "ablation": ablation}
