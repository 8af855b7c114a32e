"""The rule on burns that outlast their soft cap: while it holds no head sees them, and they return when it ends."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from curb.detector.state.rule import NOT_MEASURED, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View


class Params(NamedTuple):
    #: Soft alerts in a row from which somebody should look. By definition: once is for the fast lane alone.
    notice_from: int = 2


P = Params()


class Config(RuleConfig):
    """Burns that return when their soft cap ends."""

    enabled: bool = Field(default=True, description="Whether soft alerts in a row raise an alert.")
    page_from: int = Field(default=3, ge=2, description="So many soft alerts in a row are a page; two are a notice.")


AFTER_SOFT_CAP = Family(
    "after_soft_cap",
    NOT_MEASURED,
    Docs(
        "after a soft cap",
        "a burn that returns when its soft cap ends",
        "two soft alerts of a key within 90 minutes, for a quarter of an hour from the last",
        "page from the third, else notice",
    ),
)


class AfterSoftCap(Rule):
    """Each soft cap is short, and while it holds the spend looks usual: only its return shows that the burn goes on.

    State: none; the fast lane counts.
    Update: none.
    Score: soft alerts in a row.
    Source: our own, no paper.
    """

    name = "after_soft_cap"
    part = "burns that return"
    families = (AFTER_SOFT_CAP,)
    config = Config

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._config = config

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway."""
        return [
            Finding(
                series=series,
                family=AFTER_SOFT_CAP,
                kind="runaway",
                tier="page" if count >= self._config.page_from else "notice",
                score=float(count),
                words=f"it burned more than in its highest minute of 28 days {count} times, again after each soft cap",
            )
            for series, count in sorted(view.soft_in_a_row.items())
            if count >= P.notice_from
        ]
