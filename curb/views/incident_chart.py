"""The chart of an incident for notifiers, from this process and from the log."""

from __future__ import annotations

import asyncio
import logging

from curb.detector.settings import DetectorSettings
from curb.stream.errors import PermanentError
from curb.stream.log.protocol import Log
from curb.views import explain_chart
from curb.views.explanation import BudgetLine, NoSuchAlertError, explain, read_log
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
            return await asyncio.to_thread(explain_chart.draw, found)
        except (NoSuchAlertError, ValueError):
            return None
        except PermanentError as error:
            if not self._warned:
                logger.warning("incidents have no pictures", extra={"why": str(error)})
            self._warned = True
            return None
