"""Budgets on bills: what is read after a period has ended counts for it, once, in the days of the bill."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import Alert, CostRecord
from curb.stream.time import DAY_S, HOUR_S

pytestmark = pytest.mark.long


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def charge(name: str, start: float, usd: float, received: float, seconds: float = HOUR_S) -> CostRecord:
    return CostRecord(
        id=name,
        charge_period_start=start,
        charge_period_end=start + seconds,
        received_at=received,
        effective_cost=usd,
        tags={"account": "1"},
        source="bill",
    )


class Account:
    """One account with a budget of $1,000, which is read from October 1 on."""

    def __init__(self, period: str, **budget: Any) -> None:
        settings = {
            "bucket_s": HOUR_S,
            "scopes": [{"name": "account", "group_by": ["account"], "sources": ["costs"]}],
            "budgets": [
                {"name": "b", "scope": "account", "amount_usd": 1000, "period": period, "thresholds": [100], **budget}
            ],
        }
        self.pipeline = Pipeline(DetectorSettings.model_validate(settings))
        self.alerts: list[Alert] = []
        self._time = at("2026-10-01T06:00")
        self.read(charge("first", at("2026-10-01T00:00"), 0.01, self._time))

    def read(self, *records: CostRecord) -> None:
        now = records[0].received_at
        self.wait(now)
        self.pipeline.feed(encode_lines(records), COSTS, "bill")
        self.wait(now + HOUR_S)

    def wait(self, until: float) -> None:
        while self._time < until:
            self._time = min(until, self._time + HOUR_S)
            self.pipeline.tick(self._time + 60)
            self.alerts += [each for each in self.pipeline.alerts if each.kind == "budget"]

    @property
    def newest(self) -> list[Alert]:
        return list({each.alert_id: each for each in self.alerts}.values())


@pytest.mark.parametrize(
    ("period", "spent", "hours_late"),
    [
        ("day", "2026-10-10T14:00", 16),
        ("day", "2026-10-10T02:00", 36),
        ("week", "2026-10-11T14:00", 18),
        ("month", "2026-10-31T14:00", 18),
        ("month", "2026-10-31T23:00", 36),
        ("quarter", "2026-12-31T20:00", 30),
    ],
)
def test_a_crossing_read_after_its_period_is_one_page(period: str, spent: str, hours_late: int) -> None:
    account = Account(period)
    start = at(spent)
    account.read(charge("much", start, 5000.0, start + HOUR_S * hours_late))
    (alert,) = account.newest
    assert (alert.tier, alert.status) == ("page", "firing")
    assert alert.actual_usd == pytest.approx(5000.0, abs=0.02)
    assert alert.budget is not None
    assert alert.budget.period_start <= start < alert.budget.period_end
    account.wait(start + HOUR_S * hours_late + 4 * DAY_S)
    (alert,) = account.newest
    assert alert.status == "resolved"


def test_what_comes_later_corrects_the_figure_and_is_no_second_page() -> None:
    account = Account("day")
    account.read(charge("much", at("2026-10-10T14:00"), 1200.0, at("2026-10-11T06:00")))
    account.read(charge("more", at("2026-10-10T15:00"), 800.0, at("2026-10-11T12:00")))
    account.read(charge("less", at("2026-10-10T15:00"), -300.0, at("2026-10-12T06:00")))
    (alert,) = account.newest
    assert alert.actual_usd == pytest.approx(1700.0)
    assert len(account.alerts) == 3


def test_a_page_of_the_open_period_goes_on_until_its_bill_is_final() -> None:
    account = Account("day")
    account.read(charge("in time", at("2026-10-10T20:00"), 1200.0, at("2026-10-10T22:00")))
    (page,) = [alert for alert in account.newest if alert.channel == "budget/100"]
    account.read(charge("read the day after", at("2026-10-10T21:00"), 800.0, at("2026-10-11T06:00")))
    account.wait(at("2026-10-15T00:00"))
    (final,) = [alert for alert in account.newest if alert.channel == "budget/100"]
    assert final.alert_id == page.alert_id
    assert (final.status, round(final.actual_usd)) == ("resolved", 2000)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo", "Asia/Kolkata", "Pacific/Auckland"])
def test_a_day_of_the_bill_is_a_day_of_the_bill_in_every_time_zone(zone: str) -> None:
    account = Account("month", time_zone=zone)
    account.read(charge("first of november", at("2026-11-01T00:00"), 5000.0, at("2026-11-02T06:00"), DAY_S))
    account.read(charge("last of october", at("2026-10-31T00:00"), 600.0, at("2026-11-02T08:00"), DAY_S))
    assert {round(alert.actual_usd) for alert in account.newest} == {5000}
