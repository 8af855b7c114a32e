"""An undo that is refused: tried until it is done, told once, and ended by nobody but a person."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.actions.ledger.ledger import Ledger
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ACTIONS
from tests.fakes.actions_house import ID1, House, later, settings
from tests.fakes.alerts import T0, alert_message, an_alert, command_message


@pytest.fixture
async def house() -> House:
    house = House()
    await house.runner.open()
    return house


class Refusing:
    """Raises `error` at `points` until it is None."""

    def __init__(self, house: House, error: Exception | None, *points: str) -> None:
        self.error, self._points = error, points or ("before undo",)
        self.tries = 0
        house.gate.hook = self

    async def __call__(self, point: str) -> None:
        if point in self._points and self.error is not None:
            self.tries += 1
            raise self.error


async def test_an_undo_that_is_refused_is_tried_until_it_works(house: House) -> None:
    await house.say(alert_message(an_alert()))
    refusing = Refusing(house, PermanentError("GET /keys: HTTP 401: the token has expired"))
    await house.wait(3600)
    last = house.ledger()[-1]
    assert (last.state, last.tries, last.ending, last.overdue) == ("applied", 1, True, True)
    assert last.refusal == "GET /keys: HTTP 401: the token has expired"
    assert last.next_try_at is not None
    assert 30 <= last.next_try_at - house.clock.now() <= 60
    refusing.error = None
    await house.wait(60)
    assert (house.ledger()[-1].state, house.ledger()[-1].detail) == ("restored", "the lease ended")
    assert house.gate.limits["k1"] is None


async def test_an_undo_that_is_refused_for_a_day_is_tried_four_times_an_hour_and_told_once(house: House) -> None:
    await house.say(alert_message(an_alert()))
    refusing = Refusing(house, PermanentError("HTTP 403"))
    await house.wait(3600)
    posts, ledger = len(house.chat.posts), len(house.ledger())
    for _ in range(24 * 60):
        await house.wait(60)
    assert 24 * 4 <= refusing.tries <= 24 * 9
    assert len(house.ledger()) - ledger == refusing.tries - 1
    assert len(house.chat.posts) == posts
    assert f"tried {refusing.tries} times" in str(house.chat.history[-1])
    # Of all these tries the memory keeps the newest.
    state = house.runner._memory.ledger.action(ID1)
    assert state is not None
    assert [(entry.state, entry.tries) for entry in state.entries] == [
        ("planned", 0),
        ("applied", 0),
        ("applied", refusing.tries),
    ]


async def test_a_channel_that_cannot_edit_hears_of_a_refused_undo_once(house: House) -> None:
    house.chat.can_edit = False
    await house.say(alert_message(an_alert()))
    Refusing(house, PermanentError("HTTP 403"))
    await house.wait(3600)
    posts = len(house.chat.posts)
    for _ in range(60):
        await house.wait(600)
    assert len(house.chat.posts) == posts


async def test_a_restart_tries_at_once(house: House) -> None:
    await house.say(alert_message(an_alert()))
    refusing = Refusing(house, PermanentError("HTTP 403"))
    await house.wait(3600)
    for _ in range(60):
        await house.wait(600)
    refusing.error = None
    await house.restart()
    assert house.states()[-1] == "restored"
    assert house.gate.limits["k1"] is None


async def test_a_person_who_asks_waits_for_no_next_try(house: House) -> None:
    """And what was asked for before the lease ended is tried until it is done, also after a restart."""
    await house.say(alert_message(an_alert()))
    refusing = Refusing(house, PermanentError("HTTP 403"))
    await house.say(command_message("undo", T0, id="u1", action_id=ID1))
    assert (house.ledger()[-1].by, house.ledger()[-1].tries) == ("ana", 1)
    await house.say(command_message("undo", T0, id="u2", action_id=ID1))
    assert refusing.tries == 2
    refusing.error = None
    await house.restart()
    assert (house.ledger()[-1].state, house.ledger()[-1].by) == ("restored", "ana")


@pytest.mark.parametrize("error", [PermanentError("HTTP 403"), TransientError("HTTP 500"), RuntimeError("a defect")])
async def test_a_person_may_say_that_it_stays(house: House, error: Exception) -> None:
    await house.say(alert_message(an_alert()))
    refusing = Refusing(house, error)
    for _ in range(3):
        await house.wait(1800)
    await house.say(command_message("leave", T0, id="l1", action_id=ID1))
    last, tries = house.ledger()[-1], refusing.tries
    assert (last.state, last.by) == ("drift", "ana")
    assert last.detail == "left in force by ana: {'rpm': 10} stays until somebody changes it"
    await house.restart()
    await house.wait(3600)
    assert refusing.tries == tries
    assert house.gate.limits["k1"] == 10


async def test_what_an_older_version_gave_up_is_tried_again(house: House) -> None:
    await house.say(alert_message(an_alert()))
    gave_up = msgspec.structs.replace(house.ledger()[-1], state="failed", detail="could not be undone: HTTP 401")
    await house.log.append([Message(ACTIONS, encode(gave_up), key=b"gate/k1")])
    refusing = Refusing(house, PermanentError("HTTP 403"))
    await house.restart()
    assert (house.ledger()[-1].state, house.ledger()[-1].refusal) == ("failed", "HTTP 403")
    refusing.error = None
    await house.wait(60)
    assert house.states()[-1] == "restored"
    assert house.gate.limits["k1"] is None


async def test_a_token_that_is_bad_for_a_while_is_no_sign_that_a_person_gave_it_back(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.clock.advance(60)
    await house.say(later(2, 60, usd_per_hour=12.0))
    refusing = Refusing(house, PermanentError("HTTP 401"), "verify", "before undo")
    for _ in range(10):
        await house.wait(120)
    assert house.states() == ["planned", "applied", "effective"]
    refusing.error = None
    await house.wait(3600)
    assert house.states()[-1] == "restored"


@pytest.mark.parametrize("lasts", [PermanentError("HTTP 403"), TransientError("HTTP 500"), None])
async def test_a_refused_apply_of_which_something_may_be_there_is_given_back(
    house: House, lasts: Exception | None
) -> None:
    """It was carried out and refused all the same: a second call of several, or a proxy in between."""

    class Halfway(Refusing):
        async def __call__(self, point: str) -> None:
            if point == "after apply":
                raise PermanentError("HTTP 403 of a second call")
            await super().__call__(point)

    refusing = Halfway(house, lasts, "verify", "before undo")
    await house.say(alert_message(an_alert()))
    for _ in range(3):
        await house.wait(60)
    refusing.error = None
    await house.wait(900)
    assert house.gate.limits["k1"] is None
    last = house.ledger()[-1]
    assert (last.state, last.detail) == ("failed", "could not be applied: HTTP 403 of a second call")


async def test_an_entry_of_somebody_who_did_not_know_that_it_is_over_opens_nothing(house: House) -> None:
    await house.say(alert_message(an_alert()))
    Refusing(house, PermanentError("HTTP 403"))
    await house.wait(3600)
    tried = house.ledger()[-1]
    for late in (tried, msgspec.structs.replace(tried, state="failed", detail="could not be undone: HTTP 403")):
        over = msgspec.structs.replace(tried, state="restored", overdue=False)
        ledger = Ledger([tried, over, msgspec.structs.replace(late, tries=2)])
        assert [state.last.state for state in ledger.actions()] == ["restored"]


@pytest.mark.parametrize("can_edit", [True, False])
async def test_a_change_that_nobody_could_confirm_and_nobody_can_give_back_is_shown(
    house: House, can_edit: bool
) -> None:
    """It was carried out, its answer got lost, and since the restart everything is refused."""
    house.chat.can_edit = can_edit
    refusing = Refusing(house, TransientError("reset"), "after apply")
    await house.say(alert_message(an_alert()))
    assert (house.states(), house.gate.limits["k1"]) == (["planned"], 10)
    refusing = Refusing(house, PermanentError("HTTP 401"), "verify", "before undo")
    posts = len(house.chat.posts)
    await house.restart()
    await house.wait(60)
    assert len(house.chat.posts) - posts == (0 if can_edit else 1)
    last = house.ledger()[-1]
    assert (last.state, last.ending, last.tries) == ("planned", True, 2)
    shown = house.chat.history[-1][1].ledger[-1]
    assert (shown.state, shown.refusal) == ("planned", "HTTP 401")
    refusing.error = None
    await house.wait(120)
    assert (house.states()[-1], house.gate.limits["k1"]) == ("restored", None)


@pytest.mark.parametrize(
    "limits",
    [
        {"never_touch": [{"team": "search"}]},
        {"never_touch_targets": ["gate/*"]},
        {"criticality": [{"match": {"team": "search"}, "is": "critical"}]},
    ],
)
@pytest.mark.parametrize("point", ["before apply", "after apply"])
async def test_what_was_planned_is_not_carried_out_once_people_marked_it(point: str, limits: dict[str, Any]) -> None:
    """The daemon ends between plan and change, or between change and ledger, and starts with another configuration."""
    house = House()
    await house.runner.open()
    refusing = Refusing(house, TransientError("reset"), point)
    await house.say(alert_message(an_alert()))
    assert house.states() == ["planned"]
    refusing.error = None
    house.config = settings(limits=limits)
    await house.restart()
    await house.wait(60)
    assert (house.states()[-1], house.gate.limits["k1"]) == ("restored", None)
    assert "by now" in house.ledger()[-1].detail
    assert [verb for verb, _, _ in house.gate.calls] == (["apply", "undo"] if point == "after apply" else [])
