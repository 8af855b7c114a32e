"""The autoscaler rule: a group with more machines than it ever needed; without work for them it runs away."""

from __future__ import annotations

from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import Field

from curb.detector.rules.machines import Machines
from curb.detector.state.columns import Bools, Column, Columns
from curb.detector.state.local_time import local_hour
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Subjects, View
from curb.stream.money import usd

#: What is reported of a group: codes in the state. By definition.
_NOTHING, _RUNAWAY, _GROWTH, _NEW = 0, 1, 2, 3


class Params(NamedTuple):
    #: Minutes that a machine without data is still counted: one late row switches none off. By hand.
    late_min: float = 5.0
    #: Days that a new group is reported. By hand.
    new_days: float = 1.0


P = Params()


class Config(RuleConfig):
    """When a group of machines has grown out of proportion to its work."""

    enabled: bool = Field(default=True, description="Whether growing groups of machines alert.")
    factor: float = Field(
        default=1.25,
        gt=1,
        description="A group has grown when it has more machines than its usual most, times this and plus one.",
    )
    hold_minutes: float = Field(
        default=10, ge=0, description="The group stays that large this long, and so do the machines that are judged."
    )
    busy_pct: float = Field(
        default=10.0, gt=0, le=100, description="Below this mean utilisation the added machines do no work: a page."
    )
    floor_usd: float = Field(default=2.0, ge=0, description="Dollars the added machines have cost at least.")
    known_days: float = Field(
        default=2.0, ge=1, description="A group younger than this, in a stream that is not, is new: a digest line."
    )
    new_group_usd: float = Field(default=10.0, ge=0, description="Dollars a new group has cost at least.")
    keep_per_day: float = Field(
        default=0.98, gt=0, le=1, description="A group's usual most falls to this share with every calmer day."
    )


AUTOSCALER = Family(
    "autoscaler",
    Confidence(((2, 0.93),), MEASURED),
    Docs(
        "autoscaler",
        "a group that grows without work",
        "more machines than its usual most, and the new ones do nothing",
        "page",
    ),
)


