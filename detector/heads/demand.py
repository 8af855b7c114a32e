"""The head of unexplained dollars: spend over what a principal's own demand should cost, over five windows."""

from __future__ import annotations

import math
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import Field

from curb.detector.heads.demand_model import DemandModel
from curb.detector.heads.held_minimum import Hold
from curb.detector.heads.nightly_bursts import Recurring
from curb.detector.heads.tail import Tail
from curb.detector.heads.window_score import SILENT, Floors, RatioByWindow, UsdByWindow, score_windows, trust
from curb.detector.heads.windows import WINDOW_NAMES, WINDOWS_MIN, Windows
from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Demand, View
from curb.stream.time import DAY_S


class Params(NamedTuple):
    #: Index of the window that shows a burst: half an hour. By hand.
    burst_window: int = 1
    #: Index of the window over which dollars alone make a page: two hours. By hand.
    expensive_window: int = 2
    #: Points over a notice that such a page must be unusual. By hand.
    expensive_points: float = 1.0
    #: Share of a step that the mean learns while an alert is open. Prototype.
    frozen_share: float = 0.05
    #: A step counts in the mean up to this multiple of it, plus `mean_clip_usd_per_min`. Prototype.
    mean_clip_ratio: float = 5.0
    #: Dollars a minute a step may lie over that multiple. Prototype.
    mean_clip_usd_per_min: float = 0.05


P = Params()


class Config(RuleConfig):
    """When dollars that the demand (users, requests, usual price of a request) does not explain count."""

    enabled: bool = Field(default=True, description="Whether spend is compared with the demand for it.")
    notice_threshold: float = Field(
        default=2.0, description="A notice opens at this score, held for `hold_minutes`; each point is ten times rarer."
    )
    page_threshold: float = Field(default=7.0, description="A page needs this score.")
    page_usd: float = Field(
        default=20.0, ge=0, description="Nobody is paged for less than so many dollars, unexplained over any window."
    )
    page_usd_per_hour: float = Field(
        default=50.0,
        gt=0,
        description="A notice a point over its threshold is a page where so many dollars an hour are unexplained "
        "over two hours.",
    )
    at_once_threshold: float = Field(default=10.0, description="A score this high counts without holding.")
    hold_minutes: int = Field(default=10, ge=1, le=60, description="How long a score must hold before it counts.")
    userless_penalty: float = Field(
        default=3.0,
        ge=0,
        description="Where users are not known only the price of a request is judged, which also shifts for good "
        "reasons: the score must be this much higher.",
    )
    floors_usd: UsdByWindow = Field(
        default=(0.5, 1.0, 2.0, 3.0, 5.0), description="Unexplained dollars within each window below which none count."
    )
    ratio_floors: RatioByWindow = Field(
        default=(2.0, 1.6, 1.4, 1.3, 1.25),
        description="Spend as a multiple of what the demand explains, within each window, below which none counts.",
    )


UNEXPLAINED = Family(
    "unexplained",
    Confidence(((2.3, 0.27), (5.7, 0.47), (10, 0.63), (74, 0.87)), MEASURED),
    Docs(
        "demand head",
        "spend that its users do not explain",
        "dollars over what the demand should cost, in one of five windows",
        "page, notice",
    ),
    by_past=True,
    statistic=True,
)


