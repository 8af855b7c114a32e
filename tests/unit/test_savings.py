"""Dollars saved against the counterfactual."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.actions.lifecycle.action_calls import saved_usd
from curb.stream.records.spend import LedgerEntry, Plan
from tests.fakes.alerts import T0, an_alert


def entry(**changes: Any) -> LedgerEntry:
    base = LedgerEntry(
        action_id="x",
        state="applied",
        at=T0,
        alert_id="a1",
        fingerprint="f1",
        plan=Plan(action="gate", target="t", summary="", before={}, after={}),
        usd_per_hour_before=240.0,
        spent_usd_before=20.0,
        spent_since=T0 - 300,
        measured_at=T0,
    )
    return msgspec.structs.replace(base, **changes)


def test_what_was_spent_is_subtracted_from_what_would_have_been() -> None:
    alert = an_alert(updated_at=T0 + 3600, actual_usd=50.0, usd_per_hour=12.0)
    assert saved_usd(entry(), alert, T0 + 9999) == pytest.approx(240.0 - 30.0)
    assert saved_usd(entry(also=["t2"]), alert, T0 + 9999) == pytest.approx((240.0 - 30.0) / 2)


def test_where_the_count_began_anew_the_present_burn_stands_for_it() -> None:
    alert = an_alert(updated_at=T0 + 3600, started_at=T0 + 60, actual_usd=1.0, usd_per_hour=40.0)
    assert saved_usd(entry(), alert, T0 + 9999) == pytest.approx(200.0)


def test_nothing_is_claimed_for_time_of_which_nothing_was_heard() -> None:
    assert saved_usd(entry(), an_alert(updated_at=T0), T0 + 9999) == 0.0
    assert saved_usd(entry(), an_alert(updated_at=T0 + 9999, usd_per_hour=0.0), T0 + 3600) == pytest.approx(240.0)
    assert saved_usd(entry(saved_usd=7.0), None, T0) == 7.0
    assert saved_usd(entry(usd_per_hour_before=None), an_alert(), T0) is None


def test_it_is_at_most_what_the_refused_requests_would_have_cost() -> None:
    """400 requests a minute cost $240 an hour: a cent each."""
    planned = entry(requests_per_minute_before=400.0, failed_requests_before=7.0)
    alert = an_alert(updated_at=T0 + 3600, actual_usd=50.0, failed_requests=7.0 + 12_000)
    assert saved_usd(planned, alert, T0 + 9999) == pytest.approx(120.0)
    assert saved_usd(planned, alert, T0 + 9999, rejected=9_000) == pytest.approx(90.0), "its own count is better"
    assert saved_usd(planned, alert, T0 + 9999, rejected=0) == 0.0
    many = msgspec.structs.replace(alert, failed_requests=1e6)
    assert saved_usd(planned, many, T0 + 9999) == pytest.approx(210.0), "a storm of retries saves no more"


def test_it_ends_with_the_cause() -> None:
    planned = entry(requests_per_minute_before=400.0, failed_requests_before=0.0)
    hours = [
        saved_usd(planned, an_alert(updated_at=T0 + 3600 * hour, actual_usd=20.0 + hour, failed_requests=6e3), T0 + 1e6)
        for hour in range(1, 5)
    ]
    assert hours == [pytest.approx(60.0)] * 4


def test_several_targets_share_what_failed_and_keep_what_each_refused() -> None:
    planned = entry(requests_per_minute_before=400.0, failed_requests_before=0.0, also=["t2"])
    alert = an_alert(updated_at=T0 + 3600, actual_usd=50.0, failed_requests=12_000.0)
    assert saved_usd(planned, alert, T0 + 9999) == pytest.approx(60.0)
    assert saved_usd(planned, alert, T0 + 9999, rejected=2_000) == pytest.approx(20.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"requests_per_minute_before": None},
        {"failed_requests_before": None},
        {"spent_since": T0 - 301},
        {"failed_requests_before": 50.0},
    ],
)
def test_where_no_refusal_is_known_the_burn_counts_alone(changes: dict[str, Any]) -> None:
    planned = entry(**{"requests_per_minute_before": 400.0, "failed_requests_before": 0.0, **changes})
    alert = an_alert(updated_at=T0 + 3600, actual_usd=50.0, usd_per_hour=30.0, failed_requests=50.0)
    found = saved_usd(planned, alert, T0 + 9999)
    assert found == pytest.approx(210.0)


_USD = st.floats(0, 1e6)


@given(_USD, _USD, _USD, st.floats(-1e4, 1e6))
def test_it_is_never_negative(before: float, now: float, actual: float, seconds: float) -> None:
    alert = an_alert(updated_at=T0 + seconds, usd_per_hour=now, actual_usd=actual)
    found = saved_usd(entry(usd_per_hour_before=before), alert, T0 + 1e6)
    assert found is not None
    assert found >= 0
