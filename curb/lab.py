"""For notebooks: try detector settings on a recording whose incidents are known, and compare what each would have cost.

    from curb import lab
    recording = lab.demo_recording(Path("examples/demo"), Path("recording"))
    outcomes = lab.sweep(recording, [0.5, 1, 2, 4, 8])
    lab.chart(outcomes)

Your own recording is a directory with `events.jsonl.gz` and `incidents.jsonl`: see `load`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from rich.progress import track

from curb.backtest import AlertLife, events_file, replay
from curb.demo.incident import AgentLoop, LoopRun
from curb.demo.trace import Trace, as_event
from detector.settings import DetectorSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: An alert up to this long after an incident still belongs to it.
_AFTER_S = 3600.0


class Incident(NamedTuple):
    """Something that really went wrong: whose tags, when (epoch seconds), and what it cost in all."""

    tags: dict[str, str]
    start: float
    end: float
    usd: float


class Recording(NamedTuple):
    """A stream with its known incidents; the first `warmup_days` count neither way."""

    path: Path
    incidents: list[Incident]
    start: float
    end: float
    warmup_days: float = 3.0


class Outcome(NamedTuple):
    """What one threshold does to one recording."""

    threshold: float
    #: Share of incidents that raised an alert in time.
    recall: float
    #: Share of the incidents' dollars spent before the alert, the burn taken as even.
    usd_lost_share: float
    #: Alerts a day that belong to no incident.
    noise_per_day: float
    #: Minutes from the start of an incident to its alert; None when none was found.
    median_minutes: float | None
    alerts: int


def load(directory: Path, warmup_days: float = 3.0) -> Recording:
    """A recording from disk: events.jsonl(.gz) in the event-stream format, and incidents.jsonl with one object a line:
    `{"tags": {...}, "start": "<RFC 3339>", "end": "<RFC 3339>", "usd": 123.4}`."""
    lines = (directory / "incidents.jsonl").read_bytes().splitlines()
    incidents = [msgspec.json.decode(line, type=_IncidentLine).incident() for line in lines if line.strip()]
    first, last = _span(events_file(directory))
    return Recording(directory, incidents, first, last, warmup_days)


class _IncidentLine(msgspec.Struct):
    tags: dict[str, str]
    start: datetime
    end: datetime
    usd: float

    def incident(self) -> Incident:
        return Incident(self.tags, self.start.timestamp(), self.end.timestamp(), self.usd)


class _Event(msgspec.Struct):
    ts: float | datetime

    @property
    def at(self) -> float:
        return self.ts.timestamp() if isinstance(self.ts, datetime) else self.ts


def _span(file: Path) -> tuple[float, float]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        times = [msgspec.json.decode(line, type=_Event).at for line in lines if b'"ts"' in line]
    return min(times), max(times)


def demo_recording(
    directory: Path, out: Path, loops: Sequence[AgentLoop] | None = None, step_s: int = 300
) -> Recording:
    """A recording of the demo traffic with agent loops of several sizes on several keys, written to `out`."""
    trace = Trace.load(directory)
    loops = loops if loops is not None else default_loops(trace)
    out.mkdir(parents=True, exist_ok=True)
    incidents = []
    events = list(trace.history(trace.start, trace.end, step_s))
    for number, loop in enumerate(loops):
        lines, usd = _loop_lines(trace, loop, number, step_s)
        events += lines
        incidents.append(Incident({"api_key": trace.key(loop.key).api_key}, loop.start, loop.end, usd))
    events.sort(key=lambda line: (line["ts"], line["id"]))
    with gzip.open(out / "events.jsonl.gz", "wb") as file:
        for event in events:
            file.write(as_event(event) + b"\n")
    return Recording(out, incidents, trace.start, trace.end)


def default_loops(trace: Trace) -> list[AgentLoop]:
    """Eight loops after the third day, on the keys that spend most: $3 to $60 an hour for 40 minutes to 4 hours."""
    day3 = trace.start + 3 * 86400
    by_spend = sorted(trace.keys, key=lambda key: -trace.usual_usd_per_hour(key, trace.start, day3))
    sizes = [(60, 40), (40, 60), (30, 90), (20, 120), (12, 120), (8, 180), (5, 120), (3, 240)]
    room = (trace.end - day3) / (len(sizes) + 1)
    loops = []
    for number, ((usd_per_hour, minutes), key) in enumerate(zip(sizes, by_spend, strict=False)):
        start = day3 + (number + 0.5) * room
        while (usual := trace.usual_usd_per_hour(key, start - 3600, start)) == 0:
            start += 600  # a loop is a multiple of what the key spent in the hour before
        loops.append(AgentLoop(key.alias, start, start + minutes * 60, 1 + usd_per_hour / usual))
    return loops


def _loop_lines(trace: Trace, loop: AgentLoop, number: int, step_s: int) -> tuple[list[dict[str, Any]], float]:
    key, steps = trace.key(loop.key), dict[int, dict[str, Any]]()
    for call in _calls(LoopRun(trace, loop)):
        step = int(call.at // step_s) * step_s
        line = steps.setdefault(
            step,
            {
                "src": "llm",
                "id": f"loop-{number}-{step}",
                "ts": float(step),
                "recv": float(step + step_s),
                "tags": key.tags,
                "requests": 0,
                "errors": 0,
                "input_tokens": 0,
                "output_tokens": 0,
                "cost_usd": 0.0,
            },
        )
        line["requests"] += 1
        line["input_tokens"] += call.input_tokens
        line["output_tokens"] += call.output_tokens
        line["cost_usd"] += call.cost_usd
    return list(steps.values()), sum(line["cost_usd"] for line in steps.values())


def _calls(run: LoopRun) -> Iterator[Any]:
    while run.next_at < float("inf"):
        yield run.call()
        run.answer(admitted=True)


def sweep(recording: Recording, thresholds: Sequence[float], settings: DetectorSettings | None = None) -> list[Outcome]:
    """Back-test the recording once per notice threshold, everything else as in `settings`."""
    settings = settings or DetectorSettings()
    outcomes = []
    for threshold in track(thresholds, description="back-testing", transient=True):
        data = settings.model_dump()
        data["score"] = {**data["score"], "notice_threshold": threshold}
        found = replay(recording.path, DetectorSettings.model_validate(data)).alerts.values()
        outcomes.append(judge(recording, threshold, [life for life in found if life.tier != "digest"]))
    return outcomes


def judge(recording: Recording, threshold: float, alerts: Sequence[AlertLife]) -> Outcome:
    """Hold alerts against the known incidents."""
    counted = [a for a in alerts if a.first.fired_at >= recording.start + recording.warmup_days * 86400]
    minutes, lost, used = [], 0.0, set[str]()
    for incident in recording.incidents:
        mine = [a for a in counted if _belongs(a, incident)]
        used |= {a.last.alert_id for a in mine}
        length = incident.end - incident.start
        delay = min((a.first.fired_at - incident.start for a in mine), default=None)
        if delay is not None:
            minutes.append(delay / 60)
        lost += incident.usd * (1.0 if delay is None else min(1.0, max(0.0, delay) / length))
    days = (recording.end - recording.start) / 86400 - recording.warmup_days
    return Outcome(
        threshold=threshold,
        recall=len(minutes) / max(1, len(recording.incidents)),
        usd_lost_share=lost / max(1e-9, sum(incident.usd for incident in recording.incidents)),
        noise_per_day=sum(a.last.alert_id not in used for a in counted) / max(days, 1e-9),
        median_minutes=sorted(minutes)[len(minutes) // 2] if minutes else None,
        alerts=len(counted),
    )


def _belongs(alert: AlertLife, incident: Incident) -> bool:
    tags = alert.last.tags
    named = all(tags.get(key) == value for key, value in incident.tags.items())
    return named and incident.start <= alert.first.fired_at <= incident.end + _AFTER_S


def chart(outcomes: Sequence[Outcome]) -> Figure:
    """Recall and dollars lost against noise, one point per threshold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5))
    left, right = figure.subplots(1, 2)
    for axes, field, label in ((left, "recall", "incidents found"), (right, "usd_lost_share", "dollars lost")):
        noise = [o.noise_per_day for o in outcomes]
        values = [getattr(o, field) for o in outcomes]
        axes.plot(noise, values, "o-", color="#0072B2")
        for outcome, x, y in zip(outcomes, noise, values, strict=True):
            axes.annotate(f"{outcome.threshold:g}", (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8)
        axes.set_xlabel("alerts a day that belong to no incident")
        axes.set_ylabel(f"share of {label}")
        axes.set_ylim(-0.03, 1.05)
        axes.grid(alpha=0.3)
    figure.suptitle("One point per notice threshold")
    figure.tight_layout()
    return figure


def best(outcomes: Sequence[Outcome], noise_per_day: float = 1.0) -> Outcome:
    """The outcome that loses the fewest dollars within the noise people accept; the quietest when none is within it."""
    quiet = [o for o in outcomes if o.noise_per_day <= noise_per_day]
    if not quiet:
        return min(outcomes, key=lambda o: o.noise_per_day)
    return min(quiet, key=lambda o: (o.usd_lost_share, o.noise_per_day))


def yaml_patch(outcome: Outcome) -> str:
    """What to put into curb.yaml."""
    return f"detector:\n  score:\n    notice_threshold: {outcome.threshold:g}\n"
