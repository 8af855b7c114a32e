"""How late a source reports its charges: learned from how its charge periods fill up, snapshot by snapshot."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import msgspec

#: Hours since the end of a charge period at which its amount is remembered; what comes later is a restatement.
AGES_H = (1, 2, 3, 4, 6, 8, 10, 12, 15, 18, 21, 24, 27, 30, 36, 42, 48, 60, 72, 96, 120)
MAX_AGE_S = AGES_H[-1] * 3600
#: A period is complete when it is within this share, or this many dollars, of its final amount.
_NEAR_SHARE, _NEAR_USD = 0.02, 0.01
#: The lag is the age at which this share of periods was complete, over at least this many periods.
_SHARE, _LEAST = 0.9, 5
#: Weight of what was learned before, per settled period: about the last hundred count.
_FADE = 0.99


class LagCurve(msgspec.Struct):
    """State and arithmetic; a pure value that is stored as JSON."""

    #: Used until enough periods have settled.
    default_lag_s: float
    #: As of when the first snapshot was; nothing is known of ages before.
    since: float | None = None
    #: Billing period → end of charge period, epoch seconds → dollars known at each age; None is "nothing reported yet".
    open: dict[str, dict[int, list[float | None]]] = {}
    #: Faded counts per age: periods seen, and periods complete.
    seen: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(AGES_H))
    told: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(AGES_H))

    @property
    def lag_s(self) -> float:
        """From the end of a charge period until it is taken for complete."""
        lag = None
        for age, seen, complete in zip(reversed(AGES_H), reversed(self.seen), reversed(self.told), strict=True):
            if seen < _LEAST:  # nobody knows how it is at this age
                return self.default_lag_s if lag is None else min(lag * 3600.0, self.default_lag_s)
            if complete < _SHARE * seen:
                break
            lag = age
        return self.default_lag_s if lag is None else lag * 3600.0

    def observe(self, period: str, as_of: float, totals: Mapping[int, float]) -> None:
        """Learn from a snapshot of a billing period: end of charge period (epoch seconds) → dollars of usage."""
        if self.since is None:
            self.since = as_of
        for end, usd in totals.items():
            age_s = as_of - end
            if not 0 <= age_s <= MAX_AGE_S:
                continue
            amounts = self.open.setdefault(period, {}).setdefault(end, [None] * len(AGES_H))
            for at in range(bisect_left(AGES_H, age_s / 3600), len(AGES_H)):
                amounts[at] = usd
        for of in self.open.values():
            for end in [end for end in of if as_of - end > MAX_AGE_S]:
                self._settle(end, of.pop(end))
        self.open = {period: of for period, of in self.open.items() if of}

    def _settle(self, end: int, amounts: list[float | None]) -> None:
        final = amounts[-1]
        if final is None or self.since is None:
            return
        for at, (age_h, usd) in enumerate(zip(AGES_H, amounts, strict=True)):
            if end + age_h * 3600 < self.since:
                continue
            near = usd is not None and abs(usd - final) <= max(_NEAR_SHARE * abs(final), _NEAR_USD)
            self.seen[at] = self.seen[at] * _FADE + 1
            self.told[at] = self.told[at] * _FADE + near
