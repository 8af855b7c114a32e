"""Findings of the dollars head: spend that its own past does not explain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curb.detector.heads.settings import ScoreSettings
from curb.detector.heads.windows import WINDOW_NAMES, WINDOWS_MIN
from curb.detector.state.view import Finding, View

_CALM_RATIO = 1.2
#: Where it is not known how the users of a principal grow with its requests they are taken for an ordinary fleet's,
#: and explain what they ask for by this share of it.
_EXPONENT, _EXPLAINED_SHARE = 0.75, 0.1


def findings(view: View, settings: ScoreSettings, calm_usd_per_hour: float) -> list[Finding]:
    """A page where two statistics agree, a notice where nothing else is known; growth that users explain is a line."""
    scores, registry = view.bucket.scores, view.registry
    burning = scores.rate > _CALM_RATIO * scores.expected_fast + calm_usd_per_hour
    high = (scores.notice >= settings.digest_threshold) | (scores.page >= settings.page_threshold)
    wants = high & burning & registry["detect"] & ~registry["planned"]
    for role in ("node", "group"):
        wants[registry.of_role(role)] = False  # a machine costs what it costs; there are rules for them
    explained = np.zeros(len(wants), np.bool_)
    if view.demand is not None:
        # Only of a series that demand judges is it known that it would speak up if users explained too little.
        judged = view.demand.users_known & view.demand.mature
        explained[view.principals.index] = view.demand.users_told & (judged | _as_users_do(view))
    found = []
    for i in np.flatnonzero(wants).tolist():
        channel = int(scores.channel[i])
        page = scores.page[i] >= settings.page_threshold + view.raised.page
        notice = scores.notice[i] >= settings.notice_threshold + view.raised.notice
        grown = bool(explained[i])
        found.append(
            Finding(
                series=i,
                channel=f"dollars/{WINDOWS_MIN[channel]:g}min",
                kind="growth" if grown else "runaway",
                tier="digest" if grown or not (page or notice) else "page" if page else "notice",
                score=float(max(scores.notice[i], scores.page[i])),
                words=f"more than its own past explains, over the {WINDOW_NAMES[channel]} window"
                + (", but as much as its users do" if grown else ""),
            )
        )
    return found


def _as_users_do(view: View) -> NDArray[np.bool_]:
    """Whether the users of this bucket would ask that much in an ordinary fleet; True where nobody asks."""
    amounts = view.principals.amounts
    share: NDArray[np.bool_] = amounts.users ** (1 / _EXPONENT) >= _EXPLAINED_SHARE * amounts.requests
    return share