class Autoscaler(Rule):
    """Rows are the groups. Counts machines, not dollars: prices differ, and what counts is who asked for them.

    State: which machines are on, and the usual most of each group.
    Update: the most of calm days, 2 % less every day.
    Score: machines over the usual most.
    Source: our own, no paper.
    """

    name = "autoscaler"
    part = "the autoscaler rule"
    families = (AUTOSCALER,)
    config = Config
    settings_at = "machines.autoscaler"
    moments = ("day",)

    def __init__(self, config: Config, context: RuleContext, capacity: int = 64) -> None:
        self._settings, self._step_s, self._zone = config, context.step_s, ZoneInfo(context.time_zone)
        #: In a younger stream every group is only watched.
        self._warmup_days = context.warmup_s / 86400
        self._machines = Machines(context.step_s, capacity)
        self._groups = Columns(
            {
                #: The decayed most of completed days, and the most of today that may be learned.
                "most": Column((), np.float32),
                "today": Column((), np.float32),
                "large_min": Column((), np.float32),
                "count": Column((), np.float32),
                "extra_pct": Column((), np.float32),
                #: Dollars of the machines over the usual most, since the group became that large.
                "extra_usd": Column(),
                "total_usd": Column(),
                "said": Column(dtype=np.uint8),
            },
            capacity,
        )
        self.parts = {"machines": self._machines.columns, "groups": self._groups}
        self._day: int | None = None

    def close(self, view: View) -> list[Finding]:
        """Findings on groups: a page of kind runaway, digest lines of kind growth."""
        groups = view.of("group")
        columns = self._groups
        columns.grow(len(groups.index))
        self._advance(view.start)
        if not len(groups.index) and not len(view.of("node").index):
            return []
        if view.bucket.gap:
            return self._findings(view, groups)
        self._machines.advance(view)
        young = (groups.age_days < self._settings.known_days) | (view.stream_days < self._warmup_days)
        columns["total_usd"][...] += np.where(young, np.maximum(np.nan_to_num(groups.amounts.cost), 0.0), 0.0)
        self._count(view, groups, young)
        self._decide(view, groups, young)
        self._learn(young)
        return self._findings(view, groups)

    def _advance(self, start: int) -> None:
        day = local_hour(start, self._zone).day
        if day == self._day:
            return
        if self._day is not None:
            most, today = self._groups["most"], self._groups["today"]
            most[...] = np.maximum(self._settings.keep_per_day * most, today)
            today[...] = 0
        self._day = day

    def _count(self, view: View, groups: Subjects, young: Bools) -> None:
        """Machines that are on, and the use and cost of those over the usual most: the newest ones."""
        columns, settings = self._groups, self._settings
        group_of = self._machines.groups(view)
        near = 0.0 if self._step_s >= 60 * P.late_min else P.late_min
        on = (self._machines.columns["unseen_min"] <= near) & (group_of >= 0)
        count = np.bincount(group_of[on], minlength=columns.n).astype(np.float64)
        most = columns["most"].astype(np.float64)
        large = (count > np.maximum(most + 1, settings.factor * most)) & ~young
        # With no history there is nothing to compare to: a group that is known has had a day with machines.
        large &= most > 0
        columns["count"][...] = count
        held = columns["large_min"]
        held[...] = np.where(large, held + self._step_s / 60, 0.0)
        for name in ("extra_usd", "said"):
            columns[name][~large & (columns["said"] != _NEW)] = 0
        for row in np.flatnonzero(large).tolist():
            self._judge_extra(view, on & (group_of == row), row, count[row] - most[row])

    def _judge_extra(self, view: View, members: Bools, row: int, extra: float) -> None:
        machines = self._machines.columns
        rows = np.flatnonzero(members)
        newest = rows[np.argsort(machines["on_min"][rows], kind="stable")][: max(1, int(extra))]
        cost = np.maximum(np.nan_to_num(view.of("node").amounts.cost[newest]), 0.0)
        self._groups["extra_usd"][row] += cost.sum()
        # A machine that has just come on cannot be busy yet.
        settled = newest[machines["on_min"][newest] >= self._settings.hold_minutes]
        self._groups["extra_pct"][row] = machines["held_pct"][settled].mean() if len(settled) else np.nan

    def _decide(self, view: View, groups: Subjects, young: Bools) -> None:
        columns, settings = self._groups, self._settings
        said, pct = columns["said"], columns["extra_pct"]
        ready = (columns["large_min"] >= settings.hold_minutes) & (columns["extra_usd"] >= settings.floor_usd)
        new = young & (view.stream_days - groups.age_days >= self._warmup_days) & (groups.age_days < P.new_days)
        new &= (columns["total_usd"] >= settings.new_group_usd) & (columns["count"] > 0)
        said[(said == _NEW) & ~new] = _NOTHING
        for row in np.flatnonzero((ready & np.isfinite(pct)) | new).tolist():
            if view.is_planned(int(groups.index[row])):
                said[row] = _NOTHING
            elif new[row]:
                said[row] = _NEW
            elif pct[row] < settings.busy_pct:
                said[row] = _RUNAWAY
            elif said[row] == _NOTHING:
                said[row] = _GROWTH

    def _learn(self, young: Bools) -> None:
        """Neither a ramp nor what may become one is a habit; growth that works is."""
        columns = self._groups
        today, most, count = columns["today"], columns["most"], columns["count"]
        habit = (columns["large_min"] == 0) | (columns["said"] == _GROWTH)
        today[...] = np.where(habit, np.maximum(today, count), today)
        most[...] = np.where(young, np.maximum(most, count), most)

    def _findings(self, view: View, groups: Subjects) -> list[Finding]:
        findings = []
        columns = self._groups
        for row in np.flatnonzero(columns["said"]).tolist():
            said = int(columns["said"][row])
            count, most = float(columns["count"][row]), float(columns["most"][row])
            is_new, runaway = said == _NEW, said == _RUNAWAY
            if is_new:
                words = f"on {count:.0f} machines, and was never seen before"
            else:
                words = f"on {count:.0f} machines where {most:.0f} were the most before" + (
                    f"; the added ones do next to nothing ({float(columns['extra_pct'][row]):.0f} % on average)"
                    if runaway
                    else ", and they work"
                )
            extra_usd = float(columns["total_usd" if is_new else "extra_usd"][row])
            findings.append(
                Finding(
                    series=int(groups.index[row]),
                    family=AUTOSCALER,
                    variant="new" if is_new else "",
                    kind="runaway" if runaway else "growth",
                    tier="page" if runaway else "digest",
                    score=count / max(most, 1.0),
                    words=f"{words}, {usd(extra_usd)} so far",
                    excess_usd=extra_usd,
                    lasting=True,
                )
            )
        return findings
