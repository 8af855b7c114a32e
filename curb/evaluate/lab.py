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
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import track

from curb.connectors.tokens.usage_jsonl import parse_event_stream
from curb.demo.incident import AgentLoop, LoopRun
from curb.demo.trace import Key, Request, Trace, as_event
from curb.detector.heads.past import ScoreSettings
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import AlertLife, events_file, replay
from curb.stream.time import DAY_S

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: An alert up to this long after an incident still belongs to it.
_AFTER_S = 3600.0
#: Colours that stay apart for the colour-blind, and a mark each for print.
_STYLES = (("#0072B2", "o-"), ("#D55E00", "s--"), ("#009E73", "^:"), ("#CC79A7", "d-."))


class Incident(NamedTuple):
    """Something that really went wrong: whose tags, when, and what it cost in all."""

    tags: dict[str, str]
    start: float
    end: float
    usd: float


class Recording(NamedTuple):
    """A stream with its known incidents. Alerts and incidents of the first `warmup_days` do not count."""

    path: Path
    incidents: list[Incident]
    start: float
    end: float
    warmup_days: float = 3.0

    @property
    def counts_from(self) -> float:
        return self.start + self.warmup_days * DAY_S


class Outcome(NamedTuple):
    """The figures of one set of score settings on one recording."""

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


class _IncidentLine(msgspec.Struct):
    tags: dict[str, str]
    start: datetime
    end: datetime
    usd: float

    def incident(self) -> Incident:
        return Incident(self.tags, self.start.timestamp(), self.end.timestamp(), self.usd)


def load(directory: Path, warmup_days: float = 3.0) -> Recording:
    """A recording from disk: events.jsonl(.gz) in the event-stream format, and incidents.jsonl with one object a line:
    `{"tags": {...}, "start": "<RFC 3339>", "end": "<RFC 3339>", "usd": 123.4}`.

    Raises FileNotFoundError, ValueError (msgspec's ValidationError and DecodeError are such)."""
    lines = (directory / "incidents.jsonl").read_bytes().splitlines()
    incidents = [msgspec.json.decode(line, type=_IncidentLine).incident() for line in lines if line.strip()]
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


