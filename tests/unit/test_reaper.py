"""The reaper: overdue limits come back without a daemon, once, whatever fails; nothing else is touched."""

from __future__ import annotations

import logging

import pytest

from curb.actions.lifecycle.reaper import Reaper
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS, DEAD_LETTER
from tests.fakes.actions_house import ID1, ID2, House, later
from tests.fakes.alerts import T0, alert_message, an_alert, command_message

LEASE_S, GRACE_S = 3600.0, 120.0
OVERDUE_S = LEASE_S + GRACE_S


@pytest.fixture
async def house() -> House:
    """A daemon throttled k1 for an hour and is dead since."""
    house = House()
    house.gate.limits["k1"] = 500
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    assert (house.states(), house.gate.limits["k1"]) == (["planned", "applied"], 10)
    return house


def reaper_of(house: House) -> Reaper:
    return Reaper(house.log, house.clock, {"gate": house.gate}, grace_s=GRACE_S)


async def test_an_overdue_limit_comes_back_once(house: House) -> None:
    await house.clock.advance(OVERDUE_S)
    reaper = reaper_of(house)
    assert await reaper.once() == []
    assert await reaper.once() == []
    assert await reaper_of(house).once() == []
    assert house.gate.limits["k1"] == 500
    assert house.gate.calls == [("apply", "k1", 10), ("undo", "k1", 500)]
    assert house.states() == ["planned", "applied", "restored"]
    assert (house.ledger()[-1].by, house.ledger()[-1].detail) == ("curb-reaper", "the lease ended")


async def test_a_lease_within_its_grace_belongs_to_the_daemon(house: House) -> None:
    await house.clock.advance(OVERDUE_S - 1)
    assert await reaper_of(house).once() == []
    assert house.gate.limits["k1"] == 10
    assert house.states() == ["planned", "applied"]
    await house.runner.step()
    assert house.states()[-1] == "restored"
    await house.clock.advance(1)
    assert await reaper_of(house).once() == []
    assert house.ledger()[-1].by == "curb"


async def test_a_plan_that_was_never_carried_out_is_closed() -> None:
    house = House()

    async def hook(point: str) -> None:
        if point == "before apply":
            raise TransientError("gateway down")

    house.gate.hook = hook
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.clock.advance(OVERDUE_S)
    assert await reaper_of(house).once() == []
    assert (house.states(), house.gate.calls) == (["planned", "planned", "restored"], [])


async def test_what_somebody_changed_is_left_alone(house: House) -> None:
    house.gate.limits["k1"] = 70
    await house.clock.advance(OVERDUE_S)
    assert await reaper_of(house).once() == []
    assert house.gate.limits["k1"] == 70
    assert house.states()[-1] == "drift"
    assert "{'rpm': 70}" in house.ledger()[-1].detail


async def test_a_gateway_that_is_down_is_tried_again_later(house: House) -> None:
    tries = []

    async def hook(point: str) -> None:
        tries.append(point)
        if len(tries) == 1:
            raise TransientError("gateway down", retry_after=60)

    house.gate.hook = hook
    await house.clock.advance(OVERDUE_S)
    reaper = reaper_of(house)
    assert await reaper.once() == [ID1]
    assert await reaper.once() == [ID1]
    assert (tries, house.states()) == (["before undo"], ["planned", "applied", "applied"])
    assert (house.ledger()[-1].refusal, house.ledger()[-1].tries) == ("gateway down", 1)
    await house.clock.advance(60)
    assert await reaper.once() == []
    assert (house.gate.limits["k1"], house.states()[-1]) == (500, "restored")


async def test_a_defect_in_one_action_holds_up_no_other(house: House, caplog: pytest.LogCaptureFixture) -> None:
    tags = {"team": "search", "project": "rank", "api_key": "k2"}
    await house.say(alert_message(an_alert(alert_id="a2", fingerprint="f2", tags=tags)))
    del house.gate.limits["k1"]
    await house.clock.advance(OVERDUE_S)
    with caplog.at_level(logging.ERROR):
        assert await reaper_of(house).once() == [ID1]
    assert house.gate.limits["k2"] == 500
    assert "undo failed" in caplog.text


@pytest.mark.parametrize("lost", ["fail_next", "fail_after"])
async def test_a_crash_between_undo_and_ledger_is_mended_by_the_next_pass(house: House, lost: str) -> None:
    await house.clock.advance(OVERDUE_S)
    setattr(house.log, lost, 1)
    with pytest.raises(TransientError):
        await reaper_of(house).once()
    assert house.gate.limits["k1"] == 500
    assert await reaper_of(house).once() == []
    assert house.states() == ["planned", "applied", "restored"]
    assert house.gate.calls == [("apply", "k1", 10), ("undo", "k1", 500)]


async def test_a_refusal_is_written_down_and_tried_again(house: House) -> None:
    async def hook(point: str) -> None:
        raise PermanentError("HTTP 403")

    async def works(point: str) -> None: ...

    house.gate.hook = hook
    await house.clock.advance(OVERDUE_S)
    reaper = reaper_of(house)
    assert await reaper.once() == [ID1]
    assert await reaper.once() == [ID1]
    assert house.states() == ["planned", "applied", "applied"]
    assert (house.ledger()[-1].refusal, house.ledger()[-1].by) == ("HTTP 403", "curb-reaper")
    # Another pass of another process, such as a job that runs it once, tries at once.
    assert await reaper_of(house).once() == [ID1]
    house.gate.hook = works
    await house.clock.advance(120)
    assert await reaper.once() == []
    assert (house.gate.limits["k1"], house.states()[-1]) == (500, "restored")


