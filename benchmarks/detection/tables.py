"""The tables of the benchmark: figures against the bars, kinds of incidents, methods side by side, what went wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.detection.bars import BARS, FIGURES, MORE_IS_BETTER, Figure, mean, verdict
from benchmarks.detection.measure import Result
from benchmarks.detection.streams import iso
from curb.evaluate.score import KindScore, Score, fired

_STYLE = {"target": "green", "gate": "yellow", "MISSED": "bold red"}


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    grouped: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        grouped[result.job.variant].append(result)
    return grouped


# --- tables -------------------------------------------------------------------------------------------------------


def variant_table(variant: str, results: list[Result]) -> Table:
    """One line per seed, then mean, range, gate and target."""
    table = Table("seed", *(figure.name for figure in FIGURES), title=f"{variant}: pages and notices", min_width=100)
    for result in results:
        table.add_row(str(result.job.seed), *(_shown(figure, figure.of(result)) for figure in FIGURES))
    table.add_section()
    table.add_row("mean", *(_marked(variant, figure, mean(figure, results)) for figure in FIGURES))
    if len(results) > 1:
        table.add_row("range", *(_range(figure, results) for figure in FIGURES))
    bars = BARS.get(variant, {})
    for i, name in enumerate(("gate", "target") if bars else ()):
        table.add_row(name, *(_bar(figure.name, bars, i) for figure in FIGURES), style="dim")
    return table


def _shown(figure: Figure, value: float | None) -> str:
    return "–" if value is None else format(value, figure.form)


def _marked(variant: str, figure: Figure, value: float | None) -> str:
    mark = "" if value is None else verdict(variant, figure.name, value)
    shown = _shown(figure, value)
    return f"[{_STYLE[mark]}]{shown} {mark}[/]" if mark else shown


def _range(figure: Figure, results: list[Result]) -> str:
    values = [value for value in map(figure.of, results) if value is not None]
    return f"{_shown(figure, min(values))}–{_shown(figure, max(values))}" if values else "–"


def _bar(name: str, bars: dict[str, tuple[float, float]], which: int) -> str:
    return "" if name not in bars else f"{'≥' if name in MORE_IS_BETTER else '≤'} {bars[name][which]:g}"


def kinds_table(grouped: dict[str, list[Result]]) -> Table:
    """Incidents by kind, pooled over seeds: caught, share of dollars lost, median minutes."""
    pooled: dict[str, dict[str, KindScore]] = defaultdict(lambda: defaultdict(KindScore))
    for variant, results in grouped.items():
        for result in results:
            for name, kind in result.both.kinds.items():
                pooled[name][variant].add(kind)
    with_incidents = [variant for variant in grouped if any(variant in kinds for kinds in pooled.values())]
    table = Table("kind", *with_incidents, title="by kind: caught, $ lost, median minutes")
    for name in sorted(pooled):
        table.add_row(name, *(_kind(pooled[name][variant]) for variant in with_incidents))
    return table


def _kind(kind: KindScore) -> str:
    if not kind.incidents:
        return "–"
    minutes = "–" if kind.median_minutes is None else f"{kind.median_minutes:,.0f}"
    return f"{kind.caught}/{kind.incidents}  {kind.lost_share or 0:.3f}  {minutes}"


# --- methods side by side -----------------------------------------------------------------------------------------


class Method(NamedTuple):
    """What one method scored on each stream."""

    name: str
    family: str
    scores: list[Score]

    def mean(self, figure: str) -> float | None:
        """The mean over streams of a figure of `Score.summary`."""
        values = [score.summary()[figure] for score in self.scores]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None


_COLUMNS = {
    "recall": ("recall", ".2f"),
    "exact_recall": ("exact", ".2f"),
    "usd_lost_share": ("$ lost", ".3f"),
    "noise_per_day": ("noise/day", ".2f"),
    "repeats": ("repeats", ".1f"),
    "median_minutes": ("median min", ".0f"),
}


def methods_table(variant: str, methods: Sequence[Method]) -> Table:
    """One line per method, the mean over streams."""
    streams = len(methods[0].scores)
    table = Table("method", *(title for title, _ in _COLUMNS.values()), "look-alikes")
    table.title = f"{variant}: methods side by side, mean of {streams}"
    for method in methods:
        cells = []
        for figure, (_, form) in _COLUMNS.items():
            value = method.mean(figure)
            cells.append("–" if value is None else format(value, form))
        flagged = sum(len(score.benign_flagged) for score in method.scores)
        cells.append(f"{flagged}/{sum(score.benign for score in method.scores)}")
        table.add_row(method.name, *cells, style="bold" if method.family == "Curb" else None)
    return table


# --- what went wrong ----------------------------------------------------------------------------------------------


def misses(result: Result) -> list[str]:
    """Missed incidents, those that cost most before they were caught, noise, flagged look-alikes."""
    lines = [f"== {result.job.variant} seed {result.job.seed}"]
    lost = sorted(result.both.outcomes, key=lambda outcome: -outcome.lost_usd)
    for outcome in lost:
        label, total = outcome.label, max(outcome.label.excess_usd, 1e-9)
        if outcome.caught_by is None:
            what = "MISSED"
        elif outcome.lost_usd > 0.1 * total and outcome.lost_usd > 10:
            told = result.interrupting[outcome.caught_by]
            what = f"late {(fired([told])[0].at - label.start) / 3600:.1f} h [{told['channel']}]"
        else:
            continue
        subject = " ".join(f"{name}={value}" for name, value in label.tags.items())
        lines.append(
            f"{what:28} {label.id:17} lost ${outcome.lost_usd:,.0f} of ${label.excess_usd:,.0f}  "
            f"{iso(label.start)}–{iso(label.end)}  {subject}"
        )
    lines += [f"NOISE  {_alert(result.interrupting[i])}" for i in result.both.noise]
    for label_id in result.both.benign_flagged:
        lines.append(f"FLAGGED {label_id}")
    return lines


def _alert(row: dict[str, Any]) -> str:
    tags = " ".join(f"{name}={value}" for name, value in row["tags"].items())
    return f"{row['fired_at']} {row['tier']} {row['kind']} [{row['channel']}] {tags}\n       {row['explanation']}"
