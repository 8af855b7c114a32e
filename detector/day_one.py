"""What Curb can judge from when on: some from the first minute, the rest as history comes; and what it watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curb.detector.heads import demand_model, past
from curb.detector.heads.window_score import SILENT
from curb.detector.rules import growth, new_origin
from curb.detector.settings import DetectorSettings
from curb.detector.state import wording as explain
from curb.detector.state.bucket import Scores
from curb.detector.state.columns import Floats
from curb.detector.state.view import Raised
from curb.stream.money import usd
from curb.stream.time import DAY_S, HOUR_S

#: A series that burns so many times what is expected of it, and this much more ($/h), is watched. Chosen by hand: half
#: of what an alert usually shows.
_TIMES, _MORE_USD_PER_HOUR = 3.0, 0.5


class Ability(NamedTuple):
    """Something that is judged, and the seconds of history it needs; 0 from the first minute on."""

    what: str
    needs_s: float


class Watched(NamedTuple):
    """A series far over what is expected of it, without an alert."""

    scope: str
    tags: dict[str, str]
    usd_per_hour: float
    expected_usd_per_hour: float
    #: Why it is no alert yet, a clause.
    why: str


def abilities(settings: DetectorSettings) -> list[Ability]:
    """What is judged and from when on, by the history it needs."""
    score, rules, feed = settings.score, settings.principals, settings.feed
    floors = f"{past.P.cold_factor:g} times"
    found = [
        (bool(settings.budgets), "budgets and hard caps", 0.0),
        (True, "models without a price, records that are lost, clocks that are ahead", 0.0),
        (rules.errors.enabled, "failing requests that cost", 0.0),
        (
            True,
            f"spend far over a key's own past, as a notice, at {floors} the dollar floors "
            f"({usd(past.P.cold_factor * score.floors_usd[0])} within 5 minutes)",
            float(past.P.look_s),
        ),
        (True, "sources that go quiet", 4 * HOUR_S),
        (rules.new_origin.enabled, "new models and regions of a key", new_origin.P.known_days * DAY_S),
        (feed.enabled, "a kind of data that is missing", feed.all_known_days * DAY_S),
        (True, "requests that users do not explain", demand_model.P.mature_days * DAY_S),
        (rules.new_principal.enabled, "new keys and users", settings.warmup_s),
        (True, "pages and throttles by a key's own past", score.warmup_days * DAY_S),
        (True, "small excesses: the dollar floors are no longer raised", score.settled_days * DAY_S),
        (feed.enabled, "a team's data that are missing", feed.team_known_days * DAY_S),
        (settings.growth.enabled, "slow growth over weeks", 2 * growth.P.old_days * DAY_S),
    ]
    return sorted((Ability(what, needs_s) for on, what, needs_s in found if on), key=lambda each: each.needs_s)


def over_usual(scores: Scores) -> list[int]:
    """The series that burn far more than is expected of them, most dollars first."""
    rate, expected = scores.rate, scores.expected_fast
    found = np.flatnonzero(rate > _TIMES * expected + _MORE_USD_PER_HOUR)
    order: list[int] = found[np.argsort(expected[found] - rate[found], kind="stable")].tolist()
    return order


def why_no_alert(scores: Scores, i: int, age_days: float, settings: DetectorSettings, raised: Raised) -> str:
    """Why series `i`, which is known for `age_days`, has no alert."""
    score = settings.score
    known = f"it is known for {explain.duration(DAY_S * age_days)}"
    if age_days * DAY_S < past.P.look_s:
        return f"{known}: within the first hour nothing is usual yet"
    factor = past.P.young_factor if age_days < score.settled_days else 1.0
    factor = past.P.cold_factor if age_days < score.warmup_days else factor
    needed = [usd(factor * floor) for floor in score.floors_usd[:3]]
    floors = f"{needed[0]} over the expected within 5 minutes, {needed[1]} within 30 or {needed[2]} within 2 hours"
    because = f"; {known}, and until {explain.duration(DAY_S * score.settled_days)} the floors are {factor:g} times"
    needs = score.notice_threshold + raised.notice
    notice = float(scores.notice[i])
    if notice <= SILENT / 2:
        return f"it has not been {floors} for {score.hold_minutes} minutes{because if factor > 1 else ''}"
    return (
        f"its score was at least {notice:.1f} for {score.hold_minutes} minutes; a notice needs {needs:.1f}"
        f"{because if factor > 1 else ''}"
    )


def watched(
    scores: Scores,
    subject: Callable[[int], tuple[str, dict[str, str]]],
    age_days: Floats,
    left_out: Sequence[bool],
    settings: DetectorSettings,
    raised: Raised,
) -> list[Watched]:
    """Series that are far over what is expected of them and not left out (they alert, or are not judged)."""
    return [
        Watched(
            *subject(i),
            float(scores.rate[i]),
            float(scores.expected_fast[i]),
            why_no_alert(scores, i, float(age_days[i]), settings, raised),
        )
        for i in over_usual(scores)
        if not left_out[i]
    ]
