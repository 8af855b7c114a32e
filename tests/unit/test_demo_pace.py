"""The demo's clock: at its set speed, never past what is allowed, slow while the daemon is behind."""

from __future__ import annotations

import pytest

from curb.demo import pace
from curb.demo.pace import PacedClock

START = 1.7e9


class Wall:
    """The wall clock of the test, which only the test moves on."""

    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(pace.time, "monotonic", wall.monotonic)
    return wall


def test_it_runs_at_its_speed_and_stands_where_no_more_is_allowed(wall: Wall) -> None:
    clock = PacedClock(START, 400.0)
    wall.at += 7
    assert clock.now() == START
    clock.let_run(0.5)
    wall.at += 0.25
    assert (clock.now(), clock.steady()) == (START + 100, 100)
    wall.at += 60  # the process got no CPU: the time it missed does not come
    assert clock.now() == START + 200
    clock.let_run(0.5)
    wall.at += 0.1
    assert clock.now() == pytest.approx(START + 240)


def test_it_is_slow_while_the_daemon_is_behind(wall: Wall) -> None:
    clock = PacedClock(START, 400.0)
    clock.let_run(0.5, is_behind=True)
    wall.at += 60
    assert clock.now() == START + 2


def test_less_allowed_than_before_does_not_turn_it_back(wall: Wall) -> None:
    clock = PacedClock(START, 100.0)
    clock.let_run(1.0)
    wall.at += 0.6
    clock.let_run(0.1, is_behind=True)
    assert clock.now() == START + 60
    wall.at += 1
    assert clock.now() == pytest.approx(START + 60.1)


async def test_a_sleeper_waits_until_its_time_has_come(wall: Wall, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waits = PacedClock(START, 100.0), list[float]()
    clock.let_run(0.3)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        wall.at += seconds
        if len(waits) == 3:
            clock.let_run(0.3)

    monkeypatch.setattr(pace.asyncio, "sleep", sleep)
    await clock.sleep(50)
    assert clock.steady() == pytest.approx(50)
    assert waits == pytest.approx([0.5, 0.2, 0.2, 0.2])


def test_a_speed_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        PacedClock(START, 0)
