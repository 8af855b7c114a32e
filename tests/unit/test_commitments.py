"""Savings plans and reservations that are used less, or pay for less, are one alert, on money of its own."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from curb.actions.policy.guards import _ONLY_NOTIFIED
from curb.detector.bills.derived import BILL_SCOPES
from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COMMANDS, COSTS
from curb.stream.records.spend import Alert, CostRecord, Feedback
from curb.stream.time import DAY_S, HOUR_S

pytestmark = pytest.mark.long

START = datetime(2026, 6, 2, tzinfo=UTC).timestamp()
FALL = 24
SETTINGS = DetectorSettings(scopes=BILL_SCOPES, bucket_s=HOUR_S)


class Account:
    """An account whose savings plan of $960 a day pays for nearly all of its compute; on demand costs 1.4 times it."""

    def __init__(self, seed: int = 1, *, daily: bool = False) -> None:
        self.pipeline, self.alerts = Pipeline(SETTINGS), list[Alert]()
        self._random, self._seconds, self._sent = random.Random(seed), DAY_S if daily else HOUR_S, 0
        self.unused_usd = 0.0

    def day(self, day: int, *, use: float = 0.98, plan: float = 960.0, need: float = 960.0) -> None:
        """Deliver a day: compute that would cost `need` with the plan, of which it pays `use` of `plan`."""
        at = START + (day + 1) * DAY_S + 6 * HOUR_S
        records = []
        for part in range(int(DAY_S // self._seconds)):
            start, share = START + day * DAY_S + part * self._seconds, self._seconds / DAY_S
            noise = 1 + self._random.uniform(-0.01, 0.01)
            used = min(use * noise * plan, plan) * share
            rest = max(0.0, need * share - used) * 1.4
            records += [
                self._line(start, "Compute", used, at, commitment_discount_status="Used"),
                self._line(
                    start,
                    "Savings Plans",
                    plan * share - used,
                    at,
                    commitment_discount_status="Unused",
                    charge_category="Purchase",
                    charge_kind="commitment",
                ),
                self._line(start, "Compute", rest, at),
                self._line(start, "Storage", 50 * share * noise, at),
            ]
            self.unused_usd += plan * share - used
        self._deliver(records, START + (day + 1) * DAY_S, at)

    def _line(self, start: float, service: str, usd: float, at: float, **fields: Any) -> CostRecord:
        self._sent += 1
        return CostRecord(
            id=str(self._sent),
            charge_period_start=start,
            charge_period_end=start + self._seconds,
            received_at=at,
            effective_cost=usd,
            tags={"provider": "AWS", "account": "1", "service": service},
            source="bill",
            **fields,
        )

    def _deliver(self, records: list[CostRecord], until: float, at: float) -> None:
        mark = CostRecord(
            id=f"complete/{until}",
            charge_period_start=until,
            received_at=at,
            effective_cost=0.0,
            tags={},
            source="bill",
            delta="mark",
            complete_until=until,
        )
        self.pipeline.feed(encode_lines([*records, mark]), COSTS, "bill")
        for hour in (0, 12):
            self.pipeline.tick(at + hour * HOUR_S + 1)
        self.alerts += self.pipeline.alerts

    @property
    def newest(self) -> list[Alert]:
        return list({each.alert_id: each for each in self.alerts}.values())


@pytest.mark.parametrize("daily", [False, True])
def test_a_plan_that_is_used_less_is_one_notice_with_its_dollars(daily: bool) -> None:
    account = Account(daily=daily)
    for day in range(FALL):
        account.day(day)
    usual = account.unused_usd / FALL
    account.unused_usd = 0.0
    for day in range(FALL, FALL + 4):
        account.day(day, use=0.6, need=0.6 * 960)
    (alert,) = account.newest
    assert (alert.kind, alert.tier, alert.status, alert.channel) == (
        "commitment",
        "notice",
        "firing",
        "commitment/utilisation",
    )
    assert alert.tags == {"provider": "AWS"}
    assert alert.causes[0].tags["service"] == "Savings Plans"
    assert alert.excess_usd == pytest.approx(account.unused_usd - 4 * usual, rel=0.02)
    assert alert.started_at == START + FALL * DAY_S
    assert "60% were used" in alert.explanation
    assert "Billed, data up to" in alert.explanation
    for day in range(FALL + 4, FALL + 6):
        account.day(day)
    (alert,) = account.newest
    assert alert.status == "resolved"


@pytest.mark.parametrize("daily", [False, True])
def test_a_plan_that_expires_is_one_alert_and_no_runaway(daily: bool) -> None:
    account = Account(daily=daily)
    for day in range(FALL):
        account.day(day)
    for day in range(FALL, FALL + 4):
        account.day(day, use=0.0, plan=0.0)
    (alert,) = account.newest
    assert (alert.kind, alert.channel, alert.status) == ("commitment", "commitment/coverage", "firing")
    # All of it is on demand, of which 2 % was before.
    assert alert.excess_usd == pytest.approx(4 * 0.98 * 960 * 1.4, rel=0.02)
    assert alert.causes[0].tags == {"provider": "AWS", "account": "1", "service": "Compute"}


def test_more_usage_than_a_plan_pays_for_is_a_matter_of_the_past() -> None:
    account = Account()
    for day in range(FALL):
        account.day(day)
    for day in range(FALL, FALL + 3):
        account.day(day, need=3 * 960)
    (alert,) = account.newest
    assert alert.kind == "runaway"


def test_weekends_without_use_are_usual() -> None:
    account = Account()
    for day in range(FALL + 8):
        weekend = datetime.fromtimestamp(START + day * DAY_S, UTC).weekday() >= 5
        account.day(day, use=0.5 if weekend else 0.98, need=480 if weekend else 960)
    assert not [alert for alert in account.newest if alert.kind == "commitment"]


def test_a_level_that_a_person_accepts_is_usual_from_then_on() -> None:
    account = Account()
    for day in range(FALL):
        account.day(day)
    account.day(FALL, use=0.6, need=0.6 * 960)
    (alert,) = account.newest
    given = Feedback(id="f", at=alert.updated_at, alert_id=alert.alert_id, verdict="not_an_anomaly")
    account.pipeline.feed(encode_lines([given]), COMMANDS)
    for day in range(FALL + 1, FALL + 12):
        account.day(day, use=0.6, need=0.6 * 960)
    (alert,) = account.newest
    assert alert.status == "resolved"


def test_a_restart_says_nothing_twice() -> None:
    whole, cut = Account(3, daily=True), Account(3, daily=True)
    for day in range(FALL + 3):
        for each in (whole, cut):
            each.day(day, use=0.6 if day >= FALL else 0.98)
        if day in (10, FALL - 1, FALL):
            again = Pipeline(SETTINGS)
            again.restore(cut.pipeline.snapshot())
            cut.pipeline = again
    assert cut.alerts == whole.alerts
    assert whole.alerts


def test_nobody_acts_on_a_commitment() -> None:
    assert "commitment" in _ONLY_NOTIFIED
