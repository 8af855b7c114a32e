"""Observations of the demo: alerts and ledger from the log, expected spend from the detector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curb.actions.notify.protocol import Notice
from curb.demo.speeds import Speeds
from curb.demo.stage import Stage
from curb.demo.traffic import Tally
from curb.serve.running import Running
from curb.stream.records.spend import TIER_RANK, Alert, LedgerEntry, NoticeEntry
from curb.views.alerts_and_actions import LogView

#: Event seconds after which a page without an action is not waited for any more.
_LONGEST_WAIT_S = 1200.0


class Observed:
    """Samples of the key that loops, and the story of its incident."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.key = stage.trace.key(stage.loop.key)
        #: (event time, dollars per hour) as the detector expected it.
        self.expected: list[tuple[float, float]] = []
        #: The newest revision of each alert, and the notice as it stood when the effect was verified.
        self._newest: dict[str, Alert] = {}
        self._verified: tuple[Alert, float] | None = None

    def record(self, record: Alert | LedgerEntry | NoticeEntry) -> None:
        """Take in what just appeared on the log."""
        if isinstance(record, Alert):
            self._newest[record.alert_id] = record
        elif isinstance(record, LedgerEntry) and record.state == "effective" and self._verified is None:
            alert = self._newest[record.alert_id]
            if alert.tier != "soft":  # nobody gets a message about a soft one
                self._verified = (alert, record.at)

    def sample(self, daemon: Running) -> None:
        """Remember what the detector expects of the key now."""
        for shard in daemon.shards():
            at = shard.event_time or 0.0
            if self.expected and self.expected[-1][0] >= at:
                continue
            for row in shard.top(1000, "key"):
                # Right after a start nothing is scored yet, and both are 0.
                if row.tags.get("api_key") == self.key.api_key and (row.expected_usd_per_hour or row.usd_per_hour):
                    self.expected.append((at, row.expected_usd_per_hour))

    def expected_per_minute(self, minutes: int) -> list[float]:
        """Expected dollars per hour of each live minute; the last sample before it stands for a minute without one."""
        values, index, current = [], 0, self.expected[0][1] if self.expected else 0.0
        for minute in range(minutes):
            end = self.stage.live_start + (minute + 1) * 60
            while index < len(self.expected) and self.expected[index][0] <= end:
                current = self.expected[index][1]
                index += 1
            values.append(current)
        return values

    def incident(self, view: LogView) -> tuple[Alert | None, list[LedgerEntry]]:
        """The newest revision of the loudest alert Curb acted on (else the loudest on the key), and its ledger."""
        acted = {entry.alert_id for entries in view.actions.values() for entry in entries}
        alert = max(self._alerts(view), key=lambda a: (a.alert_id in acted, TIER_RANK[a.tier]), default=None)
        if alert is None:
            return None, []
        return alert, [e for entries in view.actions.values() for e in entries if e.alert_id == alert.alert_id]

    def limits(self, view: LogView) -> Iterator[tuple[float, float]]:
        """From when to when each limit on the key was in force, in the order of time."""
        ids = {alert.alert_id for alert in self._alerts(view)}
        for entries in sorted(view.actions.values(), key=lambda entries: entries[0].at):
            at = {entry.state: entry.at for entry in entries}
            if entries[0].alert_id in ids and {"applied", "restored"} <= at.keys():
                yield at["applied"], at["restored"]

    def soft_cap(self, view: LogView) -> LedgerEntry | None:
        """The first soft cap on the key, as it was applied."""
        ids = {alert.alert_id for alert in self._alerts(view)}
        entries = (entry for of in view.actions.values() for entry in of if entry.alert_id in ids)
        applied = (entry for entry in entries if entry.rung == 0 and entry.state == "applied")
        return min(applied, key=lambda entry: entry.at, default=None)

    def _alerts(self, view: LogView) -> list[Alert]:
        """Alerts on the key since the loop began, oldest first."""
        on_key = [a for a in view.alerts.values() if a.tags.get("api_key") == self.key.api_key and a.kind != "budget"]
        return sorted((a for a in on_key if a.fired_at >= self.stage.loop.start), key=lambda a: a.fired_at)

    def waits(self, view: LogView, now: float) -> bool:
        """Whether the key has a page on which nothing was planned yet, or only planned."""
        alert, ledger = self.incident(view)
        if alert is None or alert.tier != "page" or now - alert.fired_at > _LONGEST_WAIT_S:
            return False
        return not ledger or ledger[-1].state == "planned"

    def summary(self, view: LogView, tally: Tally, without: Tally, limit_now: Any, speeds: Speeds) -> dict[str, Any]:
        """The figures a person can repeat to a colleague. Seconds of event time after the loop began; dollars."""
        alerts = self._alerts(view)
        ids = {alert.alert_id for alert in alerts}
        actions = [entries for entries in view.actions.values() if entries[0].alert_id in ids]
        ledger = sorted((entry for entries in actions for entry in entries), key=lambda entry: entry.at)
        first = {entry.state: entry for entry in reversed(ledger)}
        last = {entry.state: entry for entry in ledger}
        before = ledger[0].plan.before if ledger else {}
        begin, alias = self.stage.loop.start, self.key.alias
        actual, untouched = tally.total(alias), without.total(alias)
        saved = [entries[-1].saved_usd for entries in actions if entries[-1].saved_usd is not None]

        def after(at: float | None) -> float | None:
            return None if at is None else round(at - begin, 1)

        return {
            "key": self.key.alias,
            "detected_after_s": after(alerts[0].fired_at if alerts else None),
            "notified_after_s": after(next((alert.fired_at for alert in alerts if alert.tier != "soft"), None)),
            "throttled_after_s": after(first["applied"].at if "applied" in first else None),
            "verified_after_s": after(first["effective"].at if "effective" in first else None),
            "restored_after_s": after(last["restored"].at if "restored" in last else None),
            "effect_verified": "effective" in first,
            "restored": "restored" in last and limit_now == before.get("rpm_limit", "unknown"),
            "rpm_limit_before": before.get("rpm_limit"),
            "rpm_limit_during": first["applied"].plan.after.get("rpm_limit") if "applied" in first else None,
            "rpm_limit_after": limit_now,
            "lost_usd": round(actual.loop_usd, 2),
            "counterfactual_usd": round(untouched.loop_usd, 2),
            **speeds.as_data(),
            "saved_usd": round(sum(saved), 2) if saved else None,
            "loop_requests_rejected": actual.loop_offered - actual.loop_admitted,
            "other_requests_rejected": (actual.rejected - (actual.loop_offered - actual.loop_admitted)),
            "alerts": len(view.alerts),
        }

    def notice(self, view: LogView) -> Notice | None:
        """The incident as people saw it when the effect was verified, or as it is at the end."""
        alert, ledger = self.incident(view)
        if alert is None:
            return None
        if self._verified is not None:
            alert, until = self._verified
            ledger = [entry for entry in ledger if entry.at <= until]
        return Notice(f"demo/{alert.alert_id}", alert, tuple(ledger))
