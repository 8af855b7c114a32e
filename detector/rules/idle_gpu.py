"""The rule on idle GPU machines: on outside the hours it is ever on and doing nothing, or doing nothing for very long.

A utilisation of 0 % alone says nothing: busy machines read 0 most of the time. What counts is how long, that a model
stays loaded, and whether the machine was ever on at that time of day.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.rules.machines import Machines
from curb.detector.rules.on_hours import SLOTS, OnHours, slots_of
from curb.detector.state import wording as explain
from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.local_time import LocalHour, local_hour
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Subjects, View

#: What was reported of an idle stretch: codes in the state. By definition.
_NOTHING, _OUT_OF_HOURS, _LONG = 0, 1, 2


class Params(NamedTuple):
    #: Slots of ten minutes: a gap in no more of them hides nothing that matters. By hand.
    short_gap_slots: int = 2
    #: Share of the longest idle stretch that a day keeps: half is forgotten in five weeks. By hand.
    keep_longest: float = 0.98


P = Params()


class Config(RuleConfig):
    """When a GPU machine that is paid for and does nothing counts: outside its hours soon, within them after long."""

    enabled: bool = Field(default=True, description="Whether idle GPU machines alert.")
    idle_pct: float = Field(default=2.0, gt=0, le=100, description="Below this utilisation a machine does nothing.")
    idle_minutes: float = Field(
        default=10, gt=0, description="So long it does nothing at an hour at which it is usually off: a notice."
    )
    page_minutes: float = Field(default=20, gt=0, description="So long it does nothing at such an hour: a page.")
    floor_usd: float = Field(default=1.0, ge=0, description="Dollars such an idle stretch has cost at least.")
    known_days: float = Field(
        default=2.0, ge=1, description="A machine younger than this is judged by the hours of its group."
    )
    tolerance_minutes: float = Field(
        default=5, ge=0, le=360, description="So far from its usual hours a machine is never out of hours."
    )
    max_tolerance_minutes: float = Field(
        default=90,
        ge=0,
        le=360,
        description="The tolerance of machines whose days start and end at varying times grows up to this.",
    )
    young_tolerance_minutes: float = Field(
        default=90, ge=0, le=360, description="The tolerance while too few days are known to see how they vary."
    )
    long_idle_hours: float = Field(
        default=12, gt=0, description="So long a machine does nothing within its hours: a notice."
    )
    long_idle_factor: float = Field(
        default=3.0, ge=1, description="A long idle stretch is this many times the longest one before."
    )
    long_idle_usd: float = Field(default=25, ge=0, description="Dollars a long idle stretch has cost at least.")


IDLE_GPU = Family(
    "idle_gpu",
    Confidence(((2, 0.96),), MEASURED),
    Docs(
        "idle machine",
        "a GPU that is on and does nothing",
        "at hours at which it was off on all other days, or for very long",
        "page, notice",
    ),
    wastes=True,
)


class IdleGpu(Rule):
    """Judges nodes with what was known before the bucket, then learns; nodes not known yet keep their group's hours.

    State: hours at which each machine is on, and its idle stretch.
    Update: hours out of hours and idle are not learned.
    Score: idle minutes, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "idle_gpu"
    part = "idle machines"
    families = (IDLE_GPU,)
    config = Config
    settings_at = "machines.idle_gpu"
    moments = ("day",)

    def __init__(self, config: Config, context: RuleContext, capacity: int = 64) -> None:
        self._settings, self._step_s, self._zone = config, context.step_s, ZoneInfo(context.time_zone)
        tolerances = (config.tolerance_minutes, config.max_tolerance_minutes, config.young_tolerance_minutes)
        self._machines = Machines(context.step_s, capacity)
        self._hours, self._group_hours = OnHours(*tolerances, capacity), OnHours(*tolerances, capacity)
        self._stretches = Columns(
            {
                "idle_min": Column((), np.float32),
                "idle_usd": Column(),
                #: The part of the idle stretch that is out of hours.
                "out_min": Column((), np.float32),
                "out_usd": Column(),
                "longest_min": Column((), np.float32),
                "said": Column(dtype=np.uint8),
            },
            capacity,
        )
        self.parts = {
            "machines": self._machines.columns,
            "hours": self._hours.columns,
            "group_hours": self._group_hours.columns,
            "stretches": self._stretches,
        }
        self._day: int | None = None
        #: Slots of today in which the whole fleet was silent.
        self._missed = np.zeros(SLOTS, np.bool_)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind idle: notices and then pages out of hours, notices for very long stretches."""
        nodes, groups = view.of("node"), view.of("group")
        self._stretches.grow(len(nodes.index))
        self._hours.columns.grow(len(nodes.index))
        self._group_hours.columns.grow(len(groups.index))
        hour = self._advance(view.start)
        if not len(nodes.index):
            return []
        slots = slots_of(round(3600 * (hour.of_day + hour.fraction)), self._step_s)
        if view.bucket.gap:
            self._machines.columns.grow(len(nodes.index))
            self._missed |= slots
            return self._findings(view, nodes)
        before = np.zeros(len(nodes.index), np.bool_)
        before[: self._machines.columns.n] = self._machines.on
        self._machines.advance(view)
        group_of = self._machines.groups(view)
        out = self._out_of_hours(nodes, groups, group_of, slots)
        self._stretch(nodes, out)
        self._decide(view, nodes, group_of)
        self._learn(group_of, before, out, slots)
        return self._findings(view, nodes)

    def _advance(self, start: int) -> LocalHour:
        """Close the local day if `start` is in another one; the local hour of the bucket."""
        hour = local_hour(start, self._zone)
        if hour.day != self._day:
            if self._day is not None:
                self._hours.close_day()
                self._group_hours.close_day()
                self._stretches["longest_min"][...] *= P.keep_longest
            self._day = hour.day
            self._missed[...] = False
        return hour

    def _out_of_hours(self, nodes: Subjects, groups: Subjects, group_of: NDArray[np.intp], slots: Bools) -> Bools:
        """Nodes for which this is not a time of day to be on."""
        known_days = self._settings.known_days
        own = self._hours.known(2) & (nodes.age_days >= known_days)
        of_group = self._group_hours.known(1) & (groups.age_days >= known_days) & ~self._group_hours.usual(slots)
        judged = np.append(of_group, False)[group_of]
        return np.where(own, ~self._hours.usual(slots), judged)

    def _stretch(self, nodes: Subjects, out: Bools) -> None:
        """Go on with idle stretches, or end them."""
        stretch, machines, settings = self._stretches, self._machines, self._settings
        with np.errstate(invalid="ignore"):
            idle = machines.measured & (machines.pct < settings.idle_pct)
            busy = machines.measured & ~idle & (machines.columns["held_pct"] >= settings.idle_pct)
        over = (busy | ~machines.on) & (stretch["idle_min"] > 0)
        longest, idle_min, said = stretch["longest_min"], stretch["idle_min"], stretch["said"]
        # A reported stretch is not learned.
        longest[...] = np.where(over & (said == _NOTHING), np.maximum(longest, idle_min), longest)
        for name in ("idle_min", "idle_usd", "out_min", "out_usd", "said"):
            stretch[name][over] = 0
        goes_on = (idle_min > 0) | idle
        cost = np.where(goes_on, np.maximum(np.nan_to_num(nodes.amounts.cost), 0.0), 0.0)
        idle_min[...] = np.where(idle, idle_min + machines.elapsed_min, idle_min)
        stretch["idle_usd"][...] += cost
        counts = goes_on & ((out & machines.seen) | (said == _OUT_OF_HOURS))
        stretch["out_min"][...] += np.where(counts, machines.elapsed_min, 0.0)
        stretch["out_usd"][...] += np.where(counts, cost, 0.0)
        # Back within its hours before anything was said.
        back = machines.seen & ~out & (said != _OUT_OF_HOURS)
        for name in ("out_min", "out_usd"):
            stretch[name][back] = 0

    def _decide(self, view: View, nodes: Subjects, group_of: NDArray[np.intp]) -> None:
        """What is to be said of each stretch; it holds until the stretch ends."""
        stretch, settings = self._stretches, self._settings
        said, idle_min = stretch["said"], stretch["idle_min"]
        silent = (said == _NOTHING) & self._machines.seen
        loaded = np.nan_to_num(nodes.amounts.gpu_gib) > 0
        page = silent & (stretch["out_min"] > 0) & (idle_min >= settings.idle_minutes) & loaded
        page &= stretch["out_usd"] >= settings.floor_usd
        long = silent & ~page & (idle_min >= 60 * settings.long_idle_hours)
        long &= stretch["idle_usd"] >= settings.long_idle_usd
        if long.any():
            long &= idle_min >= settings.long_idle_factor * self._longest(view, nodes, group_of)
        for row in np.flatnonzero(page | long).tolist():
            if not view.is_planned(int(nodes.index[row])):
                said[row] = _OUT_OF_HOURS if page[row] else _LONG

    def _longest(self, view: View, nodes: Subjects, group_of: NDArray[np.intp]) -> Floats:
        """Minutes of the longest idle stretch before; young nodes are as idle as others of their group were."""
        longest = self._stretches["longest_min"].astype(np.float64)
        of_group = np.zeros(len(view.of("group").index) + 1)
        np.maximum.at(of_group, group_of, longest)
        of_group[-1] = 0.0
        young = nodes.age_days < self._settings.known_days
        return np.where(young, np.maximum(longest, of_group[group_of]), longest)

    def _learn(self, group_of: NDArray[np.intp], before: Bools, out: Bools, slots: Bools) -> None:
        """Idle hours out of hours are no habit. A machine on before and after a gap was on in it; a machine on only
        before or only after it went off or came on at an unknown time."""
        useful = self._machines.seen & ~(out & (self._stretches["idle_min"] > 0))
        useful &= self._stretches["said"] != _OUT_OF_HOURS
        for rows, marked in ((useful, slots), (useful & before, self._missed)):
            if marked.any():
                self._hours.mark(rows, marked)
                self._group_hours.mark(self._groups_with(rows, group_of), marked)
        if self._missed.sum() > P.short_gap_slots:
            unseen = before != self._machines.seen
            self._hours.doubt(unseen)
            self._group_hours.doubt(self._groups_with(unseen, group_of))
        self._missed[...] = False

    def _groups_with(self, nodes: Bools, group_of: NDArray[np.intp]) -> Bools:
        groups = np.zeros(self._group_hours.columns.n, np.bool_)
        groups[group_of[nodes & (group_of >= 0)]] = True
        return groups

    def _findings(self, view: View, nodes: Subjects) -> list[Finding]:
        findings = []
        for row in np.flatnonzero(self._stretches["said"]).tolist():
            stretch = {
                name: self._stretches[name][row].item() for name in ("idle_min", "idle_usd", "out_min", "out_usd")
            }
            out = self._stretches["said"][row] == _OUT_OF_HOURS
            samples, gib = float(nodes.amounts.gpu_samples[row]), float(nodes.amounts.gpu_gib[row])
            loaded = f" with {gib / samples:.0f} GiB loaded" if samples > 0 and gib > 0 else ""
            why = "at a time of day at which it was never on" if out else "longer than ever before"
            findings.append(
                Finding(
                    series=int(nodes.index[row]),
                    family=IDLE_GPU,
                    variant="off_schedule" if out else "long",
                    kind="idle",
                    tier="page" if out and stretch["idle_min"] >= self._settings.page_minutes else "notice",
                    score=stretch["idle_min"] / self._settings.idle_minutes,
                    words=f"it does nothing, for {explain.duration(60 * stretch['idle_min'])}{loaded}, {why}",
                    excess_usd=stretch["out_usd"] if out else stretch["idle_usd"],
                    lasting=True,
                    since=view.bucket.end - 60 * stretch["out_min" if out else "idle_min"],
                )
            )
        return findings

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and the slots that were missed."""
        return {**super().dump(), "missed": self._missed}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        super().load(arrays)
        self._missed = np.array(arrays["missed"])