async def test_what_a_person_asked_for_in_vain_before_the_lease_ended_is_tried_again(house: House) -> None:
    async def hook(point: str) -> None:
        raise PermanentError("HTTP 403")

    async def works(point: str) -> None: ...

    house.gate.hook = hook
    await house.say(command_message("undo", T0, id="u1", action_id=ID1))
    assert house.ledger()[-1].tries == 1
    house.gate.hook = works
    # The daemon dies. It would have tried again by now.
    assert await reaper_of(house).once() == []
    assert house.gate.limits["k1"] == 10
    await house.clock.advance(60 + GRACE_S)
    assert await reaper_of(house).once() == []
    assert (house.gate.limits["k1"], house.ledger()[-1].by) == (500, "ana")


async def test_a_person_leaves_in_force_what_cannot_be_given_back(house: House) -> None:
    await house.clock.advance(OVERDUE_S)
    reaper = reaper_of(house)
    left = await reaper.leave(ID1, "ana")
    assert left is not None
    assert (left.state, left.by) == ("drift", "ana")
    assert await reaper.leave(ID1, "ana") is None
    assert await reaper.once() == []
    assert house.gate.limits["k1"] == 10


async def test_an_action_that_is_not_configured_any_more_is_named(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    await house.clock.advance(OVERDUE_S)
    reaper = Reaper(house.log, house.clock, {}, grace_s=GRACE_S)
    assert await reaper.once() == [ID1]
    assert await reaper.once() == [ID1]
    assert [record.message for record in caplog.records].count("overdue lease cannot be ended") == 1
    assert house.states() == ["planned", "applied"]


async def test_a_daemon_that_comes_back_goes_on_from_what_the_reaper_wrote(house: House) -> None:
    await house.clock.advance(OVERDUE_S)
    await reaper_of(house).once()
    await house.restart()
    await house.wait(60)
    assert house.states() == ["planned", "applied", "restored"]
    assert house.gate.calls == [("apply", "k1", 10), ("undo", "k1", 500)]
    # It was Curb and no person who undid it, so an alert that goes on is acted on afresh.
    await house.say(later(2, OVERDUE_S + 900))
    await house.wait(900)
    assert house.states(ID2) == ["planned", "applied"]


async def test_a_daemon_that_lives_finds_the_limit_back_already(house: House) -> None:
    """A reaper whose clock is ahead comes first; the daemon does not know and ends the lease in its turn."""
    await house.clock.advance(OVERDUE_S)
    await reaper_of(house).once()
    await house.runner.step()
    assert house.states() == ["planned", "applied", "restored", "restored"]
    assert house.gate.calls == [("apply", "k1", 10), ("undo", "k1", 500)]


async def test_a_daemon_that_comes_back_in_the_middle_of_a_pass_keeps_what_it_does(house: House) -> None:
    """While the first undo takes its time, the daemon ends the second lease and acts anew on that key."""
    tags = {"team": "search", "project": "rank", "api_key": "k2"}
    second = an_alert(alert_id="a2", fingerprint="f2", tags=tags)
    await house.say(alert_message(second))
    await house.clock.advance(OVERDUE_S)
    reaper = reaper_of(house)

    async def hook(point: str) -> None:
        house.gate.hook = nothing_more
        await house.runner.step()
        again = an_alert(alert_id="a3", fingerprint="f2", tags=tags, updated_at=house.clock.now())
        await house.say(alert_message(again))

    async def nothing_more(point: str) -> None:
        return None

    house.gate.hook = hook
    assert await reaper.once() == []
    assert house.gate.limits == {"k1": 500, "k2": 10}
    assert [verb for verb, key, _ in house.gate.calls if key == "k2"] == ["apply", "undo", "apply"]


async def test_it_reads_the_log_and_writes_nothing_else(house: House) -> None:
    await house.log.append([Message(ACTIONS, b"not a record")])
    reaper = reaper_of(house)
    before = len(house.log.of(ACTIONS))
    assert await reaper.once() == []
    assert (len(house.log.of(ACTIONS)), house.log.of(DEAD_LETTER)) == (before, [])


async def test_a_person_gets_everything_back_at_once(house: House) -> None:
    reaper = reaper_of(house)
    assert [entry.action_id for entry in await reaper.held()] == [ID1]
    assert await reaper.restore_all("ana") == []
    assert house.gate.limits["k1"] == 500
    assert (house.ledger()[-1].state, house.ledger()[-1].by) == ("restored", "ana")
    assert [entry.state for entry in await reaper.newest([house.ledger()[0]])] == ["restored"]
    assert await reaper.held() == []
    # The daemon comes back and does not do again what a person undid.
    await house.restart()
    await house.say(later(2, 900))
    await house.wait(900)
    assert house.gate.limits["k1"] == 500


async def test_what_a_gateway_refused_once_is_tried_again_when_a_person_asks(house: House) -> None:
    async def refuses(point: str) -> None:
        raise PermanentError("HTTP 401")

    async def works(point: str) -> None: ...

    house.gate.hook = refuses
    assert await reaper_of(house).restore_all("ana") == [ID1]
    house.gate.hook = works
    assert await reaper_of(house).once() == []
    assert await reaper_of(house).restore_all("ana") == []
    assert house.gate.limits["k1"] == 500


async def test_restoring_everything_leaves_alone_what_somebody_changed(house: House) -> None:
    house.gate.limits["k1"] = 70
    assert await reaper_of(house).restore_all("ana") == []
    assert (house.gate.limits["k1"], house.states()[-1]) == (70, "drift")
