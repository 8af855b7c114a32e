"""Burn rates of budget rows: dollars over sliding windows, and multi-window rules on them.

The rules are the multiwindow, multi-burn-rate alerts of the Google SRE Workbook (chapter 5, "Alerting on SLOs"), with a
budget in place of an error budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.budgets.rows import Late
from curb.detector.state.columns import Column, Columns, Floats, Ints
from curb.stream.records.spend import Tier
from curb.stream.time import DAY_S, HOUR_S

#: Slots of each ring. 80 hours reach back to the same hours three days ago (72 h) and the 6 h window before them.
_SLOTS = 80
#: Seconds of a slot in each ring: the shortest window of the rules, and an hour.
_FAST_S, _SLOW_S = 300, HOUR_S
#: Seconds after the start of a period in which no burn rate is judged. Chosen by hand: the 1 h window holds the last
#: period until then.
QUIET_S = 3600.0
#: A page needs more than this multiple of the dollars at the same hours (so many hours back) of each of the last days:
#: a nightly batch is usual. Chosen by hand.
_DAYS_BACK, _AGAIN = (24, 48, 72), 1.3
#: A long window is at most this share of the period; in a longer one the budget would be spent. Chosen by hand.
_LONGEST_SHARE = 0.25
#: A rule that fired holds until a window falls under this share of its rate; hysteresis, chosen by hand.
_HOLD = 0.9


class BurnRule(NamedTuple):
    """A burn of `factor` times the budget's even pace over both windows (seconds)."""

    factor: float
    long_s: int
    short_s: int
    tier: Tier

    @property
    def channel(self) -> str:
        """Such as "budget/burn-14.4x-1h"."""
        return f"budget/burn-{self.factor:g}x-{self.window}"

    @property
    def window(self) -> str:
        """The long window in words."""
        return f"{self.long_s // DAY_S}d" if self.long_s >= DAY_S else f"{self.long_s // 3600}h"


#: The strongest first. Factors and windows are those of the SRE Workbook: 14.4 over 1 h spends 2 % of a
#: 30-day budget, 6 over 6 h 5 %, 1 over 3 d 10 %; a short window is a twelfth of its long one.
RULES = (
    BurnRule(14.4, 3600, 300, "page"),
    BurnRule(6.0, 6 * HOUR_S, 1800, "page"),
    BurnRule(1.0, 3 * DAY_S, 6 * HOUR_S, "notice"),
)
#: Windows with running sums, in seconds: those of the rules but the 5 minutes.
_WINDOWS = {"30m": 1800, "1h": 3600, "6h": 6 * HOUR_S, "3d": 3 * DAY_S}


class BurnState(NamedTuple):
    """Input of the rules, arrays of shape (rows,): dollars, $/h, epoch seconds."""

    spent_usd: Floats
    amount_usd: Floats
    usd_per_hour: Floats
    period_start: Floats
    period_end: Floats
    since: Floats
    min_usd: Floats


