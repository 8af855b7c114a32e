"""Calls to the outside: when one that failed may be tried again."""

from __future__ import annotations

import random

from curb.actions.calls.bounded import Backoff
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.retry import RetryPolicy


async def test_a_clock_that_is_set_holds_up_no_retry_and_hurries_none() -> None:
    clock = ManualClock(1000.0)
    backoff = Backoff(clock, RetryPolicy(first_s=10.0, cap_s=10.0), random.Random(1))
    wait_s = backoff.failed("undo", TransientError("down", retry_after=10.0))
    clock.jump(-86400.0)
    await clock.advance(wait_s - 0.1)
    assert not backoff.is_due("undo")
    await clock.advance(0.2)
    assert backoff.is_due("undo")
    backoff.postpone("verify", 60.0)
    clock.jump(86400.0)
    assert not backoff.is_due("verify")


async def test_setting_the_clock_moves_the_time_of_day_alone() -> None:
    clock = ManualClock(1000.0)
    steady = clock.steady()
    clock.jump(500.0)
    await clock.advance(1.0)
    assert clock.now() == 1501.0
    assert clock.steady() == steady + 1.0
