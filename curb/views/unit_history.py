"""What a request, 1,000 tokens and a run cost over time: hours of models and owners, and the runs of jobs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import Scope
from curb.stream.records.spend import UNTAGGED, SpendPartial
from curb.stream.time import HOUR_S
from curb.views.unit_costs import WantedUnitCost, resolve

#: Hours kept. By hand: five weeks, as the history of spend.
HOURS = 35 * 24
#: Subjects and jobs kept, 20 kB and 5 kB each, and runs of a job. By hand: more than a person looks at.
_MOST_SUBJECTS, _MOST_JOBS, _MOST_RUNS = 1000, 500, 50
#: The tag of a job.
JOB = "job"

#: Tags and values of a model, or of an owner; all together under ().
Subject = tuple[tuple[str, str], ...]
ALL: Subject = ()


class Units(NamedTuple):
    """Sums over some time."""

    usd: float = 0.0
    requests: float = 0.0
    tokens: float = 0.0

    @property
    def usd_per_request(self) -> float | None:
        return self.usd / self.requests if self.requests > 0 else None

    @property
    def usd_per_1k_tokens(self) -> float | None:
        return 1000 * self.usd / self.tokens if self.tokens > 0 else None


class JobRun:
    """One run: from its first spend to its last, without a long pause."""

    __slots__ = ("end", "requests", "start", "tokens", "usd")

    def __init__(self, start: int, end: int) -> None:
        #: Epoch seconds: of the first bucket, and of the last.
        self.start, self.end = start, end
        self.usd, self.requests, self.tokens = 0.0, 0, 0

    def take_in(self, other: JobRun) -> None:
        """Add another run, which is a part of this one."""
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.usd += other.usd
        self.requests += other.requests
        self.tokens += other.tokens


class _Hours:
    """Rings of hours of one subject: dollars, requests, tokens."""

    __slots__ = ("first", "sums")

    def __init__(self, hour: int) -> None:
        self.first = hour
        self.sums = np.zeros((3, HOURS))


class UnitHistory:
    """`add` every partial sum of `scopes` once."""

    def __init__(self, detector: DetectorSettings) -> None:
        self._models = _scope_of_models(detector)
        self._owners = next(
            (each for each in detector.scopes if each.role == "principal" and "usage" in each.sources), None
        )
        self.scopes = frozenset(each.name for each in (self._models, self._owners) if each is not None)
        self._gap_s = detector.jobs.gap_minutes * 60
        self._hours: dict[Subject, _Hours] = {}
        #: The first and the newest hour of all, since the epoch; -1 before the first.
        self._first = self._newest = -1
        self._runs: dict[Subject, list[JobRun]] = {}
        #: Subjects and jobs that found no room.
        self.left_out: set[Subject] = set()

    @property
    def until(self) -> float:
        """End of the newest hour with spend, epoch seconds; 0 before the first."""
        return float((self._newest + 1) * HOUR_S)

    @property
    def since(self) -> float:
        """Start of the first hour that is kept, epoch seconds."""
        return float(max(self._first, self._newest - HOURS + 1, 0) * HOUR_S)

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum; what is older than the hours kept is left out."""
        hour = part.bucket_start // HOUR_S
        if hour > self._newest:
            self._advance(hour)
        if hour <= self._newest - HOURS:
            return
        self._first = hour if self._first < 0 else min(self._first, hour)
        tokens = part.input_tokens + part.output_tokens
        sums = (part.effective_cost, part.requests, tokens)
        if self._models is not None and part.scope == self._models.name:
            self._count((("model", part.tags.get("model", UNTAGGED)),), hour, sums)
        if self._owners is not None and part.scope == self._owners.name:
            self._count(ALL, hour, sums)
            owner: Subject = ()
            for tag in self._owners.group_by[: self._owners.attributes]:
                owner = (*owner, (tag, part.tags.get(tag, UNTAGGED)))
                self._count(owner, hour, sums)
            if JOB in part.tags:
                self._add_run((*owner, (JOB, part.tags[JOB])), part, tokens)

    def _advance(self, hour: int) -> None:
        passed = np.arange(max(self._newest + 1, hour - HOURS + 1), hour + 1) % HOURS
        for each in self._hours.values():
            each.sums[:, passed] = 0.0
        self._newest = hour

    def _count(self, subject: Subject, hour: int, sums: tuple[float, int, int]) -> None:
        held = self._hours.get(subject)
        if held is None:
            if len(self._hours) >= _MOST_SUBJECTS:
                self.left_out.add(subject)
                return
            held = self._hours[subject] = _Hours(hour)
        held.first = min(held.first, hour)
        held.sums[:, hour % HOURS] += sums

    def _add_run(self, job: Subject, part: SpendPartial, tokens: int) -> None:
        runs = self._runs.get(job)
        if runs is None:
            if len(self._runs) >= _MOST_JOBS:
                oldest = min(self._runs, key=lambda each: self._runs[each][-1].end)
                self.left_out.add(oldest)
                del self._runs[oldest]
            self.left_out.discard(job)
            runs = self._runs[job] = []
        new = JobRun(part.bucket_start, part.bucket_start)
        new.usd, new.requests, new.tokens = part.effective_cost, part.requests, tokens
        place = len(runs)
        while place and runs[place - 1].start > new.start:
            place -= 1
        runs.insert(place, new)
        for left in (place, place - 1):
            if 0 <= left < len(runs) - 1 and runs[left + 1].start - runs[left].end <= self._gap_s:
                runs[left].take_in(runs.pop(left + 1))
        del runs[:-_MOST_RUNS]

    # --- for the pages ----------------------------------------------------------------------------------------------

    def models(self) -> list[Subject]:
        """Every model."""
        return [each for each in self._hours if each and each[0][0] == "model"]

    def knows(self, subject: Subject) -> bool:
        """Whether it has hours."""
        return subject in self._hours

    def first_seen(self, subject: Subject) -> float:
        """Start of its first hour, epoch seconds."""
        return float(self._hours[subject].first * HOUR_S)

    def between(self, subject: Subject, since: float, until: float) -> Units:
        """Sums of the whole hours from `since` to `until` (epoch seconds), as far as they are kept."""
        held = self._hours.get(subject)
        first = max(math.ceil(since / HOUR_S), self._newest - HOURS + 1, 0)
        hours = np.arange(first, min(int(until // HOUR_S), self._newest + 1)) % HOURS
        if held is None or not len(hours):
            return Units()
        return Units(*map(float, held.sums[:, hours].sum(axis=1)))

    def hourly(self, subject: Subject, since: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Start of each hour from `since` on, shape (hours,); its dollars, requests and tokens, shape (3, hours)."""
        held = self._hours.get(subject)
        first = max(int(since // HOUR_S), int(self.since // HOUR_S))
        hours = np.arange(first, self._newest + 1, dtype=np.int64)
        if held is None:
            return hours * HOUR_S, np.zeros((3, len(hours)))
        return hours * HOUR_S, held.sums[:, hours % HOURS]

    def owner_of(self, tags: Mapping[str, str]) -> Subject | None:
        """The widest subject that has these tags: a model, an owner, or all for none; None where none has them."""
        subjects = [each for each in self._hours if tags.items() <= dict(each).items()]
        return min(subjects, key=len, default=None)

    def jobs(self) -> dict[Subject, Sequence[JobRun]]:
        """The runs of each job, oldest first."""
        return dict(self._runs)


def _scope_of_models(detector: DetectorSettings) -> Scope | None:
    try:
        return resolve(WantedUnitCost(by=("model",), unit="requests"), detector).scope
    except ValueError:
        return None
