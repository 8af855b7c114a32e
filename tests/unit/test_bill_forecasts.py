"""Forecasts of the series of bills: usage at its pace, and fees, commitments and taxes when they come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from curb.detector.bills.derived import BILL_SCOPES
from curb.detector.bills.rollup import CostsRollup
from curb.detector.forecast.month_end import Forecast
from curb.detector.settings import DetectorSettings
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS, SPEND
from curb.stream.records.spend import ChargeKind, CostRecord
from curb.stream.time import DAY_S, HOUR_S
from curb.views.forecast import DaySums, Question, billed_scopes, report, row
from tests.unit.test_past_periods import CATEGORIES, at


class BilledAccount:
    """One account's bill, read each morning, and the sums on the log."""

    def __init__(self, **more: Any) -> None:
        self.settings = DetectorSettings.model_validate(
            {"scopes": BILL_SCOPES, "time_zone": "America/New_York", **more}
        )
        self._rollup = CostsRollup(self.settings, partitions=1, live=False)
        self.sums = DaySums(self.settings.time_zone, billed_scopes(self.settings))
        self._offset = 0

    def read(self, until: float, charges: Iterator[tuple[str, float, float, float, ChargeKind]]) -> None:
        """A delivery at six in the morning of the day that begins at `until`, up to which all is known."""
        now = until + 6 * HOUR_S
        records = [
            CostRecord(
                id=f"{service}/{start}/{kind}",
                charge_period_start=start,
                charge_period_end=start + seconds,
                received_at=now,
                effective_cost=usd,
                charge_kind=kind,
                charge_category=CATEGORIES.get(kind, "Usage"),
                tags={"provider": "AWS", "account": "1", "service": service},
                source="bill",
            )
            for service, start, usd, seconds, kind in charges
        ]
        mark = CostRecord(
            id=f"complete/{until}", charge_period_start=until, received_at=now, effective_cost=0.0, tags={},
            source="bill", delta="mark", complete_until=until,
        )  # fmt: skip
        self._offset += 1
        lines = Message(COSTS, encode_lines([*records, mark]), key=b"bill", partition=0, offset=self._offset)
        for message in [*self._rollup.process(lines), *self._rollup.flush(now)]:
            if message.topic == SPEND:
                self.sums.take(message, self.settings.bucket_s)

    def asked(self, scope: str = "bill-account") -> list[Question]:
        return report(self.sums, self.settings, scope, 10)[0]

    def forecast(self, scope: str = "bill-account") -> Forecast:
        (question,) = self.asked(scope)
        return question.answer(thorough=False)


def month_of_fees(first: float, last: float) -> Iterator[tuple[str, float, float, float, ChargeKind]]:
    """$20 a day, and on the first a support fee of $500, a commitment of $90 and $41 of tax; a credit on the third."""
    start = first
    while start < last:
        yield "Compute", start, 20.0, DAY_S, "usage"
        day = int((start - at("2026-08-01T00:00")) // DAY_S)
        if day in (0, 31, 61):
            yield "Support", start, 500.0, 30 * DAY_S, "fee"
            yield "Compute", start, 90.0, 30 * DAY_S, "commitment"
            yield "Tax", start, 41.0, HOUR_S, "tax"
        if day in (2, 33, 63):
            yield "Compute", start, -15.0, HOUR_S, "credit"
        start += DAY_S


def test_the_month_that_begins_has_its_fees_before_they_are_read() -> None:
    bill = BilledAccount()
    bill.read(at("2026-10-01T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-10-01T00:00")))
    found = bill.forecast()
    whole = 31 * 20 + 500 + 90 + 41 - 15
    assert found.spent_usd == 0.0
    assert found.expected_usd == pytest.approx(whole, rel=0.01)
    assert found.low_usd < whole < found.high_usd
    assert row(bill.asked()[0], found)["forecast_usd"] == found.expected_usd


def test_fees_that_came_are_spent_and_no_pace() -> None:
    bill = BilledAccount()
    bill.read(at("2026-10-11T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-10-11T00:00")))
    found = bill.forecast()
    assert found.spent_usd == pytest.approx(10 * 20 + 500 + 90 + 41 - 15)
    assert found.expected_usd == pytest.approx(31 * 20 + 500 + 90 + 41 - 15, rel=0.01)
    assert found.high_usd - found.low_usd < 0.2 * 21 * 20 * 2


def test_a_series_of_fees_alone_is_forecast() -> None:
    bill = BilledAccount()
    bill.read(at("2026-10-01T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-10-01T00:00")))
    found = {each.series.tags["service"]: each.answer(thorough=False) for each in bill.asked("bill")}
    assert found["Support"].expected_usd == pytest.approx(500.0)
    assert found["Support"].has_history
    assert found["Tax"].expected_usd == pytest.approx(41.0)


def test_what_is_charged_ahead_counts_in_its_month_only() -> None:
    bill = BilledAccount()
    bill.read(at("2026-09-21T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-09-21T00:00")))
    before = bill.forecast()
    ahead: list[tuple[str, float, float, float, ChargeKind]] = [
        ("Seats", at("2026-10-01T00:00"), 1200.0, 31 * DAY_S, "purchase")
    ]
    bill.read(at("2026-09-22T00:00"), iter([*month_of_fees(at("2026-09-21T00:00"), at("2026-09-22T00:00")), *ahead]))
    assert bill.forecast().expected_usd == pytest.approx(before.expected_usd, rel=0.02)
    bill.read(at("2026-10-02T00:00"), month_of_fees(at("2026-09-22T00:00"), at("2026-10-02T00:00")))
    assert bill.forecast().spent_usd == pytest.approx(20 + 500 + 90 + 41 + 1200)


def test_a_budget_counts_what_it_includes() -> None:
    budgets = [{"name": "use", "scope": "bill-account", "amount_usd": 700, "include": ["usage", "tax"]}]
    bill = BilledAccount(budgets=budgets)
    bill.read(at("2026-10-11T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-10-11T00:00")))
    found = bill.forecast()
    assert found.expected_usd == pytest.approx(31 * 20 + 90 + 41, rel=0.01)
    assert found.breach_probability(700) > 0.9


def test_days_that_may_still_grow_are_spent_and_not_expected_twice() -> None:
    bill = BilledAccount()
    bill.read(at("2026-09-11T00:00"), month_of_fees(at("2026-08-01T00:00"), at("2026-09-11T00:00")))
    half: list[tuple[str, float, float, float, ChargeKind]] = [
        ("Compute", at("2026-09-11T00:00"), 12.0, 6 * HOUR_S, "usage")
    ]
    bill.read(at("2026-09-11T00:00"), iter(half))
    found = bill.forecast()
    assert found.spent_usd == pytest.approx(10 * 20 + 500 + 90 + 41 - 15 + 12)
    assert found.expected_usd == pytest.approx(30 * 20 + 500 + 90 + 41 - 15, rel=0.01)
