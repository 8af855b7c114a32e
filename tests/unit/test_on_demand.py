"""Work for a page: done when somebody looks and it is old, one at a time, and what failed is said."""

from __future__ import annotations

import asyncio

from curb.serve.on_demand_runner import OnDemand
from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError


class Work:
    """Counts how often it began, waits until it may end, and fails where it should."""

    def __init__(self) -> None:
        self.began = 0
        self.may_end = asyncio.Event()
        self.fails: Exception | None = None

    async def __call__(self) -> None:
        self.began += 1
        await self.may_end.wait()
        if self.fails is not None:
            raise self.fails


async def test_many_who_look_make_one_reading_and_none_while_it_is_new() -> None:
    work, clock = Work(), ManualClock(0.0)
    reading = OnDemand("x", work, 60.0, clock)
    assert (reading.is_running, reading.done_at) == (False, None)
    for _ in range(3):
        reading.want()
        await asyncio.sleep(0)
    assert (work.began, reading.is_running) == (1, True)
    work.may_end.set()
    await reading.wait()
    assert (reading.done_at, reading.problem) == (0.0, "")
    await clock.advance(59.0)
    reading.want()
    assert not reading.is_running
    await clock.advance(1.0)
    reading.want()
    await reading.wait()
    assert (work.began, reading.done_at) == (2, 60.0)


async def test_a_failure_is_said_keeps_the_old_time_and_is_tried_again_later() -> None:
    work, clock = Work(), ManualClock(0.0)
    reading = OnDemand("x", work, 60.0, clock)
    work.may_end.set()
    reading.want()
    await reading.wait()
    await clock.advance(60.0)
    work.fails = TransientError("GET /key/list: HTTP 503")
    reading.want()
    await reading.wait()
    assert (reading.problem, reading.done_at) == ("GET /key/list: HTTP 503", 0.0)
    reading.want()
    assert not reading.is_running, "a gateway that is away is not asked again at once"
    await clock.advance(60.0)
    work.fails = None
    reading.want()
    await reading.wait()
    assert (reading.problem, reading.done_at) == ("", 120.0)


async def test_a_defect_is_no_secret_of_the_page() -> None:
    work = Work()
    reading = OnDemand("x", work, 60.0, ManualClock(0.0))
    work.may_end.set()
    work.fails = KeyError("sk-secret")
    reading.want()
    await reading.wait()
    assert reading.problem == "KeyError; see the log of the daemon"


async def test_the_end_of_the_daemon_ends_it() -> None:
    work = Work()
    reading = OnDemand("x", work, 60.0, ManualClock(0.0))
    reading.want()
    await asyncio.sleep(0)
    await reading.close()
    assert (reading.is_running, reading.done_at) == (False, None)
