"""The rule on loops: calls that are the same, a conversation that only grows, a tool that fails again and again."""

from __future__ import annotations

from pydantic import Field, model_validator

from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.stream.money import usd


class Config(RuleConfig):
    """Calls that go round; needs `loops` and a source that shows prompts."""

    enabled: bool = Field(default=True, description="Whether loops raise alerts of their own, where `loops` is on.")
    min_usd_per_hour: float = Field(
        default=10.0, ge=0, description="Dollars an hour of the calls of a loop below which it is no notice."
    )
    page_usd_per_hour: float = Field(default=100.0, ge=0, description="Dollars an hour from which it is a page.")

    @model_validator(mode="after")
    def _page_above_notice(self) -> Config:
        if self.page_usd_per_hour < self.min_usd_per_hour:
            raise ValueError("page_usd_per_hour must be at least min_usd_per_hour")
        return self


REPETITION = Family(
    "repetition",
    NOT_MEASURED,
    Docs(
        "repetition",
        "loops, by what calls repeat",
        "of the last 40 calls in 15 minutes at least 20, and four fifths, are the same as an earlier one; a "
        "conversation that grew at 20 calls in a row; a tool that failed 8 times in a row; twice the key's habit, "
        "from $10 an hour",
        "page from $100 an hour, else notice",
    ),
    by_worth=False,
)


class Repetition(Rule):
    """What loops repeat, where sources show prompts: keyed hashes of calls, see `curb.detector.state.loops`.

    State: none; the shard keeps the newest calls and habits.
    Update: none.
    Score: dollars per hour of the calls of the loop, as a multiple of the limit.
    Source: our own, no paper.
    """

    name = "repetition"
    part = "calls that repeat"
    families = (REPETITION,)
    config = Config
    settings_at = "principals.repetition"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._config = config

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway; announced work and jobs may repeat themselves."""
        found = []
        for series, loops in sorted(view.loops.items()):
            loop = max(loops, key=lambda each: each.usd_per_hour)
            rate = loop.usd_per_hour
            if rate < self._config.min_usd_per_hour or view.registry["planned"][series] or view.is_planned(series):
                continue
            found.append(
                Finding(
                    series=series,
                    family=REPETITION,
                    kind="runaway",
                    tier="page" if rate >= self._config.page_usd_per_hour else "notice",
                    score=rate / max(self._config.min_usd_per_hour, 1.0),
                    words=f"{loop.words}, which burns {usd(rate)}/h",
                    excess_usd=loop.usd,
                    variant=loop.kind,
                )
            )
        return found
