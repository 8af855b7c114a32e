"""The rule on caps in dollars: what a key may spend within an hour while nothing is known of its past."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.stream.money import usd


class Params(NamedTuple):
    """Unit and meaning of each number."""

    #: Minutes of the dollars that are compared with the cap; at least one step. By definition of an hour.
    window_min: float = 60.0


P = Params()


class Config(RuleConfig):
    """Dollars that a key may spend within an hour before its past says what is usual."""

    enabled: bool = Field(default=True, description="Whether keys without a past have a cap.")
    usd_per_hour: float = Field(
        default=250.0,
        gt=0,
        description="Dollars of one key within an hour. A notice; it works from the first minute of an installation.",
    )
    until_days: float = Field(
        default=3.0, ge=0, description="Keys known for longer than this many days are judged by their past instead."
    )


CAPS = Family(
    "day_one_cap",
    NOT_MEASURED,
    Docs(
        "day-one cap",
        "a key that spends much before its past is known",
        "$250 within an hour, in the first three days of a key",
        "notice",
    ),
    needs_warmup=True,
    by_worth=False,
)


class DayOneCaps(Rule):
    """A notice while a young principal spends more within an hour than any should without being known.

    State: dollars of the last hour.
    Update: an exponential average over an hour, so that a burst counts for its dollars.
    Score: the dollars as a multiple of the cap.
    Source: our own, no paper.
    """

    name = "day_one_cap"
    part = "caps of keys without a past"
    families = (CAPS,)
    config = Config

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, step_min = config, context.step_s / 60
        self._share = step_min / max(P.window_min, step_min)
        self._hour = Columns({"usd": Column()}, 64)
        self.parts = {"hour": self._hour}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        subjects, cap = view.principals, self._settings.usd_per_hour
        self._hour.grow(len(subjects.index))
        spent = self._hour["usd"]
        if view.bucket.gap:
            return []
        spent += subjects.amounts.cost - self._share * spent
        over = (spent > cap) & (subjects.age_days < self._settings.until_days)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=CAPS,
                kind="runaway",
                tier="notice",
                score=float(spent[row] / cap),
                words=f"{usd(float(spent[row]))} within about an hour, over the cap of {usd(cap)} for a key that is"
                f" known for {24 * float(subjects.age_days[row]):.1f} h: its past does not say yet what is usual",
            )
            for row in np.flatnonzero(over).tolist()
            if not view.is_planned(int(subjects.index[row]))
        ]
