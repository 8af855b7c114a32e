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


_USD = st.floats(0, 1e6)


@given(_USD, _USD, _USD, st.floats(-1e4, 1e6))
def test_it_is_never_negative(before: float, now: float, actual: float, seconds: float) -> None:
    alert = an_alert(updated_at=T0 + seconds, usd_per_hour=now, actual_usd=actual)
    found = saved_usd(entry(usd_per_hour_before=before), alert, T0 + 1e6)
    assert found is not None
    assert found >= 0