class BurnWindows:
    """Two rings of slots, of 5 minutes and of hours. A window is whole slots and the current one.

    The 5-minute rate is the series' own average and is passed in.
    """

    def __init__(self, bucket_s: int) -> None:
        self._fast_s = max(_FAST_S, bucket_s)
        sums = {name: Column() for name in _WINDOWS}
        self.columns = Columns({"fast": Column((_SLOTS,)), "slow": Column((_SLOTS,)), **sums}, 16)
        #: Numbers of the current slots.
        self._fast_at = self._slow_at = -1

    def grow(self, rows: int) -> None:
        """Use `rows` rows."""
        self.columns.grow(rows)

    def add(self, start: int, usd: Floats) -> None:
        """Count a closed bucket that began at `start` (epoch seconds), dollars by row."""
        self._advance(start)
        for ring, at in (("fast", self._fast_at), ("slow", self._slow_at)):
            self.columns[ring][at % _SLOTS] += usd
        for name in _WINDOWS:
            self.columns[name][...] += usd

    def _advance(self, start: int) -> None:
        fast_at, slow_at = start // self._fast_s, start // _SLOW_S
        if fast_at == self._fast_at:
            return
        _clear(self.columns["fast"], self._fast_at, fast_at)
        _clear(self.columns["slow"], self._slow_at, slow_at)
        self._fast_at, self._slow_at = fast_at, slow_at
        # Summed again from the slots, so that rounding does not add up.
        for name, seconds in _WINDOWS.items():
            ring, at, slots = self._ring(name, seconds)
            self.columns[name][...] = self.columns[ring][np.arange(at - slots + 1, at + 1) % _SLOTS].sum(axis=0)

    def _ring(self, name: str, seconds: int) -> tuple[str, int, int]:
        if name == "3d":
            return "slow", self._slow_at, seconds // _SLOW_S
        return "fast", self._fast_at, min(_SLOTS, max(1, seconds // self._fast_s))

    def late(self, late: Late) -> None:
        """Count dollars of buckets that were closed before in the windows that hold them."""
        if self._fast_at < 0:
            return
        for ring, at, slot_s in (("fast", self._fast_at, self._fast_s), ("slow", self._slow_at, _SLOW_S)):
            slot = late.start // slot_s
            inside = (slot > at - _SLOTS) & (slot <= at)
            np.add.at(self.columns[ring], (slot[inside] % _SLOTS, late.rows[inside]), late.flow[inside])
        for name, seconds in _WINDOWS.items():
            ring, at, slots = self._ring(name, seconds)
            slot = late.start // (self._fast_s if ring == "fast" else _SLOW_S)
            inside = (slot > at - slots) & (slot <= at)
            np.add.at(self.columns[name], late.rows[inside], late.flow[inside])

    def pace(self, end: float, since: Floats) -> Floats:
        """$/h of the last six hours, or since counting began, by row."""
        hours = np.clip((end - since) / 3600, 1 / 12, 6.0)
        pace: Floats = np.maximum(self.columns["6h"], 0.0) / hours
        return pace

    def long_usd(self, row: int, rule: BurnRule) -> float:
        """Dollars of a row in the long window of a rule."""
        return float(self.columns[_name(rule.long_s)][row])

    def opening(self, end: float, state: BurnState) -> Ints:
        """Number of the strongest rule that each row breaks at `end` (epoch seconds), -1 for none.

        A budget that is spent breaks no rule any more: its threshold has fired.
        """
        found = np.full(len(state.amount_usd), -1, np.int64)
        judged = (state.spent_usd < state.amount_usd) & (end - state.period_start > QUIET_S)
        left_h, length_s = (state.period_end - end) / 3600, state.period_end - state.period_start
        for number in reversed(range(len(RULES))):
            rule = RULES[number]
            long_usd = self.columns[_name(rule.long_s)]
            known = (end - state.since >= rule.long_s) & (rule.long_s <= _LONGEST_SHARE * length_s)
            lasts = state.spent_usd + long_usd / (rule.long_s / 3600) * left_h <= state.amount_usd
            breaks = judged & known & ~lasts & (long_usd >= state.min_usd) & self._over(rule, 1.0, state)
            if rule.tier == "page" and breaks.any():
                breaks &= long_usd > _AGAIN * self._same_hours(rule.long_s // _SLOW_S)
            found[breaks] = number
        return found

    def _same_hours(self, hours: int) -> Floats:
        """The most dollars by row at about these hours on one of the last days."""
        slots = np.arange(self._slow_at - hours, self._slow_at + 1)
        shifts = (shift - back for back in _DAYS_BACK for shift in (0, 1))
        sums = [self.columns["slow"][(slots + shift) % _SLOTS].sum(axis=0) for shift in shifts]
        most: Floats = np.max(sums, axis=0)
        return most

    def holding(self, state: BurnState) -> NDArray[np.bool_]:
        """True for rows over `_HOLD` of the rate of some rule."""
        holding = np.zeros(len(state.amount_usd), np.bool_)
        for rule in RULES:
            holding |= self._over(rule, _HOLD, state)
        return holding

    def _over(self, rule: BurnRule, slack: float, state: BurnState) -> NDArray[np.bool_]:
        """True where both windows are at `slack * factor` times the even pace or over it."""
        least = slack * rule.factor * state.amount_usd / (state.period_end - state.period_start) * 3600
        long_rate = self.columns[_name(rule.long_s)] / (rule.long_s / 3600)
        if rule.short_s == _FAST_S:
            short_rate = state.usd_per_hour
        else:
            short_rate = self.columns[_name(rule.short_s)] / (rule.short_s / 3600)
        over: NDArray[np.bool_] = (long_rate >= least) & (short_rate >= least)
        return over

    def dump(self) -> tuple[tuple[int, int, int], dict[str, NDArray[Any]]]:
        return (self._fast_s, self._fast_at, self._slow_at), self.columns.dump("budget_burn")

    def load(self, slots: tuple[int, int, int], arrays: Mapping[str, NDArray[Any]], kept: Ints) -> None:
        """Load the rows of `dump` whose numbers are in `kept`; with slots of another length the windows start empty."""
        self.columns.grow(len(kept))
        if slots[0] != self._fast_s:
            return
        _, self._fast_at, self._slow_at = slots
        for name, column in self.columns.dump("budget_burn").items():
            column[...] = arrays[name][..., kept]


def _name(seconds: int) -> str:
    return next(name for name, each in _WINDOWS.items() if each == seconds)


def _clear(ring: Floats, last: int, now: int) -> None:
    """Empty the slots after `last` up to `now`."""
    steps = min(_SLOTS, now - last) if last >= 0 else _SLOTS
    ring[np.arange(now - steps + 1, now + 1) % _SLOTS] = 0.0
