"""How good alerts were on a labelled stream: what was caught, the dollars lost until then, and what was noise."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.stream.time import DAY_S, HOUR_S

LABELS_FILE, TRUTH_FILE = "labels.json", "truth.csv.gz"
#: Days at the start of a stream whose alerts are neither noise nor flags on look-alikes.
WARMUP_DAYS = 3.0
#: An alert up to this long after the end of an incident still belongs to it.
GRACE_S = 1.0 * HOUR_S
#: The tags that name a subject, in the order in which a label is identified by them.
_SUBJECT_TAGS = ("api_key", "node", "group")

#: Which alerts interrupt somebody: pages and notices, or pages alone.
Interrupts = Literal["page+notice", "page"]


class Fired(NamedTuple):
    """An alert as scoring sees it: when it notified somebody (epoch seconds), and about what."""

    at: float
    tags: Mapping[str, str]
    #: When it notified again because it rose to a page.
    again_at: float | None = None

    def within(self, start: float, end: float) -> float | None:
        """The first time from `start` to `end` at which it notified somebody."""
        return next((at for at in (self.at, self.again_at) if at is not None and start <= at <= end), None)


@dataclass(frozen=True)
class Label:
    """Something that was put into the stream. Times are epoch seconds."""

    id: str
    kind: str
    #: incident | benign | immaterial, which is scored neither way.
    label: str
    tags: Mapping[str, str]
    start: float
    end: float
    excess_usd: float
    #: When a look-alike spends; one window from start to end unless it comes and goes.
    windows: tuple[tuple[float, float], ...]
    #: Steps with excess dollars, in order of time, and the dollars of each; None: `excess_usd` is spread evenly.
    truth_at: NDArray[np.float64] | None
    truth_usd: NDArray[np.float64]

    def names(self, tags: Mapping[str, str]) -> bool:
        """True when `tags` name this label's key, node or group."""
        subject = next((tag for tag in _SUBJECT_TAGS if tag in self.tags), None)
        return subject is not None and tags.get(subject) == self.tags[subject]

    def covers(self, tags: Mapping[str, str]) -> bool:
        """True when `tags` name it, or when all of them are among its own."""
        return self.names(tags) or (bool(tags) and all(self.tags.get(tag) == value for tag, value in tags.items()))

    def lost_usd(self, until: float) -> float:
        """Excess dollars of the steps that began before `until`."""
        if self.truth_at is None:
            return self.excess_usd * min(1.0, (until - self.start) / (self.end - self.start))
        return float(self.truth_usd[: np.searchsorted(self.truth_at, until, "left")].sum())


@dataclass(frozen=True)
class LabelledStream:
    """The labels of one stream."""

    start: float
    end: float
    step_s: int
    labels: tuple[Label, ...]