def demo_recording(
    directory: Path, out: Path, loops: Sequence[AgentLoop] | None = None, step_s: int = 300
) -> Recording:
    """The demo's traffic in `directory` with agent loops on some keys, written to `out` as `load` reads it.

    One line per key and `step_s` seconds. `loops`: by default those of `default_loops`."""
    trace = Trace.load(directory)
    events, incidents = list(trace.history(trace.start, trace.end, step_s)), []
    for number, loop in enumerate(default_loops(trace) if loops is None else loops):
        key = trace.key(loop.key)
        lines = _loop_lines(LoopRun(trace, loop), key, number, step_s)
        events += lines
        start, end = (datetime.fromtimestamp(at, UTC) for at in (loop.start, loop.end))
        incidents.append(_IncidentLine(key.tags, start, end, sum(line["cost_usd"] for line in lines)))
    events.sort(key=lambda line: (line["ts"], line["id"]))
    out.mkdir(parents=True, exist_ok=True)
    with gzip.open(out / "events.jsonl.gz", "wb") as file:
        file.writelines(as_event(event) + b"\n" for event in events)
    (out / "incidents.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in incidents))
    return load(out)


def default_loops(trace: Trace) -> list[AgentLoop]:
    """Eight loops after the third day, on the keys that spend most: $3 to $60 an hour for 40 minutes to 4 hours."""
    day3 = trace.start + 3 * DAY_S
    by_spend = sorted(trace.keys, key=lambda key: -trace.usual_usd_per_hour(key, trace.start, day3))
    sizes = [(60, 40), (40, 60), (30, 90), (20, 120), (12, 120), (8, 180), (5, 120), (3, 240)]
    room = (trace.end - day3) / (len(sizes) + 1)
    loops = []
    for number, ((usd_per_hour, minutes), key) in enumerate(zip(sizes, by_spend, strict=False)):
        start, usual = _first_busy(trace, key, day3 + (number + 0.5) * room)
        loops.append(AgentLoop(key.alias, start, start + minutes * 60, 1 + usd_per_hour / usual))
    return loops


def _first_busy(trace: Trace, key: Key, at: float) -> tuple[float, float]:
    """The first moment from `at` on after an hour with spend, and that spend: a loop is a multiple of it."""
    while at < trace.end:
        if usual := trace.usual_usd_per_hour(key, at - 3600, at):
            return at, usual
        at += 600
    raise ValueError(f"{key.alias} spends nothing in the rest of the trace")


def _loop_lines(run: LoopRun, key: Key, number: int, step_s: int) -> list[dict[str, Any]]:
    """Lines like those of `Trace.history`; a loop has lines of its own beside the key's usual ones."""
    steps: dict[int, list[Request]] = {}
    while run.next_at < math.inf:
        call = run.call()
        steps.setdefault(int(call.at // step_s) * step_s, []).append(call)
        run.answer(admitted=True)
    return [
        {
            "src": "llm",
            "id": f"loop-{number}-{step}",
            "ts": float(step),
            "recv": float(step + step_s),
            "tags": key.tags,
            "requests": len(calls),
            "errors": 0,
            "input_tokens": sum(call.input_tokens for call in calls),
            "output_tokens": sum(call.output_tokens for call in calls),
            "cost_usd": sum(call.cost_usd for call in calls),
        }
        for step, calls in steps.items()
    ]


# --- outcomes -----------------------------------------------------------------------------------------------------


def sweep(recording: Recording, thresholds: Sequence[float], settings: DetectorSettings | None = None) -> list[Outcome]:
    """Back-test the recording once per notice threshold, everything else as in `settings` (by default the shipped)."""
    settings = settings or DetectorSettings()
    outcomes = []
    for threshold in _with_progress(thresholds):
        score = settings.score.model_copy(update={"notice_threshold": float(threshold)})
        found = replay(recording.path, settings.model_copy(update={"score": score}))
        outcomes.append(judge(recording, score, list(found.alerts.values())))
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


def judge(recording: Recording, score: ScoreSettings, alerts: Sequence[AlertLife]) -> Outcome:
    """Hold alerts against the known incidents; what went to the digest interrupted nobody and is left out.

    An alert belongs to an incident if it opened, or rose to a page, from the incident's start to an hour after its end,
    and its tags agree: at least one is the incident's, none contradicts. An alert that opened before sends no new
    message, so it is noise and the incident is missed.
    """
    counted = [a for a in alerts if a.tier != "digest" and a.first.fired_at >= recording.counts_from]
    incidents = [incident for incident in recording.incidents if incident.start >= recording.counts_from]
    minutes, lost, used = [], 0.0, set[str]()
    for incident in incidents:
        noticed = [(at, a.last.alert_id) for a in counted if (at := _noticed_at(a, incident)) is not None]
        used |= {alert_id for _, alert_id in noticed}
        delay = min((at - incident.start for at, _ in noticed), default=math.inf)
        if noticed:
            minutes.append(delay / 60)
        lost += incident.usd * min(1.0, delay / (incident.end - incident.start))
    days = (recording.end - recording.counts_from) / DAY_S
    return Outcome(
        score=score,
        recall=len(minutes) / max(1, len(incidents)),
        usd_lost_share=lost / max(1e-9, sum(incident.usd for incident in incidents)),
        noise_per_day=sum(a.last.alert_id not in used for a in counted) / max(days, 1e-9),
        median_minutes=median(minutes) if minutes else None,
        alerts=len(counted),
    )


def _noticed_at(alert: AlertLife, incident: Incident) -> float | None:
    """When the alert first reported the incident; None if it never did."""
    tags = alert.last.tags
    shared = tags.keys() & incident.tags.keys()
    if not shared or any(tags[name] != incident.tags[name] for name in shared):
        return None
    moments = [at for at in (alert.first.fired_at, alert.paged_at) if at is not None]
    return min((at for at in moments if incident.start <= at <= incident.end + _AFTER_S), default=None)


def best(outcomes: Sequence[Outcome], noise_per_day: float = 1.0) -> Outcome:
    """The outcome that loses the fewest dollars within the noise people accept; the quietest when none is within it.

    Of equals the highest threshold: it leaves the most room for days that are not in the recording."""
    accepted = [o for o in outcomes if o.noise_per_day <= noise_per_day]
    if not accepted:
        return min(outcomes, key=lambda o: (o.noise_per_day, o.usd_lost_share, -o.threshold))
    return min(accepted, key=lambda o: (o.usd_lost_share, o.noise_per_day, -o.threshold))


def yaml_patch(outcome: Outcome) -> str:
    """The patch for curb.yaml: the notice threshold, and every score setting that differs from the shipped one."""
    settings = {"notice_threshold": outcome.threshold, **outcome.score.model_dump(mode="json", exclude_defaults=True)}
    lines = [f"    {name}: {json.dumps(value)}\n" for name, value in settings.items()]
    return "detector:\n  score:\n" + "".join(lines)


# --- showing ------------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
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


def chart(sweeps: Mapping[str, Sequence[Outcome]]) -> Figure:
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


def _labels(outcomes: Sequence[Outcome], field: str) -> dict[tuple[float, float], str]:
    """Thresholds by place in the chart, (noise, value); those too close for two labels share one."""
    places: dict[tuple[float, float], list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.threshold):
        place = round(outcome.noise_per_day, 1), round(getattr(outcome, field) * 40)
        places.setdefault(place, []).append(outcome)
    labels = {}
    for each in places.values():
        first, last = each[0], each[-1]
        text = f"{first.threshold:g}" if first is last else f"{first.threshold:g} to {last.threshold:g}"
        labels[first.noise_per_day, getattr(first, field)] = text
    return labels
