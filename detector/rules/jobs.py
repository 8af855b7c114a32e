"""The rule on jobs: a run of a job is compared with its plan and the runs before, not with the clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state import wording as explain
from curb.detector.state.columns import Column, Columns, Floats
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import PlanUsage, Subjects, View
from curb.stream import money
from curb.stream.records.spend import Tier


class Params(NamedTuple):
    #: Runs that are remembered. By hand.
    runs: int = 16
    #: Days that the largest run is kept, for work that comes once a month or a quarter. By hand.
    largest_days: int = 100
    #: Days of the share of time in which a job is active. By hand.
    share_days: float = 3.0
    #: Days of age from which on that share is known. By hand.
    share_known_days: float = 2.0
    #: Multiple of the usual run up to which a far larger one is remembered: repeated, it becomes usual in steps.
    #: By hand.
    learn_factor: float = 1.5
    #: Minutes over which the pace of a run is measured, and that it must have gone on. By hand.
    pace_min: float = 30.0
    #: Dollars of a run below which it says nothing about the next. By hand.
    least_usd: float = 1.0


P = Params()


class Config(RuleConfig):
    """What a run of a job may cost, by its plan or by earlier runs."""

    enabled: bool = Field(default=True, description="Whether unusual runs of jobs alert.")
    gap_minutes: float = Field(default=90, gt=0, description="A pause longer than this ends a run.")
    same_time_hours: float = Field(
        default=3, gt=0, le=12, description="Runs that start within so many hours of the same time of day are alike."
    )
    factor: float = Field(
        default=2.5, gt=1, description="A run may cost this many times the largest one like it; then it is a notice."
    )
    digest_usd: float = Field(default=10, ge=0, description="From here on a run like none before is a digest line.")
    notice_usd: float = Field(
        default=5000,
        ge=0,
        description="From here on a run like none before is a notice, or a run that comes to it within `endless_hours` "
        "at the pace of its last half hour.",
    )
    other_time_usd: float = Field(
        default=50,
        ge=0,
        description="A run at an unusual time is a notice from here on, if no run of the job at any time came near it.",
    )
    endless_hours: float = Field(
        default=16, gt=0, description="A run like none before that goes on for so long without a plan is a notice."
    )
    endless_usd: float = Field(default=100, ge=0, description="Dollars such an endless run has cost at least.")
    batch_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="A job active for more than this share of the time is a service, judged as the keys are.",
    )


class _Verdict(NamedTuple):
    tier: Tier
    usual_usd: float
    allowed_usd: float
    why: str


JOB = Family(
    "job",
    NOT_MEASURED,
    Docs(
        "jobs",
        "a run unlike the ones before",
        "over its plan, or 2.5 times the largest run like it; one like none before from $10 on, and as a "
        "notice when it comes to $5,000 within 16 hours at its pace",
        "notice, digest",
    ),
)


class Jobs(Rule):
    """Rows are `View.jobs()`. A gap of the whole fleet lengthens no pause.

    State: the run that goes on, and the last 16.
    Update: when a run ends.
    Score: dollars of the run, as a multiple of what is allowed.
    Source: our own, no paper.
    """

    name = "jobs"
    part = "jobs"
    families = (JOB,)
    config = Config
    settings_at = "jobs"

    def __init__(self, config: Config, context: RuleContext, capacity: int = 64) -> None:
        self._settings, self._step_s, self._zone = config, context.step_s, ZoneInfo(context.time_zone)
        #: In a younger stream runs are only learned.
        self._warmup_days = context.warmup_s / 86400
        self._jobs = Columns(
            {
                #: The run that goes on: epoch seconds of its start, 0 for none, and seconds of the local day; minutes
                #: since it was active; dollars; minutes; pace.
                "start": Column(dtype=np.int64),
                "second": Column(dtype=np.int32),
                "paused_min": Column((), np.float32),
                "run_usd": Column(),
                "run_min": Column((), np.float32),
                "usd_per_hour": Column((), np.float32),
                #: Whether a plan covers the run, or a part of it.
                "planned": Column(dtype=np.bool_),
                "active_share": Column((), np.float32),
                #: Runs that ended: the newest first, zeros for none.
                "starts": Column((P.runs,), np.int64),
                "seconds": Column((P.runs,), np.int32),
                "usd": Column((P.runs,), np.float32),
            },
            capacity,
        )
        self.parts = {"jobs": self._jobs}

    def close(self, view: View) -> list[Finding]:
        """Findings on the runs that go on: of kind runaway for notices, growth for digest lines."""
        jobs = view.jobs()
        self._jobs.grow(len(jobs.index))
        if not len(jobs.index):
            return []
        if not view.bucket.gap:
            self._advance(view, jobs)
        if view.stream_days < self._warmup_days:
            return []
        found = (self._judge(view, jobs, row) for row in self._looked_at(jobs))
        return [finding for finding in found if finding is not None]

    def _advance(self, view: View, jobs: Subjects) -> None:
        columns = self._jobs
        cost = np.nan_to_num(jobs.amounts.cost)
        active = (cost > 0) | (jobs.amounts.requests > 0)
        step_min = self._step_s / 60
        running = columns["start"] > 0
        paused = columns["paused_min"]
        paused[...] = np.where(active, 0.0, paused + step_min)
        for row in np.flatnonzero(running & (paused > self._settings.gap_minutes)).tolist():
            self._end_run(row, view.start, reported=view.stream_days >= self._warmup_days)
        starting = active & (columns["start"] == 0)
        columns["start"][starting] = view.start
        hour = local_hour(view.start, self._zone)
        columns["second"][starting] = round(3600 * (hour.of_day + hour.fraction))
        columns["run_usd"][...] += np.where(columns["start"] > 0, np.maximum(cost, 0.0), 0.0)
        columns["run_min"][...] += np.where(columns["start"] > 0, step_min, 0.0)
        pace = columns["usd_per_hour"]
        pace += min(1.0, step_min / P.pace_min) * (60 * np.maximum(cost, 0.0) / step_min - pace)
        share = columns["active_share"]
        # Short pauses are a part of a run, at any length of buckets.
        share += step_min / (1440 * P.share_days) * ((columns["start"] > 0) - share)

    def _end_run(self, row: int, now: int, *, reported: bool) -> None:
        """Remember the run. When there is no room the oldest is forgotten, but not what comes once a month.

        `reported`: the stream is old enough that a run far too large was reported.
        """
        columns = self._jobs
        starts, seconds, usd = (columns[name][:, row] for name in ("starts", "seconds", "usd"))
        if not columns["planned"][row]:
            spent = float(columns["run_usd"][row])
            alike = float(self._alike(np.array([row], np.intp))[0])
            if reported and alike >= 0 and spent > self._settings.factor * alike:
                spent = min(spent, max(P.learn_factor * alike, self._settings.digest_usd))
            last = P.runs - 1
            if usd.argmax() == last and now - starts[last] < 86400 * P.largest_days:
                last -= 1
            newest = (columns["start"][row], columns["second"][row], spent)
            for held, value in zip((starts, seconds, usd), newest, strict=True):
                held[1 : last + 1] = held[:last].copy()
                held[0] = value
        for name in ("start", "run_usd", "run_min", "usd_per_hour", "planned"):
            columns[name][row] = 0

    def _looked_at(self, jobs: Subjects) -> list[int]:
        """Runs that are to be judged: of batch jobs, beyond what is usual at their time. Most are not, at no cost."""
        columns, settings = self._jobs, self._settings
        batch = (jobs.age_days < P.share_known_days) | (columns["active_share"] <= settings.batch_share)
        rows = np.flatnonzero((columns["start"] > 0) & batch & (columns["run_usd"] > settings.digest_usd))
        alike = self._alike(rows)
        usual = (alike >= 0) & (columns["run_usd"][rows] <= settings.factor * alike) & ~columns["planned"][rows]
        return [int(row) for row in rows[~usual]]

    def _judge(self, view: View, jobs: Subjects, row: int) -> Finding | None:
        columns, number = self._jobs, int(jobs.index[row])
        usd = float(columns["run_usd"][row])
        plans = view.plans(number)
        columns["planned"][row] |= bool(plans)
        verdict = self._by_plan(usd, plans) if plans else self._by_runs(usd, row)
        if verdict is None:
            return None
        began = explain.duration(60 * float(columns["run_min"][row]))
        return Finding(
            series=number,
            family=JOB,
            kind="runaway" if verdict.tier == "notice" else "growth",
            tier=verdict.tier,
            score=usd / max(verdict.allowed_usd, P.least_usd),
            words=f"in a run of {money.usd(usd)} so far that began {began} ago, {verdict.why}",
            excess_usd=usd - verdict.usual_usd,
        )

    def _by_plan(self, usd: float, plans: Sequence[PlanUsage]) -> _Verdict | None:
        most = max(usage.plan.max_usd for usage in plans)
        if usd <= most:
            return None
        return _Verdict("notice", most, most, f"over the {money.usd(most)} that were announced")

    def _by_runs(self, usd: float, row: int) -> _Verdict | None:
        columns, settings = self._jobs, self._settings
        known = columns["starts"][:, row] > 0
        largest = float(columns["usd"][:, row].max(initial=0.0, where=known))
        alike = float(self._alike(np.array([row], np.intp))[0])
        if alike >= 0:
            allowed = settings.factor * max(alike, P.least_usd)
            over = usd > max(allowed, settings.digest_usd)
            why = f"{usd / max(alike, P.least_usd):.1f} times the largest run at this time of day before"
            return _Verdict("notice", alike, allowed, why) if over else None
        if known.any() and usd > max(settings.factor * largest, settings.other_time_usd):
            why = f"{usd / max(largest, P.least_usd):.1f} times the largest run at any time before"
            return _Verdict("notice", largest, settings.factor * largest, why)
        minutes, pace = float(columns["run_min"][row]), float(columns["usd_per_hour"][row])
        hours_left = settings.endless_hours - minutes / 60
        endless = hours_left <= 0 and usd > settings.endless_usd
        # Nobody need wait until it is called endless to see what it comes to by then.
        goes_on = minutes >= P.pace_min and columns["paused_min"][row] == 0
        comes_to = usd + max(0.0, hours_left) * pace if goes_on else usd
        if comes_to > settings.notice_usd or endless:
            why = f"now ${pace:,.0f} an hour, unlike any run before and not announced"
            return _Verdict("notice", 0.0, settings.notice_usd, why)
        if usd > settings.digest_usd:
            why = "at a time of day at which it never ran before" if known.any() else "the first one of this job"
            return _Verdict("digest", 0.0, settings.digest_usd, why)
        return None

    def _alike(self, rows: NDArray[np.intp]) -> Floats:
        """Dollars of the largest earlier run that began at about the same local time of day; -1 for none."""
        columns = self._jobs
        apart = np.abs(columns["seconds"][:, rows] - columns["second"][rows])
        near = np.minimum(apart, 86400 - apart) <= 3600 * self._settings.same_time_hours
        near &= columns["starts"][:, rows] > 0
        usd: Floats = columns["usd"][:, rows].max(axis=0, initial=-1.0, where=near).astype(np.float64)
        return usd
