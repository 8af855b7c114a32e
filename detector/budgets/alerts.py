"""The content of alerts about budgets: sentences, figures and who spent the money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from curb.detector.budgets import wording as words
from curb.detector.budgets.amounts_by_period import Expansion
from curb.detector.budgets.budget import AlertTimes
from curb.detector.budgets.burn import RULES, BurnWindows
from curb.detector.budgets.burn_alerts import BurnReport, Moment
from curb.detector.budgets.rows import BudgetRows
from curb.detector.budgets.status import BudgetView
from curb.stream.records.revisions import alert_id_of, fingerprint_of
from curb.stream.records.spend import Alert, BudgetStatus, Tier


def tier_of(threshold: float) -> Tier:
    """The tier of an alert on a threshold (percent)."""
    if threshold >= 100:
        return "page"
    return "notice" if threshold > 50 else "digest"


def spent_fingerprint(rows: BudgetRows, row: int, period_start: float | None = None) -> str:
    """The identity of the alert on what a row has spent of a period, the open one if none is given."""
    budget, tags = rows.budget(row), sorted(rows.tags[row].items())
    start = float(rows["period_start"][row]) if period_start is None else period_start
    return fingerprint_of("budget", budget.scope, tags, budget.name, start)


class BudgetAlerts:
    """Makes alerts and the fields of their revisions; has no state of its own."""

    def __init__(self, alerts: AlertTimes, rows: BudgetRows, burn: BurnWindows, view: BudgetView) -> None:
        self._alerts, self._rows, self._burn, self._view = alerts, rows, burn, view

    def crossed(self, row: int, status: BudgetStatus, moment: Moment, below: Sequence[str]) -> Alert:
        """A row crossed the threshold in `status`; so did the rows named in `below`, which get no own alert.

        It is the one alert of this row and period: higher thresholds are revisions of it.
        """
        return self._first(
            row, spent_fingerprint(self._rows, row), moment.at, self.threshold(row, status, moment, below)
        )

    def expanded(self, expansion: Expansion, end: float, at: float) -> Alert:
        """The amount of a row has grown by itself."""
        row, rule = expansion.row, self._rows.budget(expansion.row).auto_expand
        assert rule is not None  # only such a row grows
        (status,) = self._view.statuses([row], [0.0], end)
        first = words.expanded(self._view.who(row), status, expansion.usd, expansion.used, rule.clean_days)
        pace, none = np.full(len(self._rows), status.usd_per_hour), np.zeros(len(self._rows))
        fields = self._figures(row, status, "digest", Moment(end, at, pace, pace, none), first, [])
        fields |= {"tier": "digest", "channel": "budget/expanded"}
        return self._first(row, self._fingerprint(row, "expanded"), at, fields)

    def _first(self, row: int, fingerprint: str, at: float, fields: Mapping[str, Any]) -> Alert:
        return Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, at),
            revision=1,
            status="firing",
            kind="budget",
            scope=self._rows.budget(row).scope,
            tags=self._rows.tags[row],
            fired_at=at,
            updated_at=at,
            **fields,
        )

    def _fingerprint(self, row: int, what: object) -> str:
        budget, tags = self._rows.budget(row), sorted(self._rows.tags[row].items())
        return fingerprint_of("budget", budget.scope, tags, budget.name, what, float(self._rows["period_start"][row]))

    def threshold(self, row: int, status: BudgetStatus, moment: Moment, below: Sequence[str]) -> dict[str, Any]:
        """Fields of an alert on the threshold in `status`."""
        left_s, tier = max(0.0, status.period_end - moment.end), tier_of(status.threshold)
        rate, by_day = float(moment.rate[row]), self._rows.is_billed(row)
        first = words.spent(self._view.who(row), status, rate, left_s, by_day=by_day)
        fields = self._figures(row, status, tier, moment, first, below)
        return {**fields, "tier": tier, "channel": f"budget/{status.threshold:g}"}

    def ended(self, row: int, status: BudgetStatus, at: float) -> dict[str, Any]:
        """Fields of the last revision of an alert: what the whole period has cost."""
        none = np.zeros(len(self._rows))
        over = msgspec.structs.replace(
            status, usd_per_hour=0.0, forecast_usd=None, forecast_low_usd=None, forecast_high_usd=None, breach_at=None,
            breach_probability=None,
        )  # fmt: skip
        moment = Moment(status.period_end, at, none, none, none)
        return self._figures(row, over, "page", moment, words.spent_in_all(self._view.who(row), over), [])

    def burning(self, report: BurnReport, fired: float, moment: Moment) -> dict[str, Any]:
        """Fields of an alert on a burn rate; `fired` is the highest threshold that fired, in percent."""
        row, rule = report.row, RULES[report.rule]
        (status,) = self._view.statuses([row], [fired], moment.end)
        window_usd = self._burn.long_usd(row, rule)
        even_usd = status.amount_usd / (status.period_end - status.period_start) * rule.long_s
        first = words.burns(self._view.who(row), status, rule.window, window_usd, window_usd / even_usd)
        return {
            **self._figures(row, status, rule.tier, moment, first, report.below),
            "fingerprint": self._fingerprint(row, "burn"),
            "tier": rule.tier,
            "scope": status.scope,
            "tags": self._rows.tags[row],
            "channel": rule.channel,
            "score": window_usd / even_usd,
        }

    def _figures(
        self, row: int, status: BudgetStatus, tier: Tier, moment: Moment, first: str, below: Sequence[str]
    ) -> dict[str, Any]:
        """The dollars of an alert, since the budget is counted.

        Expected is the amount, and in excess what is over it. At risk is the spend over the amount by the time a person
        responds, if the rate of now goes on.
        """
        rate, alerts = float(moment.rate[row]), self._alerts
        response_s = alerts.response_page_s if tier == "page" else alerts.response_notice_s
        left_s = max(0.0, status.period_end - moment.end)
        projected_usd = status.spent_usd + rate * min(response_s, left_s) / 3600
        requests = float(moment.requests[row])
        return {
            "started_at": status.counted_from,
            "expected_usd": status.amount_usd,
            "actual_usd": status.spent_usd,
            "excess_usd": max(0.0, status.spent_usd - status.amount_usd),
            "usd_per_hour": rate,
            "expected_usd_per_hour": float(moment.usual[row]),
            "requests_per_minute": requests if requests > 1e-6 else None,
            "dollars_at_risk": max(0.0, projected_usd - status.amount_usd),
            "score": 100 * status.spent_usd / status.amount_usd,
            "budget": status,
            "money": "billed" if self._rows.is_billed(row) else "estimated",
            "causes": self._view.causes(row),
            "explanation": self._view.sentences(row, status, first, below),
        }
