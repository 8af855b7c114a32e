"""The rule for usage that is missing: requests that end well and report neither tokens nor a cost, as streams may."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from curb.detector.state import wording as explain
from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View


class Params(NamedTuple):
    """Unit, meaning and reason of each number. By hand: chosen without measuring."""

    #: Minutes of the averages of now; at least one step: an alert within the hour. By hand.
    window_min: float = 30.0
    #: Days of the usual share and dollars per request. By hand: a week, with its weekend.
    past_days: float = 7.0
    #: Requests after which the own past of a key is believed; before, it is what its neighbours' is. By hand.
    enough: float = 100.0


P = Params()
#: Models that are named in an alert. By hand: a sentence stays short.
_MODELS = 2


class Config(RuleConfig):
    """Requests whose usage is missing, so that they look free."""

    enabled: bool = Field(default=True, description="Whether missing usage alerts.")
    over_usual: float = Field(
        default=0.2, gt=0, le=1, description="Share of requests without usage, over 30 minutes, above the usual share."
    )
    min_requests: float = Field(default=20, ge=1, description="Requests without usage within 30 minutes.")
    min_usd_per_hour: float = Field(
        default=0.5, ge=0, description="What they would cost by the usual dollars per request, dollars per hour."
    )


MISSING_USAGE = Family(
    "missing_usage",
    NOT_MEASURED,
    Docs(
        "missing usage",
        "calls that look free, such as streams without usage",
        "over 30 minutes a fifth more of a key's requests than usual report neither tokens nor a cost, 20 of them at"
        " least, and would cost $0.50 an hour",
        "notice",
    ),
    by_worth=False,
    counts_in_words=True,
)


class MissingUsage(Rule):
    """A notice while far more requests of a principal than usual come without tokens and without a cost.

    State: requests and those without usage a minute over 30 minutes; the same and the dollars over a week.
    Update: exponential averages; the week learns nothing while the rule finds something.
    Score: the share without usage less the usual one, as a multiple of the limit. A principal that is new is compared
    with all others together. The dollars are an estimate: requests without usage times the usual dollars per request.
    Source: our own, no paper.
    """

    name = "missing_usage"
    part = "missing usage"
    families = (MISSING_USAGE,)
    config = Config
    settings_at = "principals.missing_usage"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        self._minutes = max(P.window_min, self._step_min)
        self._now = Columns({name: Column() for name in ("requests", "unmetered")}, 64)
        self._past = Columns({name: Column() for name in ("requests", "unmetered", "usd", "seen")}, 64)
        #: Dollars that the requests without usage are estimated at, since they began to be too many.
        self._missing = Columns({"usd": Column()}, 64)
        self.parts = {"now": self._now, "past": self._past, "missing": self._missing}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind feed; sets `view.estimated_usd`."""
        subjects = view.principals
        amounts, count = subjects.amounts, len(subjects.index)
        for columns in (self._now, self._past, self._missing):
            columns.grow(count)
        good = np.maximum(amounts.requests - amounts.errors, 0.0)
        share = self._step_min / self._minutes
        for name, value in (("requests", good), ("unmetered", amounts.unmetered)):
            held = self._now[name]
            held += share * (value / self._step_min - held)
        usual, unit_usd = self._usual()
        fires, over, usd_per_hour = self._judge(usual, unit_usd)
        view.estimated_usd = np.where(fires, amounts.unmetered * unit_usd, 0.0)
        self._missing["usd"][...] = np.where(fires, self._missing["usd"] + view.estimated_usd, 0.0)
        if not view.bucket.gap:
            self._learn(good, amounts.unmetered, amounts.cost, ~fires & ~subjects.frozen)
        return [
            Finding(
                series=int(subjects.index[row]),
                family=MISSING_USAGE,
                kind="feed",
                tier="notice",
                score=float(over[row] / self._settings.over_usual),
                words=self._words(row, usual[row], usd_per_hour[row], _models(view, int(subjects.index[row]))),
                excess_usd=float(self._missing["usd"][row]),
                lasting=True,
            )
            for row in np.flatnonzero(fires).tolist()
        ]

    def _usual(self) -> tuple[Floats, Floats]:
        """The usual share without usage and dollars per request with it, of each principal or of its neighbours."""
        past = self._past
        metered = past["requests"] - past["unmetered"]
        known = past["seen"] >= P.enough
        all_share = past["unmetered"].sum() / max(past["requests"].sum(), 1e-9)
        all_usd = past["usd"].sum() / max(metered.sum(), 1e-9)
        share = np.where(known, past["unmetered"] / np.maximum(past["requests"], 1e-9), all_share)
        priced = known & (metered > 0) & (past["usd"] > 0)
        return share, np.where(priced, past["usd"] / np.maximum(metered, 1e-9), all_usd)

    def _judge(self, usual: Floats, unit_usd: Floats) -> tuple[Bools, Floats, Floats]:
        now, settings = self._now, self._settings
        over = now["unmetered"] / np.maximum(now["requests"], 1e-9) - usual
        usd_per_hour = 60 * now["unmetered"] * unit_usd
        fires = (over > settings.over_usual) & (now["unmetered"] * self._minutes > settings.min_requests)
        return fires & (usd_per_hour > settings.min_usd_per_hour), over, usd_per_hour

    def _learn(self, good: Floats, unmetered: Floats, usd: Floats, learns: Bools) -> None:
        past = self._past
        weight = np.where(learns, self._step_min / (1440 * P.past_days), 0.0)
        past["seen"][...] += np.where(learns, good, 0.0)
        for name, value in (("requests", good), ("unmetered", unmetered), ("usd", usd)):
            held = past[name]
            held += weight * (value / self._step_min - held)

    def _words(self, row: int, usual: float, usd_per_hour: float, models: str) -> str:
        now = self._now
        share = now["unmetered"][row] / max(now["requests"][row], 1e-9)
        return (
            f"{share:.0%} of its successful requests{models} report neither tokens nor a cost, usually {usual:.0%};"
            f" they cost about ${usd_per_hour:,.2f}/h by the usual dollars per request,"
            f" ${self._missing['usd'][row]:,.2f} so far (an estimate): make the client or the gateway ask for usage in"
            " streams (stream_options.include_usage)"
        )


def _models(view: View, principal: int) -> str:
    """The models of the calls without usage in this bucket, most calls first; empty where origins are not counted."""
    origins, registry = view.of("origin"), view.registry
    blind = [
        (float(count), int(origins.index[row]))
        for row in np.flatnonzero(origins.amounts.unmetered > 0).tolist()
        if (count := origins.amounts.unmetered[row]) and registry.above(int(origins.index[row])) == principal
    ]
    names = list(dict.fromkeys(registry.tags[series].get("model", "") for _, series in sorted(blind, reverse=True)))
    named = [explain.short(name) for name in names if name][:_MODELS]
    return f" to {' and '.join(named)}" if named else ""
