"""The rule for principals never seen before: statistics know nothing of them, so the way they spend decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state.columns import Column, Columns, Floats
from curb.detector.state.rule import TUNING_STREAMS, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import Subjects, View


class Params(NamedTuple):
    #: b in users ~ requests ** b of an ordinary fleet. Prototype.
    exponent: float = 0.75
    #: Minutes over which the sums of a newcomer leak away: a day. Prototype.
    day_min: float = 1440.0
    #: Requests below which only dollars decide. Prototype.
    least_requests: int = 20
    #: Days that a newcomer stays one, whatever demand says. As long as demand takes to judge. By hand.
    young_days: float = 2.5
    #: Bins of the fleet's ln tokens per request, up to 20 million. By hand.
    bins: int = 68
    #: Width of a bin: 28 %. By hand.
    width: float = 0.25
    #: Days in which a prompt of the fleet fades to 1/e. By hand.
    forget_days: float = 14.0
    #: Days of age from which on a key belongs to the fleet. By hand.
    settled_days: float = 1.0
    #: Share of the fleet below what counts as large. Prototype.
    high_share: float = 0.95


P = Params()


class Config(RuleConfig):
    """Keys that nobody has seen before, while statistics know nothing of them."""

    enabled: bool = Field(default=True, description="Whether new principals are looked at.")
    limit_usd: float = Field(
        default=5.0, gt=0, description="Dollars in a day from which on a newcomer's usage must look like that of users."
    )
    organic_share_min: float = Field(
        default=0.12,
        ge=0,
        le=1,
        description="Share of its requests that its users explain below which a newcomer is taken for a machine.",
    )
    doubtful_share_min: float = Field(
        default=0.2, ge=0, le=1, description="The same from `doubtful_usd` on, where there is more at stake."
    )
    doubtful_usd: float = Field(default=20.0, gt=0, description="Dollars in a day for `doubtful_share_min`.")
    page_share_min: float = Field(
        default=0.07,
        ge=0,
        le=1,
        description="The same for a page: few users that ask a lot are a notice until `page_usd` are spent.",
    )
    page_usd: float = Field(default=100.0, gt=0, description="Dollars in a day from which on any doubt is a page.")
    tokens_ratio: float = Field(
        default=3.0, gt=1, description="Input tokens per request as a multiple of the fleet's 95th percentile."
    )
    unknown_usd: float = Field(
        default=50.0, gt=0, description="Dollars in a day where users are not known: a sum alone has to decide."
    )


NEW_PRINCIPAL = Family(
    "new_principal",
    Confidence(((1, 0.83),), TUNING_STREAMS),
    Docs(
        "new principal",
        "a key nobody knows, used like a machine",
        "from $5 in a day: users explain less than 12 % of its requests (20 % from $20 on), or prompts are 3 "
        "times as long as the fleet's 95th percentile. Without users: $50 in its first day, and more than 95 "
        "% of the keys spend. An old key that was hardly used, where users explain less than 7 %",
        "page; notice while users explain 7 % or more, up to $100 in a day",
    ),
    lasting_state=True,
    needs_warmup=False,
)


class NewPrincipal(Rule):
    """A page for newcomers that spend like machines, a notice while few users that ask a lot may explain it.

    State: sums of a day of each key and job, and prompt sizes of the fleet.
    Update: with every bucket.
    Score: dollars, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "new_principal"
    part = "new principals"
    families = (NEW_PRINCIPAL,)
    config = Config
    settings_at = "principals.new_principal"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings, self._warmup_s = config, context.warmup_s
        self._share = min(1.0, context.step_s / 60 / P.day_min)
        self._sums = Columns({name: Column() for name in ("usd", "requests", "organic", "tokens", "users")}, 64)
        self._jobs = Columns({name: Column() for name in ("usd", "requests", "tokens")}, 64)
        self.parts = {"sums": self._sums, "jobs": self._jobs}
        self._fleet = np.zeros(P.bins)
        #: The dollars of a day of each key of the fleet, or what they were read as; see `_usual_usd`.
        self._fleet_usd = np.zeros(1)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind abusive."""
        subjects, amounts = view.principals, view.principals.amounts
        self._sums.grow(len(subjects.index))
        organic = np.minimum(amounts.requests, np.maximum(amounts.users, 0.5) ** (1 / P.exponent))
        explained = np.where(amounts.users > 0, organic, 0.0)
        values = (amounts.cost, amounts.requests, explained, amounts.input_tokens, amounts.users)
        for name, value in zip(("usd", "requests", "organic", "tokens", "users"), values, strict=True):
            held = self._sums[name]
            held *= 1 - self._share  # a sum that leaks away over a day
            held += value
        findings = self._strange_jobs(view)
        judged = [(self._judge, row) for row in np.flatnonzero(self._young(view, subjects)).tolist()]
        judged += [
            (self._judge_hardly_known, row) for row in np.flatnonzero(self._hardly_known(view, subjects)).tolist()
        ]
        findings += [each for judge, row in judged if (each := judge(row, subjects)) is not None]
        self._learn(view, subjects)
        return findings

    def forget(self, view: View, over: NDArray[np.bool_]) -> None:
        """Incidents are over: their spend leaves the sums, or the next ordinary hour would be reported for it."""
        for subjects, sums in ((view.principals, self._sums), (view.jobs(), self._jobs)):
            sums.reset(over[subjects.index])

    def _strange_jobs(self, view: View) -> list[Finding]:
        """A new job is not reported, unless its prompts are like nothing the fleet has."""
        jobs = view.jobs()
        if not len(jobs.index):
            return []
        usual = self._usual_tokens()
        self._jobs.grow(len(jobs.index))
        for name, value in (
            ("usd", jobs.amounts.cost),
            ("requests", jobs.amounts.requests),
            ("tokens", jobs.amounts.input_tokens),
        ):
            held = self._jobs[name]
            held *= 1 - self._share
            held += value
        if usual is None or view.stream_days * 86400 < self._warmup_s:
            return []
        size = self._jobs["tokens"] / np.maximum(self._jobs["requests"], 1e-9)
        strange = (size > self._settings.tokens_ratio * usual) & (self._jobs["requests"] >= P.least_requests)
        strange &= (self._jobs["usd"] >= self._settings.limit_usd) & (jobs.age_days < P.young_days)
        strange &= jobs.amounts.cost > 0
        return [
            self._finding(
                row,
                jobs,
                "page",
                f"a new job with {size[row]:,.0f} input tokens per request, {_times_usual(float(size[row]), usual)}",
                float(self._jobs["usd"][row]),
            )
            for row in np.flatnonzero(strange).tolist()
        ]

    def _young(self, view: View, subjects: Subjects) -> NDArray[np.bool_]:
        late_born = subjects.first_seen - view.stream_since >= self._warmup_s
        # A key that was known and silent is as unknown as a new one until there is something to judge it by.
        unknown = late_born if view.demand is None else ~view.demand.mature
        return unknown & (late_born | (subjects.age_days >= P.young_days)) & self._spends(view, subjects)

    def _hardly_known(self, view: View, subjects: Subjects) -> NDArray[np.bool_]:
        """Keys with a past in which too little was seen of their users to say what they explain."""
        if view.demand is None:
            return np.zeros(len(subjects.index), np.bool_)
        unclear = view.demand.mature & view.demand.users_reported & ~view.demand.users_known
        return unclear & self._spends(view, subjects)

    def _spends(self, view: View, subjects: Subjects) -> NDArray[np.bool_]:
        settled = view.stream_days * 86400 >= self._warmup_s
        spends: NDArray[np.bool_] = (self._sums["usd"] >= self._settings.limit_usd) & (subjects.amounts.cost > 0)
        return spends & settled

    def _judge(self, row: int, subjects: Subjects) -> Finding | None:
        settings = self._settings
        usd, requests = float(self._sums["usd"][row]), float(self._sums["requests"][row])
        if requests < P.least_requests:
            return self._by_sum(row, subjects, usd)
        size = float(self._sums["tokens"][row]) / requests
        usual = self._usual_tokens()
        if usual is not None and size > settings.tokens_ratio * usual:
            words = f"{size:,.0f} input tokens per request, {_times_usual(size, usual)}"
            return self._finding(row, subjects, "page", words, usd)
        if self._sums["users"][row] <= 0:
            return self._by_sum(row, subjects, usd)
        share = float(self._sums["organic"][row]) / requests
        if share < settings.organic_share_min or (share < settings.doubtful_share_min and usd >= settings.doubtful_usd):
            sure = share < settings.page_share_min or usd >= settings.page_usd
            words = f"new, and its users explain {100 * share:.0f} % of its requests"
            return self._finding(row, subjects, "page" if sure else "notice", words, usd)
        return None

    def _judge_hardly_known(self, row: int, subjects: Subjects) -> Finding | None:
        """Its prompts and dollars have a past of their own; only what no users explain is beyond doubt."""
        requests = float(self._sums["requests"][row])
        if requests < P.least_requests or self._sums["users"][row] <= 0:
            return None
        share = float(self._sums["organic"][row]) / requests
        if share >= self._settings.page_share_min:
            return None
        words = f"hardly used before, and its users explain {100 * share:.0f} % of its requests"
        return self._finding(row, subjects, "page", words, float(self._sums["usd"][row]))

    def _by_sum(self, row: int, subjects: Subjects, usd: float) -> Finding | None:
        """Users are not known: a first day that costs more than that of most keys has to do."""
        if subjects.age_days[row] > 1.0 or usd < max(self._settings.unknown_usd, self._usual_usd()):
            return None
        return self._finding(row, subjects, "page", f"new, and ${usd:,.0f} in its first day", usd)

    def _finding(self, row: int, subjects: Subjects, tier: Any, words: str, usd: float) -> Finding:
        return Finding(
            int(subjects.index[row]), NEW_PRINCIPAL, "abusive", tier, usd / self._settings.limit_usd, words, usd
        )

    def _usual_tokens(self) -> float | None:
        """The 95th percentile of the fleet's input tokens per request."""
        total = self._fleet.sum()
        if total <= 0:
            return None
        at = int(np.searchsorted(np.cumsum(self._fleet), P.high_share * total))
        return float(np.exp(P.width * (at + 1)))

    def _usual_usd(self) -> float:
        """What all but the largest keys of the fleet cost in a day: the 95th percentile."""
        return float(np.percentile(self._fleet_usd, 95))

    def _learn(self, view: View, subjects: Subjects) -> None:
        """The fleet is what is known for longer and not under suspicion; every series counts alike."""
        known = (subjects.amounts.requests > 0) & ~subjects.frozen & (subjects.age_days >= P.settled_days)
        known |= (subjects.amounts.requests > 0) & (view.stream_days * 86400 < self._warmup_s)
        size: Floats = subjects.amounts.input_tokens[known] / subjects.amounts.requests[known]
        bins = np.clip(np.log(np.maximum(size, 1.0)) / P.width, 0, P.bins - 1).astype(np.intp)
        settled = subjects.age_days >= P.settled_days
        if settled.any():
            self._fleet_usd = self._sums["usd"][settled]
        self._fleet *= np.exp(-view.step_s / 86400 / P.forget_days)
        np.add.at(self._fleet, bins, 1.0)

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and what the fleet is used to."""
        return {**super().dump(), "fleet": self._fleet, "usual": np.array([self._usual_usd()])}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        super().load(arrays)
        self._fleet = np.array(arrays["fleet"])
        self._fleet_usd = np.array(arrays["usual"])


def _times_usual(size: float, usual: float) -> str:
    return f"{size / usual:.1f} times what the largest prompts of the fleet have"
