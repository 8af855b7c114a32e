"""The rule for requests that fail and cost all the same: a retry storm."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Subjects, View


class Params(NamedTuple):
    #: Minutes of the averages; at least one step. Prototype.
    window_min: float = 20.0


P = Params()


class Config(RuleConfig):
    """Requests that fail and cost all the same: retry storms."""

    enabled: bool = Field(default=True, description="Whether error rates are looked at.")
    rate_max: float = Field(default=0.25, gt=0, le=1, description="Share of requests that failed, over 20 minutes.")
    min_errors: float = Field(default=20, ge=1, description="Errors within 20 minutes.")
    min_usd_per_hour: float = Field(default=0.5, ge=0, description="Dollars per hour that the failed share costs.")


ERRORS = Family(
    "errors",
    Confidence(((1, 0.97),), MEASURED),
    Docs(
        "errors",
        "a retry storm",
        "over 20 minutes a quarter of the requests of a key or a job fail, 20 of them at least, and they cost"
        " $0.50 an hour",
        "page",
    ),
)


class ErrorRate(Rule):
    """A page while the share of failed requests over 20 minutes, their number and their cost are all too high.

    Of principals and of their jobs: that work has a name does not make its failures worth their money.

    State: requests, errors and dollars a minute over 20 minutes.
    Update: exponential averages.
    Score: the share of failed requests, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "errors"
    part = "error rates"
    families = (ERRORS,)
    config = Config
    settings_at = "principals.errors"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._step_min = config, context.step_s / 60
        self._minutes = max(P.window_min, self._step_min)
        self._share = self._step_min / self._minutes
        names = ("requests", "errors", "usd")
        self._rates, self._jobs = (Columns({name: Column() for name in names}, 64) for _ in range(2))
        self.parts = {"rates": self._rates, "jobs": self._jobs}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        return self._judge(view.principals, self._rates) + self._judge(view.jobs(), self._jobs)

    def _judge(self, subjects: Subjects, rates: Columns) -> list[Finding]:
        if not len(subjects.index):
            return []
        amounts, settings = subjects.amounts, self._settings
        rates.grow(len(subjects.index))
        # What a limit refused, one of Curb's perhaps, has cost nothing.
        requests, errors = amounts.requests - amounts.refused, amounts.errors - amounts.refused
        for name, value in (("requests", requests), ("errors", errors), ("usd", amounts.cost)):
            held = rates[name]
            held += self._share * (value / self._step_min - held)
        requests, errors = rates["requests"], rates["errors"]
        failed = errors / np.maximum(requests, 1e-9)
        usd_per_hour = 60 * rates["usd"] * failed
        fires = (failed > settings.rate_max) & (errors * self._minutes > settings.min_errors)
        fires &= usd_per_hour > settings.min_usd_per_hour
        return [
            Finding(
                series=int(subjects.index[row]),
                family=ERRORS,
                kind="runaway",
                tier="page",
                score=float(failed[row] / settings.rate_max),
                words=f"{100 * failed[row]:.0f} % of its requests fail and cost ${usd_per_hour[row]:,.2f}/h",
                shared_by="errors",
            )
            for row in np.flatnonzero(fires).tolist()
        ]

    def forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Incidents are over: their errors are taken out of the window."""
        for subjects, rates in ((view.principals, self._rates), (view.jobs(), self._jobs)):
            rates["errors"][np.flatnonzero(over[subjects.index])] = 0.0
