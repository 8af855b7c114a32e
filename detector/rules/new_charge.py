"""The rule for what is new on a bill: a service, an account or whatever else its scope separates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from curb.detector.state.columns import Column, Columns, Ints
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View


class Params(NamedTuple):
    #: Days for which a series is new: a bill is judged day by day, so it is seen three times. By hand.
    new_days: float = 3.0
    #: Share of its expected spend below which another part is gone. By hand.
    gone_share: float = 0.2
    #: Share of what is new that went elsewhere, from which it has only got another name. By hand.
    moved_share: float = 0.5


P = Params()


class Config(RuleConfig):
    """Services and accounts that were not on the bill before."""

    enabled: bool = Field(default=True, description="Whether what is new on a bill is reported.")
    notice_usd: float = Field(default=50.0, gt=0, description="Dollars in its first days from which it is a notice.")
    page_usd: float = Field(default=1000.0, gt=0, description="Dollars in its first days from which it is a page.")
    known_days: float = Field(
        default=7.0, ge=0, description="Days of the bill that must be known before anything on it is called new."
    )


NEW_CHARGE = Family(
    "new_charge",
    NOT_MEASURED,
    Docs(
        "new on the bill",
        "a service, an account or another part of a bill that was not there before",
        "from $50 in its first three days, on a bill that is known for a week",
        "page from $1,000, else notice",
    ),
    lasting_state=True,
    needs_warmup=False,
    by_worth=False,
)


class NewCharge(Rule):
    """A notice or a page for a new part of a bill, by what it costs.

    State: dollars of each part while it is new, and whether it took the place of another.
    Update: with every bucket.
    Score: dollars, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "new_charge"
    part = "new parts of bills"
    families = (NEW_CHARGE,)
    config = Config
    settings_at = "bills.new_charge"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._sums = Columns({"usd": Column(), "moved": Column()}, 64)
        self.parts = {"sums": self._sums}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        subjects, settings = view.of("bill"), self._settings
        if not len(subjects.index):
            return []
        self._sums.grow(len(subjects.index))
        usd = self._sums["usd"]
        new = subjects.age_days <= P.new_days
        usd[new] += subjects.amounts.cost[new]
        self._note_moved(view, np.flatnonzero(new & (self._sums["moved"] == 0) & (subjects.amounts.cost > 0)))
        known_days = (subjects.first_seen - view.stream_since) / 86400
        fires = new & (known_days >= settings.known_days) & (usd >= settings.notice_usd)
        fires &= (subjects.amounts.cost > 0) & view.registry["detect"][subjects.index]
        return [
            Finding(
                series=int(subjects.index[row]),
                family=NEW_CHARGE,
                kind="runaway",
                tier="page" if usd[row] >= settings.page_usd else "notice",
                score=float(usd[row] / settings.notice_usd),
                words="not on the bill before",  # its dollars are those of the alert, which go on
            )
            for row in np.flatnonzero(fires).tolist()
        ]

    def _note_moved(self, view: View, rows: Ints) -> None:
        """Note which of the new parts in `rows` took the place of others."""
        gone = _gone_usd_per_hour(view) if len(rows) else {}
        if gone:
            series, scopes = view.of("bill").index[rows], view.registry.scopes
            elsewhere = np.array([gone.get(scopes[each], 0.0) for each in series.tolist()])
            least = P.moved_share * view.bucket.scores.rate[series]
            self._sums["moved"][rows] = (elsewhere > 0) & (elsewhere >= least)

    def name_kinds(self, view: View, findings: Sequence[Finding]) -> Sequence[Finding]:
        """What is new and took the place of another part is a line for the digest, whichever rule found it."""
        subjects = view.of("bill")
        if not findings or not len(subjects.index):
            return findings
        moved = (subjects.age_days <= P.new_days) & (self._sums["moved"] > 0)
        renamed = set(subjects.index[moved].tolist())
        return [
            each._replace(tier="digest", words=f"{each.words}, but as much is gone from others: a new name?")
            if each.series in renamed
            else each
            for each in findings
        ]


def _gone_usd_per_hour(view: View) -> dict[str, float]:
    """What is expected of those series of each scope that spend nearly nothing now, $/h."""
    scores, found = view.bucket.scores, dict[str, float]()
    for at in np.flatnonzero(scores.rate < P.gone_share * scores.expected_fast).tolist():
        scope = view.registry.scopes[at]
        found[scope] = found.get(scope, 0.0) + float(scores.expected_fast[at])
    return found
