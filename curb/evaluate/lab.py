"""For notebooks: try detector settings on a recording whose incidents are known, and compare what each would have cost.

    from curb.evaluate import lab
    recording = lab.load(Path("recording"))
    outcomes = lab.sweep(recording, [0, 1, 2, 4, 8])
    print(lab.table(outcomes))
    print(lab.yaml_patch(lab.best(outcomes, noise_per_day=1.0)))

A recording is a directory with `events.jsonl.gz` and `incidents.jsonl`: see `load`. Times are epoch seconds UTC, money
is US dollars, noise is alerts a day.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track

from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.detector.heads.past import ScoreSettings
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import AlertLife, events_file, replay
from curb.evaluate.score import GRACE_S, Fired, Label, LabelledStream, score
from curb.stream.time import DAY_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Colours that stay apart for the colour-blind, and a mark each for print.
_STYLES = (("#0072B2", "o-"), ("#D55E00", "s--"), ("#009E73", "^:"), ("#CC79A7", "d-."))


class KnownIncident(NamedTuple):
    """Something that really went wrong: whose tags, when, and what it cost in all."""

    tags: dict[str, str]
    start: float
    end: float
    usd: float


class Recording(NamedTuple):
    """A stream with its known incidents. Incidents and alerts of the first `warmup_days` do not count."""

    path: Path
    incidents: list[KnownIncident]
    start: float
    end: float
    warmup_days: float = 3.0

    @property
    def counts_from(self) -> float:
        return self.start + self.warmup_days * DAY_S


class Trial(NamedTuple):
    """The result of one set of score settings on one recording."""

    score: ScoreSettings
    #: Share of incidents that raised an alert in time.
    recall: float
    #: Share of the incidents' dollars spent before the alert, the burn taken as even.
    usd_lost_share: float
    #: Alerts a day that belong to no incident.
    noise_per_day: float
    #: Minutes from the start of an incident to its alert, over those found; None when none was.
    median_minutes: float | None
    alerts: int

    @property
    def threshold(self) -> float:
        return self.score.notice_threshold


# --- recordings ---------------------------------------------------------------------------------------------------


class IncidentLine(msgspec.Struct):
    """A line of incidents.jsonl; `usd` is dollars in all."""

    tags: dict[str, str]
    start: datetime
    end: datetime
    usd: float

    def incident(self) -> KnownIncident:
        return KnownIncident(self.tags, self.start.timestamp(), self.end.timestamp(), self.usd)


def load(directory: Path, warmup_days: float = 3.0) -> Recording:
    """A recording from disk: events.jsonl(.gz) in the event-stream format, and incidents.jsonl with one object a line:
    `{"tags": {...}, "start": "<RFC 3339>", "end": "<RFC 3339>", "usd": 123.4}`.

    Raises FileNotFoundError, ValueError (msgspec's ValidationError and DecodeError are such)."""
    lines = (directory / "incidents.jsonl").read_bytes().splitlines()
    incidents = [msgspec.json.decode(line, type=IncidentLine).incident() for line in lines if line.strip()]
    for incident in incidents:
        if incident.end <= incident.start or not incident.tags:
            raise ValueError(f"an incident needs tags and an end after its start: {incident}")
    start, end = _span(events_file(directory))
    return Recording(directory, incidents, start, end, warmup_days)


def _span(file: Path) -> tuple[float, float]:
    """When the first and the last event began."""
    first, last = math.inf, -math.inf
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        while chunk := lines.readlines(1 << 20):
            batch = parse_event_stream(chunk, source="lab", location=file.name)
            starts = [record.charge_period_start for record in batch.records]
            first, last = min([first, *starts]), max([last, *starts])
    if last < first:
        raise ValueError(f"{file} holds no event")
    return first, last


# --- outcomes -----------------------------------------------------------------------------------------------------


def sweep(recording: Recording, thresholds: Sequence[float], settings: DetectorSettings | None = None) -> list[Trial]:
    """Back-test the recording once per notice threshold, everything else as in `settings` (by default the shipped)."""
    settings = settings or DetectorSettings()
    outcomes = []
    for threshold in _with_progress(thresholds):
        tried = settings.score.model_copy(update={"notice_threshold": float(threshold)})
        found = replay(recording.path, settings.model_copy(update={"score": tried}))
        outcomes.append(judge(recording, tried, list(found.alerts.values())))
    return outcomes


def _with_progress(thresholds: Sequence[float]) -> Iterator[float]:
    if not Console().is_jupyter:
        yield from track(thresholds, "back-testing", console=Console(stderr=True), transient=True)
        return
    # Rich draws in notebooks only where ipywidgets is installed; IPython's own bar needs nothing.
    from IPython.display import ProgressBar

    bar = ProgressBar(len(thresholds))  # type: ignore[no-untyped-call]
    bar.display()  # type: ignore[no-untyped-call]
    for number, threshold in enumerate(thresholds, 1):
        yield threshold
        bar.progress = number


def judge(recording: Recording, settings: ScoreSettings, alerts: Sequence[AlertLife]) -> Trial:
    """Compare alerts with the known incidents; what went to the digest interrupted nobody and is left out.

    An alert belongs to an incident if it opened, or rose to a page, from the incident's start to an hour after its end,
    and its tags agree: at least one is the incident's, none contradicts. An alert that opened before
    notifies nobody again, so it is noise and the incident is missed.
    """
    counted = [a for a in alerts if a.tier in ("notice", "page") and a.first.fired_at >= recording.counts_from]
    labels = [_label(each, at) for at, each in enumerate(recording.incidents) if each.start >= recording.counts_from]
    found = score(
        LabelledStream(recording.start, recording.end, 0, tuple(labels)),
        [Fired(a.first.fired_at, a.last.tags, a.paged_at) for a in counted],
        recording.warmup_days,
        GRACE_S,
        _agrees,
    )
    pooled = found.all_kinds
    return Trial(
        score=settings,
        recall=pooled.recall or 0.0,
        usd_lost_share=pooled.lost_share or 0.0,
        noise_per_day=found.noise_per_day,
        median_minutes=median(pooled.minutes) if pooled.minutes else None,
        alerts=len(counted),
    )


def _label(known: KnownIncident, number: int) -> Label:
    """The incident as a label whose dollars are spread evenly."""
    return Label(
        id=f"incident-{number}",
        kind="incident",
        label="incident",
        tags=known.tags,
        start=known.start,
        end=known.end,
        excess_usd=known.usd,
        windows=(),
        truth_at=None,
        truth_usd=np.zeros(0),
    )


def _agrees(label: Label, tags: Mapping[str, str]) -> bool:
    """True when a tag is the incident's and none contradicts it."""
    shared = tags.keys() & label.tags.keys()
    return bool(shared) and all(tags[name] == label.tags[name] for name in shared)


def best(outcomes: Sequence[Trial], noise_per_day: float = 1.0) -> Trial:
    """The outcome that loses the fewest dollars within the noise people accept; the quietest when none is within it.

    Of equals the highest threshold: it leaves the most room for days that are not in the recording."""
    accepted = [o for o in outcomes if o.noise_per_day <= noise_per_day]
    if not accepted:
        return min(outcomes, key=lambda o: (o.noise_per_day, o.usd_lost_share, -o.threshold))
    return min(accepted, key=lambda o: (o.usd_lost_share, o.noise_per_day, -o.threshold))


def yaml_patch(outcome: Trial) -> str:
    """Lines for curb.yaml: the notice threshold, and every score setting that differs from the shipped one."""
    settings = {"notice_threshold": outcome.threshold, **outcome.score.model_dump(mode="json", exclude_defaults=True)}
    lines = [f"    {name}: {json.dumps(value)}\n" for name, value in settings.items()]
    return "detector:\n  score:\n" + "".join(lines)


# --- showing ------------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Trial]) -> str:
    """A Markdown table, one row per threshold."""
    rows = [
        "| threshold | incidents found | dollars lost before the alert | false alerts a day | minutes to alert |",
        "|---:|---:|---:|---:|---:|",
    ]
    for o in outcomes:
        minutes = "–" if o.median_minutes is None else f"{o.median_minutes:.1f}"
        rows.append(
            f"| {o.threshold:g} | {o.recall:.0%} | {o.usd_lost_share:.1%} | {o.noise_per_day:.1f} | {minutes} |"
        )
    return "\n".join(rows)


def chart(sweeps: Mapping[str, Sequence[Trial]]) -> Figure:
    """Recall and dollars lost against noise: one line per sweep, by name, and one point per threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, field, label in zip(
        figure.subplots(1, 2),
        ("recall", "usd_lost_share"),
        ("incidents found", "dollars lost before the alert"),
        strict=True,
    ):
        for number, (name, outcomes) in enumerate(sweeps.items()):
            colour, style = _STYLES[number % len(_STYLES)]
            points = [(o.noise_per_day, getattr(o, field)) for o in outcomes]
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name, markersize=5)
            # Sweeps often share a point: their labels stand on either side of it.
            offset, side = ((-7, -3), "right") if number % 2 == 0 else ((6, 4), "left")
            for at, text in _labels(outcomes, field).items():
                axes.annotate(text, at, offset, textcoords="offset points", fontsize=8, color=colour, ha=side)
        axes.set_xlabel("false alerts a day")
        axes.set_ylabel(f"share of {label}")
        axes.margins(x=0.2)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
    figure.suptitle("What a notice threshold finds, loses and disturbs; numbers are thresholds")
    return figure


def _labels(outcomes: Sequence[Trial], field: str) -> dict[tuple[float, float], str]:
    """Thresholds by place in the chart, (noise, value); those too close for two labels share one."""
    places: dict[tuple[float, float], list[Trial]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.threshold):
        place = round(outcome.noise_per_day, 1), round(getattr(outcome, field) * 40)
        places.setdefault(place, []).append(outcome)
    labels = {}
    for each in places.values():
        first, last = each[0], each[-1]
        text = f"{first.threshold:g}" if first is last else f"{first.threshold:g} to {last.threshold:g}"
        labels[first.noise_per_day, getattr(first, field)] = text
    return labels
