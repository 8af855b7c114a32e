"""Budgets on bills: what is read after a period has ended counts for it, once, in the days of the bill."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from curb.detector.pipeline import Pipeline
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import CHARGE_PARTS, PART_OF_KIND, Alert, ChargeKind, ChargePart, CostRecord
from curb.stream.time import DAY_S, HOUR_S

pytestmark = pytest.mark.long


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


#: Kind of charge → its FOCUS category, where that is not usage.
CATEGORIES = {"fee": "Purchase", "purchase": "Purchase", "commitment": "Purchase", "tax": "Tax", "credit": "Credit"}
ZONES = ("UTC", "America/New_York", "Asia/Tokyo", "Asia/Kolkata", "Pacific/Auckland")


def charge(
    name: str, start: float, usd: float, received: float, seconds: float = HOUR_S, kind: ChargeKind = "usage"
) -> CostRecord:
    return CostRecord(
        id=name,
        charge_period_start=start,
        charge_period_end=start + seconds,
        received_at=received,
        effective_cost=usd,
        charge_kind=kind,
        charge_category=CATEGORIES.get(kind, "Usage"),
        tags={"account": "1"},
        source="bill",
    )


def settings_of(budget: dict[str, Any]) -> DetectorSettings:
    """An account with a budget of $1,000."""
    scope = {"name": "account", "group_by": ["account"], "sources": ["costs"]}
    budgets = [{"scope": "account", "amount_usd": 1000, **budget}]
    return DetectorSettings.model_validate({"bucket_s": HOUR_S, "scopes": [scope], "budgets": budgets})


class Account:
    """One account with a budget of $1,000, which is read from October 1 on."""

    def __init__(self, period: str, begin: str = "2026-10-01T00:00", **budget: Any) -> None:
        self.pipeline = Pipeline(settings_of({"name": "b", "period": period, "thresholds": [100], **budget}))
        self.alerts: list[Alert] = []
        self._time = at(begin) + 6 * HOUR_S
        self.read(charge("first", at(begin), 0.01, self._time))

    def read(self, *records: CostRecord) -> None:
        now = records[0].received_at
        self.wait(now)
        self.pipeline.feed(encode_lines(records), COSTS, "bill")
        self.wait(now + HOUR_S)

    def wait(self, until: float) -> None:
        while self._time < until:
            self._time = min(until, self._time + 3 * HOUR_S)
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


@pytest.mark.parametrize("zone", ZONES)
def test_a_day_of_the_bill_is_a_day_of_the_bill_in_every_time_zone(zone: str) -> None:
    account = Account("month", time_zone=zone)
    account.read(charge("first of november", at("2026-11-01T00:00"), 5000.0, at("2026-11-02T06:00"), DAY_S))
    account.read(charge("last of october", at("2026-10-31T00:00"), 600.0, at("2026-11-02T08:00"), DAY_S))
    assert {round(alert.actual_usd) for alert in account.newest} == {5000}


@pytest.mark.parametrize("portion", [1, 3, 1000])
@pytest.mark.parametrize("period", ["day", "week", "month", "quarter"])
def test_a_first_load_says_what_was_passed_last_and_the_rest_is_history(period: str, portion: int) -> None:
    """Read on the first of January: the periods that ended within two days, each with its whole figure."""
    pipeline, now = (
        Pipeline(settings_of({"name": "b", "period": period, "thresholds": [50, 100]})),
        at("2027-01-01T06:00"),
    )
    days = [at("2026-12-31T00:00") - DAY_S * number for number in reversed(range(92))]
    records = [charge(f"{day}", day, 1100.0 + number, now, DAY_S) for number, day in enumerate(days)]
    alerts: dict[str, Alert] = {}
    for first in range(0, len(records), portion):
        pipeline.feed(encode_lines(records[first : first + portion]), COSTS, "bill")
        alerts |= {each.alert_id: each for each in pipeline.alerts}
    for hour in range(20):
        pipeline.tick(now + HOUR_S * hour + 60)
        alerts |= {each.alert_id: each for each in pipeline.alerts}
    begins = {
        "day": ["2026-12-30T00:00", "2026-12-31T00:00"],
        "week": ["2026-12-28T00:00"],  # which goes on
        "month": ["2026-12-01T00:00"],
        "quarter": ["2026-10-01T00:00"],
    }[period]
    found = {alert.budget.period_start: alert for alert in alerts.values() if alert.budget is not None}
    assert len(found) == len(alerts)
    assert sorted(found) == list(map(at, begins))
    for start, alert in found.items():
        assert alert.budget is not None
        within = [
            each.effective_cost for each in records if start <= each.charge_period_start < alert.budget.period_end
        ]
        assert (alert.tier, alert.status) == ("page", "firing")
        assert alert.actual_usd == pytest.approx(sum(within))
        assert alert.started_at == max(start, days[0])


PERIODS: dict[str, tuple[str, ...]] = {
    # The days from which on the next begins, around the end of a quarter that is a Thursday.
    "day": ("2026-12-29", "2026-12-30", "2026-12-31", "2027-01-01", "2027-01-02"),
    "week": ("2026-12-28", "2027-01-04"),
    "month": ("2026-12-01", "2027-01-01"),
    "quarter": ("2026-10-01", "2027-01-01"),
}


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(
    period=st.sampled_from(sorted(PERIODS)),
    zone=st.sampled_from(ZONES),
    hours_late=st.integers(1, 36),
    include=st.sets(st.sampled_from(CHARGE_PARTS), min_size=1),
    charges=st.lists(
        st.tuples(
            st.integers(0, 4 * 24 - 1), st.integers(100, 90_000), st.sampled_from(["usage", "usage", *CATEGORIES])
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_each_period_of_a_bill_has_one_alert_with_the_figure_of_the_bill(
    period: str, zone: str, hours_late: int, include: set[ChargePart], charges: list[tuple[int, int, ChargeKind]]
) -> None:
    begin = at("2026-12-29T00:00")
    quiet = {"enabled": False}  # burn rates have alerts of their own
    account = Account(period, "2026-12-28T00:00", time_zone=zone, include=sorted(include), burn_rate=quiet)
    read = sorted((begin + HOUR_S * (hour + hours_late), n) for n, (hour, _, _) in enumerate(charges))
    billed = dict.fromkeys(map(at, PERIODS[period]), 0.0)
    billed[max(each for each in billed if each <= begin)] += 0.01 * ("usage" in include) * (period != "day")
    for received, n in read:
        hour, cents, kind = charges[n]
        usd = -cents / 100 if kind == "credit" else cents / 100
        account.read(charge(str(n), begin + HOUR_S * hour, usd, received, kind=kind))
        if PART_OF_KIND[kind] in include:
            billed[max(each for each in billed if each <= begin + HOUR_S * hour)] += usd
    account.wait(begin + 10 * DAY_S)
    found = {alert.budget.period_start: alert for alert in account.newest if alert.budget is not None}
    assert len(found) == len(account.newest)
    over = {start: usd for start, usd in billed.items() if usd >= 1000}
    assert over.keys() <= found.keys()
    for start, alert in found.items():
        # The rest crossed it before credits came.
        assert alert.actual_usd == pytest.approx(billed[start], abs=0.006)
        assert alert.status == "resolved" or alert.budget.period_end > begin + 4 * DAY_S


def test_what_a_budget_leaves_out_does_not_count_in_it_or_above_it() -> None:
    account = Account("month", include=["usage", "tax"])
    now = at("2026-10-09T06:00")
    kinds: tuple[ChargeKind, ...] = ("usage", "commitment", "fee", "purchase", "tax", "credit", "refund", "adjustment")
    account.read(*(charge(kind, now - 30 * HOUR_S, 10.0, now, kind=kind) for kind in kinds))
    ((_, status),) = account.pipeline.shard.budgets()
    assert status.spent_usd == pytest.approx(30.01)  # usage, what a commitment costs, and tax


def test_fees_are_no_pace_and_are_expected_where_they_came_before() -> None:
    account = Account("month", begin="2026-09-01T00:00")
    for day in range(62):
        start = at("2026-08-01T00:00") + day * DAY_S
        now = max(start + DAY_S, at("2026-09-01T06:00")) + 6 * HOUR_S
        records = [charge(f"{day}", start, 20.0, now, DAY_S)]
        if day in (0, 31, 61):
            records.append(charge(f"fee {day}", start, 500.0, now, 30 * DAY_S, kind="fee"))
        if day == 61:  # the first of October, before its bill came
            ((_, status),) = account.pipeline.shard.budgets()
            assert status.forecast_usd == pytest.approx(500 + 31 * 20, rel=0.02)
            assert status.breach_probability is not None
            assert status.breach_probability > 0.5
        account.read(*records)
    account.wait(at("2026-10-02T10:00"))
    ((_, status),) = account.pipeline.shard.budgets()
    assert status.spent_usd == pytest.approx(520.0)
    assert status.forecast_usd == pytest.approx(500 + 31 * 20, rel=0.02)
    assert status.breach_at is not None
    assert at("2026-10-22T00:00") < status.breach_at < at("2026-10-28T00:00")
