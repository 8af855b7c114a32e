"""Who is turned away while the loop is busy: the flood, and nobody else."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from curb.connectors.intake.overload import Overload


class Door:
    """An overload on a clock that is set by hand."""

    def __init__(self) -> None:
        self.at, self.behind_s = 100.0, 0.0
        self.overload = Overload(lambda: self.at, lambda: self.behind_s)

    def seconds(self, count: float, *, late_s: float = 0.0, **per_second: int) -> None:
        """So many seconds in which sources send so many bytes a second, and every look at the loop is late."""
        for _ in range(int(count / (0.05 + late_s))):
            self.at += 0.05 + late_s
            self.overload.beat(late_s)
            for source, amount in per_second.items():
                with self.overload.holds(source, int(amount * (0.05 + late_s))):
                    pass


@pytest.fixture
def door() -> Door:
    return Door()


def test_a_flood_is_refused_while_the_loop_is_late_and_others_are_not(door: Door) -> None:
    door.seconds(10, late_s=0.3, flood=3_000_000, meter=100)
    assert door.overload.refuses("flood")
    assert not door.overload.refuses("meter")
    assert not door.overload.refuses("another")
    door.seconds(10)
    assert not door.overload.refuses("flood")


def test_much_is_no_flood_while_the_loop_keeps_up(door: Door) -> None:
    door.seconds(10, late_s=0.01, flood=9_000_000)
    assert not door.overload.refuses("flood")


def test_a_slow_machine_refuses_nobody_who_sends_little(door: Door) -> None:
    door.seconds(10, late_s=0.5, meter=200_000)
    assert not door.overload.refuses("meter")


def test_of_several_that_flood_all_are_refused(door: Door) -> None:
    door.seconds(10, late_s=0.5, one=3_000_000, other=3_000_000, third=2_000_000, meter=1_200_000)
    assert [door.overload.refuses(each) for each in ("one", "other", "third", "meter")] == [True, True, True, False]


def test_a_flood_is_refused_while_the_log_is_behind(door: Door) -> None:
    door.seconds(10, flood=3_000_000, meter=100)
    assert not door.overload.refuses("flood")
    door.behind_s = 1.5
    assert door.overload.refuses("flood")
    assert not door.overload.refuses("meter")


def test_what_waits_counts_for_as_long_as_it_waits(door: Door) -> None:
    with door.overload.holds("flood", 9_000_000), door.overload.holds("meter", 100):
        door.seconds(30, late_s=0.3)
        assert door.overload.refuses("flood")
        assert not door.overload.refuses("meter")
    door.seconds(30, late_s=0.3)
    assert not door.overload.refuses("flood")


def test_a_snapshot_is_no_overload(door: Door) -> None:
    door.seconds(10, late_s=0.01, flood=3_000_000)
    door.overload.beat(0.15)
    assert not door.overload.refuses("flood")


async def test_it_looks_at_the_loop_while_the_application_runs() -> None:
    overload, app = Overload(asyncio.get_running_loop().time), web.Application()
    app.cleanup_ctx.append(overload.watch)
    runner = web.AppRunner(app)
    await runner.setup()
    assert [task.get_name() for task in asyncio.all_tasks()].count("pulse") == 1
    await runner.cleanup()
    assert [task.get_name() for task in asyncio.all_tasks()].count("pulse") == 0
