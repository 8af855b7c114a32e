"""The picture of an incident: the spend of its series against the usual range, and what happened when."""

from __future__ import annotations

import asyncio
import logging

from curb.actions.notify import wording
from curb.detector.settings import DetectorSettings
from curb.format import tags_text
from curb.stream.errors import PermanentError
from curb.stream.log.protocol import Log
from curb.views.charts import spend_chart
from curb.views.explanation import BudgetLine, Explanation, NoSuchAlertError, explain, read_log
from curb.views.recent_burn import RecentBurn

logger = logging.getLogger(__name__)


class IncidentChart:
    """Draws in a thread: a picture takes half a second. `budgets` are read again each time."""

    def __init__(self, log: Log, recent: RecentBurn, settings: DetectorSettings) -> None:
        self._log, self._recent, self._settings = log, recent, settings
        self._warned = False

    async def __call__(self, alert_id: str, budgets: list[BudgetLine] | None = None) -> bytes | None:
        """The PNG, or None where there is nothing to draw or nothing to draw with. TransientError: the log is away."""
        recorded = await read_log(self._log, alert_id)
        recorded.budgets = budgets or []
        if (alert := recorded.alerts.get(alert_id)) is not None:
            recorded.points = self._recent.points(alert)
        try:
            found = explain(alert_id, recorded, self._settings)
            return await asyncio.to_thread(draw, found)
        except (NoSuchAlertError, ValueError):
            return None
        except PermanentError as error:
            if not self._warned:
                logger.warning("incidents have no pictures", extra={"why": str(error)})
            self._warned = True
            return None


_TITLE_CHARS, _LABEL_CHARS = 96, 44
_HIGHEST_BUDGET = 1.5
#: A picture begins so long before the excess, but an alert that came late is not lost in what was before it.
_BEFORE_S, _LONGEST_BEFORE_S = 2 * 3600.0, 12 * 3600.0


def draw(found: Explanation) -> bytes:
    """A PNG, see `spend_chart`. Raises ValueError where the burn is known at fewer than two moments."""
    alert = found.alert
    begin = max(alert.started_at - _BEFORE_S, alert.fired_at - _LONGEST_BEFORE_S)
    points = [point for point in found.points if point.at >= begin]
    if len(points) < 2:
        raise ValueError("the burn of this series is known at fewer than two moments: there is nothing to draw yet")
    expected = [point.expected_usd_per_hour for point in points]
    low, high = found.usual_range or (None, None)
    return spend_chart(
        [point.at for point in points],
        [point.usd_per_hour for point in points],
        expected,
        expected_low=None if low is None else [low * each for each in expected],
        expected_high=None if high is None else [high * each for each in expected],
        title=_cut(f"{alert.tier} {alert.kind}: {tags_text(alert.tags)}", _TITLE_CHARS),
        subtitle=_cut(f"{alert.reason or alert.channel}  ·  {wording.over(alert, ' expected')}", 150),
        events=[(mark.at, _cut(mark.text, _LABEL_CHARS)) for mark in found.marks],
        leases=_leases(found),
        budget_line=_budget_line(found, max(point.usd_per_hour for point in points)),
        by_day=wording.is_by_day(alert),
    )


def _budget_line(found: Explanation, highest: float) -> float | None:
    """The narrowest budget of the series spread over its period; one far above all that is drawn would flatten it."""
    own = sorted(found.budgets, key=lambda line: -len(line.tags))
    budget = own[0].budget if own else found.alert.budget
    if budget is None or budget.period_end <= budget.period_start:
        return None
    usd_per_hour = budget.amount_usd * 3600.0 / (budget.period_end - budget.period_start)
    return usd_per_hour if 0 < usd_per_hour <= _HIGHEST_BUDGET * highest else None


def _leases(found: Explanation) -> list[tuple[float, float]]:
    """When a limit was in force, from the first that was set to the last that ended."""
    begins = [entry.at for entry in found.actions if entry.state == "applied"]
    if not begins:
        return []
    restored = [entry.at for entry in found.actions if entry.state == "restored"]
    ends = restored or [entry.lease_expires_at for entry in found.actions if entry.lease_expires_at is not None]
    return [(min(begins), max(ends, default=found.points[-1].at))]


def _cut(text: str, longest: int) -> str:
    line = "".join(each if each.isprintable() else " " for each in text)
    return line if len(line) <= longest else line[: longest - 1] + "…"