@dataclass
class KindScore:
    """One kind of incident."""

    incidents: int = 0
    caught: int = 0
    #: Caught by an alert that names the subject itself.
    exact: int = 0
    lost_usd: float = 0.0
    total_usd: float = 0.0
    #: From the start of each caught incident to its first alert.
    minutes: list[float] = field(default_factory=list)

    def add(self, other: KindScore) -> None:
        """Pool two scores."""
        self.incidents += other.incidents
        self.caught += other.caught
        self.exact += other.exact
        self.lost_usd += other.lost_usd
        self.total_usd += other.total_usd
        self.minutes += other.minutes

    @property
    def recall(self) -> float | None:
        return self.caught / self.incidents if self.incidents else None

    @property
    def exact_recall(self) -> float | None:
        return self.exact / self.incidents if self.incidents else None

    @property
    def lost_share(self) -> float | None:
        return self.lost_usd / max(self.total_usd, 1e-9) if self.incidents else None

    @property
    def median_minutes(self) -> float | None:
        return sorted(self.minutes)[len(self.minutes) // 2] if self.minutes else None


class IncidentResult(NamedTuple):
    """Whether and when one incident was caught."""

    label: Label
    #: Position, in the list given, of the alert that caught it; None if none did.
    caught_by: int | None
    lost_usd: float


@dataclass
class Score:
    """The score of a list of alerts on one stream."""

    kinds: dict[str, KindScore] = field(default_factory=dict)
    outcomes: list[IncidentResult] = field(default_factory=list)
    benign: int = 0
    #: Look-alikes, by id, that an alert named while they ran.
    benign_flagged: list[str] = field(default_factory=list)
    #: Positions, in the list given, of alerts after the warm-up that fall on no label.
    noise: list[int] = field(default_factory=list)
    scored_days: float = 0.0
    #: Alerts beyond the first on the same incident.
    repeats: int = 0
    alerts: int = 0

    @property
    def all_kinds(self) -> KindScore:
        """All incidents together."""
        pooled = KindScore()
        for kind in self.kinds.values():
            pooled.add(kind)
        return pooled

    @property
    def missed(self) -> list[str]:
        """Ids of the incidents that nothing caught."""
        return [outcome.label.id for outcome in self.outcomes if outcome.caught_by is None]

    @property
    def noise_per_day(self) -> float:
        return len(self.noise) / self.scored_days if self.scored_days > 0 else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures as plain values."""
        pooled = self.all_kinds
        return {
            "incidents": pooled.incidents,
            "caught": pooled.caught,
            "caught_exact": pooled.exact,
            "recall": pooled.recall,
            "exact_recall": pooled.exact_recall,
            "usd_lost_share": pooled.lost_share,
            "median_minutes": pooled.median_minutes,
            "benign": self.benign,
            "benign_flagged": len(self.benign_flagged),
            "noise_per_day": self.noise_per_day,
            "repeats": self.repeats,
            "alerts": self.alerts,
        }


def epoch(text: str) -> float:
    """Epoch seconds of an RFC 3339 time; without a zone it is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def has_labels(directory: Path) -> bool:
    """True when a directory holds labels and exact excess beside its events."""
    return (directory / LABELS_FILE).is_file() and (directory / TRUTH_FILE).is_file()


def read_labels(directory: Path) -> LabelledStream:
    """labels.json and truth.csv.gz of a directory. Raises OSError, ValueError and KeyError for what is no such file."""
    found = json.loads((directory / LABELS_FILE).read_text(encoding="utf-8"))
    steps: dict[str, list[tuple[float, float]]] = {}
    with gzip.open(directory / TRUTH_FILE, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            steps.setdefault(row["label_id"], []).append((epoch(row["ts"]), float(row["excess_usd"])))
    meta = found["meta"]
    labels = tuple(_label(label, sorted(steps.get(label["id"], []))) for label in found["labels"])
    return LabelledStream(epoch(meta["start"]), epoch(meta["end"]), int(meta["step_s"]), labels)


def _label(found: Mapping[str, Any], steps: Sequence[tuple[float, float]]) -> Label:
    windows = found.get("windows") or [(found["start"], found["end"])]
    return Label(
        id=found["id"],
        kind=found["kind"],
        label=found["label"],
        tags=found["tags"],
        start=epoch(found["start"]),
        end=epoch(found["end"]),
        excess_usd=float(found["excess_usd"]),
        windows=tuple((epoch(begin), epoch(end)) for begin, end in windows),
        truth_at=np.array([at for at, _ in steps], np.float64),
        truth_usd=np.array([usd for _, usd in steps], np.float64),
    )


def fired(rows: Iterable[Mapping[str, Any]], interrupts: Interrupts = "page+notice") -> list[Fired]:
    """The alerts that interrupt, from the lines of a back-test's output, in order of time.

    A page counts from when it became one (`paged_at`), a notice from when it became one (`noticed_at`), where the line
    says so; else from `fired_at`.
    """
    found = []
    for row in rows:
        tier = row.get("tier", "notice")
        if tier not in interrupts.split("+"):
            continue
        at = row.get("paged_at") if interrupts == "page" else row.get("noticed_at")
        found.append(Fired(epoch(at or row["fired_at"]), row.get("tags") or {}))
    return sorted(found, key=lambda alert: alert.at)


def score(
    stream: LabelledStream,
    alerts: Sequence[Fired],
    warmup_days: float = WARMUP_DAYS,
    aftermath_s: float = 1.0 * DAY_S,
    belongs: Callable[[Label, Mapping[str, str]], bool] = Label.covers,
) -> Score:
    """Compare alerts, in any order, with the labels.

    An incident is caught by the first alert between its start and an hour after its end whose tags belong to it. A
    look-alike is flagged by an alert that names it in one of its windows or up to an hour after. Noise is an alert
    after the warm-up that falls on no label, up to `aftermath_s` seconds after its end.
    """
    warm = stream.start + warmup_days * 86400
    result = Score(scored_days=(stream.end - warm) / 86400, alerts=len(alerts))
    order = sorted(range(len(alerts)), key=lambda i: alerts[i].at)
    explained: set[int] = set()
    for label in stream.labels:
        near = {i: at for i in order if (at := alerts[i].within(label.start, label.end + aftermath_s)) is not None}
        near = {i: at for i, at in near.items() if belongs(label, alerts[i].tags)}
        explained.update(near)
        if label.label == "benign":
            result.benign += 1
            if any(_flags(label, alerts[i]) for i in near if alerts[i].at >= warm):
                result.benign_flagged.append(label.id)
        elif label.label == "incident":
            hits = sorted((at, i) for i, at in near.items() if at <= label.end + GRACE_S)
            _count_incident(result, label, alerts, hits)
    result.noise = [i for i in order if i not in explained and alerts[i].at >= warm]
    result.kinds = dict(sorted(result.kinds.items()))
    return result


def _flags(label: Label, alert: Fired) -> bool:
    return label.names(alert.tags) and any(begin <= alert.at <= end + GRACE_S for begin, end in label.windows)


def _count_incident(result: Score, label: Label, alerts: Sequence[Fired], hits: Sequence[tuple[float, int]]) -> None:
    """`hits` are the times and positions of the alerts that caught it, the first one first."""
    kind = result.kinds.setdefault(label.kind, KindScore())
    lost_usd = label.lost_usd(hits[0][0]) if hits else label.excess_usd
    result.outcomes.append(IncidentResult(label, hits[0][1] if hits else None, lost_usd))
    kind.incidents += 1
    kind.total_usd += label.excess_usd
    kind.lost_usd += lost_usd
    if hits:
        kind.caught += 1
        kind.exact += any(label.names(alerts[i].tags) for _, i in hits)
        kind.minutes.append((hits[0][0] - label.start) / 60)
        result.repeats += len(hits) - 1


def score_lines(scored: Score) -> list[str]:
    """The figures for people: one line per kind of incident, then all of them."""
    lines = []
    for name, kind in scored.kinds.items():
        minutes = "never" if kind.median_minutes is None else f"{kind.median_minutes:,.0f} min"
        share = kind.lost_share or 0.0
        lines.append(f"{name:15} caught {kind.caught:>3} of {kind.incidents:<3} {share:6.1%} of its $ lost  {minutes}")
    pooled = scored.all_kinds
    if pooled.incidents:
        minutes = "never" if pooled.median_minutes is None else f"{pooled.median_minutes:,.0f} min"
        lines.append(
            f"caught {pooled.caught} of {pooled.incidents} incidents ({pooled.exact} exactly), "
            f"{pooled.lost_share or 0.0:.1%} of their dollars lost until then, median {minutes}"
        )
    lines.append(
        f"{len(scored.benign_flagged)} of {scored.benign} look-alikes flagged, "
        f"{scored.noise_per_day:.2f} noise alerts a day, {scored.repeats} repeats, {scored.alerts} alerts"
    )
    if scored.missed:
        lines.append("missed: " + ", ".join(scored.missed))
    if scored.benign_flagged:
        lines.append("flagged: " + ", ".join(scored.benign_flagged))
    return lines
