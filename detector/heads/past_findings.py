"""Findings of the dollars head: spend that its own past does not explain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.detector.heads.past import ScoreSettings
from curb.detector.heads.windows import WINDOWS_MIN, window_name
from curb.detector.state.columns import Bools
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleContext
from curb.detector.state.scopes import Role
from curb.detector.state.view import View


class Params(NamedTuple):
    #: Multiple of the expected burn, plus the setting of calm spend, below which nothing burns. By hand.
    calm_ratio: float = 1.2
    #: b in users ~ requests ** b of an ordinary fleet, as in the demand model. Prototype.
    exponent: float = 0.75
    #: Share of the requests that users must explain where demand does not judge yet. By hand, after a loop of
    #: $1,138 on a hardly used key had been called growth.
    explained_share: float = 0.1


P = Params()

MACHINES: tuple[Role, ...] = ("node", "group")


DOLLARS = Family(
    "dollars",
    Confidence(((10, 0.6), (29, 0.9)), MEASURED),
    Docs(
        "past head",
        "spend that its own past does not explain",
        "dollars over those of the same hour of the day and the week, in one of five windows",
        "page, notice; digest where users explain it",
    ),
    by_past=True,
    statistic=True,
)


class PastRule(Rule):
    """A page where two statistics agree, a notice where nothing else is known; growth that users explain is a line.

    It reads the scores of the dollars head, which every bucket carries, and keeps no state of its own.

    State: none.
    Update: none.
    Score: the larger of the notice and the page score of the head.
    Source: our own, no paper.
    """

    name = "dollars"
    part = "the past head"
    families = (DOLLARS,)
    config = ScoreSettings
    settings_at = "score"

    def __init__(self, config: ScoreSettings, context: RuleContext) -> None:
        self._settings, self._calm_usd_per_hour = config, context.calm_usd_per_hour
        self._billed = context.billed

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway, or of kind growth where users explain it."""
        scores, explained = view.bucket.scores, _explained(view)
        found = []
        for i in np.flatnonzero(self._wanted(view)).tolist():
            channel, grown = int(scores.channel[i]), bool(explained[i])
            by_day = view.registry.scopes[i] in self._billed
            window = "" if by_day else f", over the {window_name(channel, view.step_s)} window"
            page = scores.page[i] >= self._settings.page_threshold + view.raised.page
            notice = scores.notice[i] >= self._settings.notice_threshold + view.raised.notice
            found.append(
                Finding(
                    series=i,
                    family=DOLLARS,
                    variant="day" if by_day else f"{WINDOWS_MIN[channel]:g}min",
                    kind="growth" if grown else "runaway",
                    tier="digest" if grown or not (page or notice) else "page" if page else "notice",
                    score=float(max(scores.notice[i], scores.page[i])),
                    words=f"more than its own past explains{window}"
                    + (", but as much as its users do" if grown else ""),
                )
            )
        return found

    def _wanted(self, view: View) -> Bools:
        scores, registry, settings = view.bucket.scores, view.registry, self._settings
        burning = scores.rate > P.calm_ratio * scores.expected_fast + self._calm_usd_per_hour
        high = (scores.notice >= settings.digest_threshold) | (scores.page >= settings.page_threshold)
        wanted: Bools = high & burning & registry["detect"] & ~registry["planned"]
        for role in MACHINES:
            wanted[registry.of_role(role)] = False  # a machine costs what it costs; there are rules for them
        return wanted


def _explained(view: View) -> Bools:
    """Series whose users explain what they spend, as far as demand can say."""
    explained = np.zeros(len(view.bucket.scores.notice), np.bool_)
    if view.demand is not None:
        # Only of a series that demand judges is it known that it would speak up if users explained too little.
        judged = view.demand.users_known & view.demand.mature
        explained[view.principals.index] = view.demand.users_reported & (judged | _as_users_do(view))
    return explained


def _as_users_do(view: View) -> Bools:
    """Whether the users of this bucket would ask that much in an ordinary fleet; True where nobody asks."""
    amounts = view.principals.amounts
    share: Bools = amounts.users ** (1 / P.exponent) >= P.explained_share * amounts.requests
    return share