class UnexplainedHead(Rule):
    """Scores with what was known before the bucket, then learns from it. Dollars without requests are not judged.

    State: the demand model, five windows, a tail, the held score, bursts of earlier days.
    Update: with every bucket, at a twentieth while in doubt.
    Score: how unusual the log ratio of actual to expected is, less the chances, plus the dollars.
    Source: a Bonferroni correction in powers of ten; the rest our own, no paper.
    """

    name = "unexplained"
    part = "the demand head"
    families = (UNEXPLAINED,)
    config = Config
    settings_at = "unexplained"
    moments = ("newest",)

    def __init__(self, config: Config, context: RuleContext, capacity: int = 64) -> None:
        self._settings, self._step_s, self._step_min = config, context.step_s, context.step_s / 60
        self._zone = ZoneInfo(context.time_zone)
        self._floors = Floors(config.floors_usd, config.ratio_floors)
        self._demand = DemandModel(self._step_min, capacity)
        self._windows = Windows(self._step_min, capacity)
        self._tail = Tail(len(WINDOWS_MIN), capacity)
        self._held = Hold(math.ceil(config.hold_minutes / self._step_min), SILENT, capacity)
        self._recurring = Recurring(capacity)
        self._series = Columns({"mean": Column()}, capacity)
        self._newest: int | None = None
        self.parts = {
            "series": self._series,
            "demand": self._demand.columns,
            "windows": self._windows.columns,
            "tail": self._tail.columns,
            "held": self._held.columns,
            "recurring": self._recurring.columns,
        }

    def close(self, view: View) -> list[Finding]:
        """Findings of kind unit_cost or runaway; sets `view.demand`."""
        subjects = view.principals
        amounts, age_days = subjects.amounts, subjects.age_days
        for part in self.parts.values():
            part.grow(len(subjects.index))
        self._advance(view.start)
        usd = np.where(amounts.requests > 0, np.maximum(amounts.cost, 0.0), 0.0)
        organic = self._demand.organic(amounts.requests, amounts.users)
        unit_usd, mature = self._demand.unit_usd, self._demand.mature(age_days)
        explained_usd = self._demand.explained_usd(usd, amounts.requests, amounts.users, organic)
        view.demand = Demand(organic, unit_usd, self._demand.knows_users, self._demand.reports_users, mature)
        if view.bucket.gap:
            self._windows.decay(1)
        else:
            self._windows.add(usd / self._step_min, explained_usd / self._step_min)
            self._recurring.follow(view.start // 60, self._burns(), usd - explained_usd)
        ratio, excess, raw = score_windows(
            self._windows, self._tail, self._floors, self._floors.usd, self._series["mean"]
        )
        score = np.where(mature, raw, SILENT) - np.where(self._demand.knows_users, 0.0, self._settings.userless_penalty)
        # The price of a request rose by more than the requests rose over what the users explain.
        pricier = usd * organic >= amounts.requests**2 * unit_usd
        findings = self._decide(view, score, excess, pricier)
        if not view.bucket.gap:
            self._learn(view, usd, ratio, score)
        return findings

    def forget(self, view: View, over: Bools) -> None:
        """Incidents are over, `over` of shape (all series,): their dollars are taken out of all windows."""
        self._windows.forget(np.flatnonzero(over[view.principals.index]))

    def _burns(self) -> Bools:
        """Who spends clearly more than is explained, over half an hour and in the newest minutes."""
        actual, expected = self._windows.actual[: P.burst_window + 1], self._windows.expected[: P.burst_window + 1]
        over = (actual > self._floors.ratios[P.burst_window] * expected).all(axis=0)
        burns: Bools = over & (
            (actual - expected)[P.burst_window] * WINDOWS_MIN[P.burst_window] >= self._floors.usd[P.burst_window]
        )
        return burns

    def _decide(self, view: View, score: Floats, excess: Floats, pricier: Bools) -> list[Finding]:
        """`pricier`: whether the excess of a series is one of prices more than of requests."""
        settings, index, raised = self._settings, view.principals.index, view.raised
        channel = score.argmax(axis=0)
        best = np.maximum(score.max(axis=0, initial=SILENT), SILENT)
        count = view.start // self._step_s
        held = self._held.push(best, count)
        at_once = settings.at_once_threshold
        notices = (held >= settings.notice_threshold + raised.notice) | (best >= at_once + raised.notice)
        # A page needs no notice: too many of them do not hide it.
        loud = np.maximum(held, np.where(best >= at_once + raised.page, best, SILENT))
        pages = loud >= settings.page_threshold + raised.page
        # Surprise alone gets nobody out of bed: what is odd and cheap is a notice until it has cost something.
        pages &= excess.max(axis=0, initial=0.0) >= settings.page_usd
        # On a series that is always erratic nothing is very surprising, and some things are expensive. The budget of
        # the notices bounds these as well.
        odd = notices & (best >= settings.notice_threshold + raised.notice + P.expensive_points)
        pages |= odd & (excess[P.expensive_window] >= WINDOWS_MIN[P.expensive_window] / 60 * settings.page_usd_per_hour)
        fires = notices | pages
        findings = []
        for row in np.flatnonzero(fires).tolist():
            at = int(channel[row])
            actual, expected = float(self._windows.actual[at, row]), float(self._windows.expected[at, row])
            findings.append(
                Finding(
                    series=int(index[row]),
                    family=UNEXPLAINED,
                    variant=f"{WINDOWS_MIN[at]:g}min",
                    kind="runaway",
                    tier="page" if pages[row] else "notice",
                    score=float(best[row]),
                    words=f"{actual / max(expected, 1e-9):.1f} times what its "
                    f"{'users' if self._demand.knows_users[row] else 'requests'} explain, over the "
                    f"{WINDOW_NAMES[at]} window",
                    recurring=self._recurring.usual(row),
                    shared_by="usd" if pricier[row] else "",
                )
            )
        return findings

    def _learn(self, view: View, usd: Floats, ratio: Floats, score: Floats) -> None:
        subjects = view.principals
        amounts, age_days = subjects.amounts, subjects.age_days
        trusted = trust(score, subjects.frozen, age_days)
        days = np.where(usd > 0, trusted * self._step_s / DAY_S, 0.0)
        taught = np.flatnonzero(days > 0)
        self._tail.learn_of(taught, np.log(ratio[:, taught]), days)
        # While its spend is in doubt, neither the price of a request nor its users are those of an ordinary day.
        doubted = subjects.frozen | (trusted < 1)
        self._demand.learn(usd, amounts.requests, amounts.users, age_days, doubted)
        mean = self._series["mean"]
        share = np.minimum(1.0, self._step_min / np.clip(1440 * age_days, self._step_min, 1440.0))
        usd_per_min = usd / self._step_min
        mean += (
            np.where(subjects.frozen, P.frozen_share, 1.0)
            * share
            * (np.minimum(usd_per_min, P.mean_clip_ratio * mean + P.mean_clip_usd_per_min) - mean)
        )

    def _advance(self, start: int) -> None:
        """Move to the step at `start`; the first one of an hour closes the one before."""
        before, self._newest = self._newest, start
        if before is None:
            return
        was, now = local_hour(before, self._zone), local_hour(start, self._zone)
        if was.start == now.start:
            return
        hours = (now.start - was.start) / 3600
        self._tail.refresh(hours)
        self._demand.fade(hours)
