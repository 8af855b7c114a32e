"""The page on detection says the thresholds that ship."""

from __future__ import annotations

import pytest

from curb.detector.heads.demand import P as DEMAND
from curb.detector.settings import DetectorSettings
from tests.house.tree import ROOT

PAGE = (ROOT / "docs" / "explain" / "how-detection-works.md").read_text(encoding="utf-8")
SHIPPED = DetectorSettings()
POINTS = DEMAND.expensive_points
SCORE, UNEXPLAINED, RULES = SHIPPED.score, SHIPPED.unexplained, SHIPPED.principals


def listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def dollars(amount: float) -> str:
    """As the page writes them: $3, and $1.50."""
    return f"${amount:.0f}" if amount % 1 == 0 else f"${amount:.2f}"


@pytest.mark.parametrize(
    "said",
    [
        f"| demand (`detector.unexplained`) | {listed(UNEXPLAINED.floors_usd)} | {listed(UNEXPLAINED.ratio_floors)} |",
        f"| past (`detector.score`) | {listed(SCORE.floors_usd)} | {listed(SCORE.ratio_floors)} |",
        f"| demand | | {UNEXPLAINED.notice_threshold:g} held, or {UNEXPLAINED.at_once_threshold:g} at once | "
        f"{UNEXPLAINED.page_threshold:g} held, or {UNEXPLAINED.at_once_threshold:g} at once; "
        f"a notice of {UNEXPLAINED.notice_threshold + POINTS:g} for ${UNEXPLAINED.page_usd_per_hour:g} an hour; "
        f"nothing below ${UNEXPLAINED.page_usd:g} |",
        f"| past | {SCORE.digest_threshold:g} | {SCORE.notice_threshold:g} held, or "
        f"{SCORE.notice_threshold + SCORE.fast_lane:g} at once |",
        f"must be {UNEXPLAINED.userless_penalty:g} points higher (`userless_penalty`)",
        f"from ${RULES.new_principal.limit_usd:g} in a day: users explain less than "
        f"{RULES.new_principal.organic_share_min:.0%}".replace("%", " %"),
        f"its median {RULES.context.min_ratio:g} times, for {dollars(RULES.context.min_usd_per_day)} a day | notice",
        f"well over those of the days before, for {dollars(RULES.creep.min_usd_per_day)} a day | notice",
        f"than four days ago with 4 % more every day, for {dollars(RULES.weeks.min_usd_per_day)} a day | notice",
        f"| unit cost{'' if RULES.unit_cost.enabled else ' (off by default)'} |",
    ],
)
def test_the_page_says(said: str) -> None:
    assert said in PAGE, f"docs/explain/how-detection-works.md does not say: {said}"
