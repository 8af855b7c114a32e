"""The actions runner: one alert's way to a lease and back, the belts, the kill switch, and being killed anywhere."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actions.ledger import Ledger, action_id_for
from actions.runner import ActionsRunner
from actions.settings import ActionsSettings
from stream.clock import ManualClock
from stream.codec import encode
from stream.errors import PermanentError, TransientError
from stream.log import Message
from stream.records import ActionsMessage, LedgerEntry, NoticeEntry
from stream.topics import ACTIONS, ALERTS, DEAD_LETTER, STATE
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.gateway import Channel, Gateway
from tests.fakes.memory_log import MemoryLog

ID1 = action_id_for("a1", "gate", 1)
ID2 = action_id_for("a1", "gate", 2)


def settings(**changes: Any) -> ActionsSettings:
    base: dict[str, Any] = {
        "mode": "auto",
        "actions": [{"kind": "x", "name": "gate"}],
        "notifiers": [{"kind": "x", "name": "chat"}],
        "routes": [{"notify": ["chat"], "act": ["gate"], "lease_minutes": 60}],
    }
    return ActionsSettings.model_validate(base | changes)


class House:
    """One log, one gateway, one channel; runners come and go."""

    def __init__(self, config: ActionsSettings | None = None, log: Any = None) -> None:
        self.log = log or MemoryLog()
        self.clock = ManualClock(T0)
        self.config = config or settings()
        self.gate = Gateway({"k1": None, "k2": 500})
        self.chat = Channel()
        self.runner = self.new_runner()

    def new_runner(self) -> ActionsRunner:
        return ActionsRunner(self.log, self.clock, self.config, {"gate": self.gate}, {"chat": self.chat})

    async def restart(self) -> None:
        self.runner = self.new_runner()
        await self.runner.open()
        await self.runner.step()

    async def say(self, *messages: Message) -> None:
        await self.log.append(messages)
        await self.runner.step()

    async def wait(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.runner.step()

    def ledger(self) -> list[LedgerEntry]:
        return [m for m in ledger_messages(self.log) if isinstance(m, LedgerEntry)]

    def states(self, action_id: str = ID1) -> list[str]:
        return [entry.state for entry in self.ledger() if entry.action_id == action_id]


def ledger_messages(log: MemoryLog) -> list[ActionsMessage]:
    return [msgspec.json.decode(m.value, type=LedgerEntry | NoticeEntry) for m in log.of(ACTIONS)]


@pytest.fixture
async def house() -> House:
    house = House()
    await house.runner.open()
    return house


def later(revision: int, seconds: float, **changes: Any) -> Message:
    return alert_message(an_alert(revision=revision, updated_at=T0 + seconds, **changes))


async def test_an_alert_becomes_a_verified_lease_that_ends(house: House) -> None:
    await house.say(alert_message(an_alert()))
    assert house.gate.limits["k1"] == 10
    assert house.states() == ["planned", "applied"]
    await house.clock.advance(120)
    await house.say(later(2, 120, usd_per_hour=14.0))
    assert house.states() == ["planned", "applied", "effective"]
    assert house.ledger()[-1].usd_per_hour_after == 14.0
    await house.wait(3479)
    assert house.gate.limits["k1"] == 10
    await house.wait(2)
    assert house.gate.limits["k1"] is None
    assert house.states() == ["planned", "applied", "effective", "restored"]
    assert house.ledger()[-1].detail == "the lease ended"
    assert len(house.chat.posts) == 1
    assert [entry.state for entry in house.chat.edits[-1].ledger][-1] == "restored"


async def test_the_plan_is_durable_before_the_target_is_touched(house: House) -> None:
    seen: list[list[str]] = []

    async def hook(point: str) -> None:
        if point == "before apply":
            seen.append(house.states())

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    assert seen == [["planned"]]


async def test_nothing_is_done_about_a_resolved_alert(house: House) -> None:
    await house.say(alert_message(an_alert(status="resolved", resolved_at=T0)))
    assert house.ledger() == []
    assert house.gate.calls == []


async def test_shadow_mode_says_what_it_would_do_and_does_nothing() -> None:
    house = House(settings(mode="shadow"))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.wait(600)
    assert house.states() == ["shadow"]
    assert house.gate.calls == []
    assert house.chat.posts[0].ledger[0].plan.after == {"rpm": 10}


async def test_switching_to_auto_acts_on_an_alert_that_was_shadowed() -> None:
    house = House(settings(mode="shadow"))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    house.config = settings()
    await house.restart()
    assert house.states(ID2) == ["planned", "applied"]


async def test_a_burn_that_does_not_fall_is_ineffective_and_keeps_its_lease(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 600))
    await house.wait(901)
    assert house.states() == ["planned", "applied", "ineffective"]
    assert house.gate.limits["k1"] == 10
    assert house.ledger()[-1].detail == "the burn did not fall"


async def test_an_old_revision_proves_nothing(house: House) -> None:
    await house.clock.advance(60)
    await house.say(alert_message(an_alert(usd_per_hour=13.0)))
    await house.wait(60)
    assert house.states() == ["planned", "applied"]


async def test_a_fallen_burn_without_the_limit_in_force_is_not_effective(house: House) -> None:
    await house.say(alert_message(an_alert()))
    house.gate.limits["k1"] = 77
    await house.clock.advance(100)
    await house.say(later(2, 100, usd_per_hour=1.0))
    assert house.states() == ["planned", "applied"]
    await house.wait(850)
    assert house.states()[-1] == "ineffective"
    assert "77" in house.ledger()[-1].detail


async def test_resolved_counts_as_fallen(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    assert house.states()[-1] == "effective"
    assert house.gate.limits["k1"] == 10


async def test_restore_on_resolve_ends_the_lease_at_once() -> None:
    house = House(settings(restore_on_resolve=True))
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved", resolved_at=T0 + 60))
    assert house.states()[-1] == "restored"
    assert house.gate.limits["k1"] is None


async def test_after_the_lease_it_rests_and_then_plans_afresh_if_it_still_burns(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.wait(3600)
    assert house.states() == ["planned", "applied", "restored"]
    await house.say(later(2, 3660))
    assert house.states(ID2) == []
    await house.wait(300)
    assert house.states(ID2) == ["planned", "applied"]
    assert house.gate.limits["k1"] == 10


async def test_after_the_lease_a_normal_burn_is_left_alone(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.wait(3600)
    await house.clock.advance(400)
    await house.say(later(2, 4000, usd_per_hour=13.0))
    assert house.states(ID2) == []


async def test_what_a_person_undid_is_not_done_again(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(command_message("undo", T0, action_id=ID1))
    assert house.gate.limits["k1"] is None
    assert (house.ledger()[-1].state, house.ledger()[-1].by) == ("restored", "ana")
    await house.clock.advance(4000)
    await house.say(later(2, 4000))
    assert house.states(ID2) == []


async def test_drift_is_told_and_left_alone(house: House) -> None:
    await house.say(alert_message(an_alert()))
    house.gate.limits["k1"] = 55
    await house.wait(3600)
    assert house.states()[-1] == "drift"
    assert house.gate.limits["k1"] == 55
    await house.clock.advance(1000)
    await house.say(later(2, 4600))
    assert house.gate.limits["k1"] == 55


async def test_halt_stops_new_actions_and_lets_leases_end(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(command_message("halt", T0, reason="looks wrong"))
    second = an_alert(alert_id="a2", fingerprint="f2", tags={"api_key": "k2"})
    await house.say(alert_message(second))
    assert house.gate.limits["k2"] == 500
    assert house.runner.view()["halted"] == {"by": "ana", "at": T0, "reason": "looks wrong"}
    await house.restart()
    assert house.runner.view()["halted"] is not None
    await house.wait(3600)
    assert house.gate.limits["k1"] is None
    await house.say(command_message("resume", T0 + 3600))
    await house.wait(61)
    assert house.gate.limits["k2"] == 10
    assert house.runner.view()["halted"] is None


async def test_a_command_sent_twice_counts_once(house: House) -> None:
    halt = command_message("halt", T0, id="c1")
    await house.say(halt, command_message("resume", T0, id="c2"))
    await house.say(halt)
    assert house.runner.view()["halted"] is None
    await house.restart()
    await house.say(halt)
    assert house.runner.view()["halted"] is None


REFUSALS = {
    "warm-up": ({}, {"baseline": msgspec.structs.replace(an_alert().baseline, known_days=1.0)}),
    "billed": ({}, {"money": "billed"}),
    "never_touch": ({"limits": {"never_touch": [{"team": "sea*"}]}}, {}),
    "limit: 0 actions are open": ({"limits": {"max_open_actions": 0}}, {}),
    "limit: 0 actions were begun": ({"limits": {"max_actions_per_hour": 0}}, {}),
    "stale": ({}, {"updated_at": T0 - 8000}),
    "nothing to do": ({}, {"tags": {"api_key": "unknown"}}),
}


@pytest.mark.parametrize("reason", REFUSALS)
async def test_a_belt_holds_and_says_why_once(reason: str) -> None:
    changed_settings, changed_alert = REFUSALS[reason]
    house = House(settings(**changed_settings))
    await house.runner.open()
    await house.say(alert_message(an_alert(**changed_alert)))
    for _ in range(3):
        await house.wait(120)
    assert house.states() == ["skipped"]
    assert house.ledger()[0].detail.startswith(reason)
    assert house.gate.calls == []


@pytest.mark.parametrize("kind", ["new_principal", "budget"])
async def test_what_is_new_or_spent_needs_no_warmup(kind: Any) -> None:
    house = House()
    await house.runner.open()
    await house.say(alert_message(an_alert(kind=kind, baseline=None)))
    assert house.states() == ["planned", "applied"]


async def test_one_open_action_per_target(house: House) -> None:
    other = an_alert(alert_id="a2", fingerprint="f2")
    await house.say(alert_message(an_alert()), alert_message(other))
    assert house.states() == ["planned", "applied"]
    assert house.states(action_id_for("a2", "gate", 1)) == ["skipped"]
    assert [call for call in house.gate.calls if call[0] == "apply"] == [("apply", "k1", 10)]


async def test_a_plan_that_would_raise_a_limit_is_refused(house: House) -> None:
    house.gate.to = 600
    await house.say(alert_message(an_alert(tags={"api_key": "k2"})))
    assert house.states() == ["failed"]
    assert house.gate.limits["k2"] == 500


async def test_a_gateway_that_is_down_is_tried_again_and_delays_no_message(house: House) -> None:
    down = True

    async def hook(point: str) -> None:
        if down:
            raise TransientError("gateway down")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    assert len(house.chat.posts) == 1
    assert "gateway down" in house.runner.view()["problems"].values()
    down = False
    await house.wait(2)
    assert house.states() == ["planned", "applied"]
    assert house.runner.view()["problems"] == {}


async def test_a_channel_that_is_down_for_hours_delays_no_action_and_then_gets_one_message(house: House) -> None:
    down = True

    async def hook(point: str) -> None:
        if down:
            raise TransientError("slack down")

    house.chat.hook = hook
    await house.say(alert_message(an_alert()))
    assert house.gate.limits["k1"] == 10
    for _ in range(20):
        await house.wait(600)
    await house.say(later(2, 12000, status="resolved", resolved_at=T0 + 12000))
    assert house.gate.limits["k1"] is None
    down = False
    await house.wait(301)
    assert len(house.chat.posts) == 1
    assert house.chat.posts[0].alert.status == "resolved"


async def test_a_channel_gives_up_after_a_day(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "before send":
            raise TransientError("slack down")

    house.chat.hook = hook
    await house.say(alert_message(an_alert(tags={"api_key": "unknown"})))
    await house.wait(3600)
    await house.wait(24 * 3600)
    notices = [m for m in ledger_messages(house.log) if isinstance(m, NoticeEntry)]
    assert notices[-1].state == "failed"
    count = len(notices)
    await house.wait(600)
    assert len(ledger_messages(house.log)) == count + 1


async def test_a_refused_message_is_not_repeated_until_there_is_news(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "before send":
            raise PermanentError("channel_not_found")

    house.chat.hook = hook
    await house.say(alert_message(an_alert(status="resolved")))
    await house.wait(600)
    notices = [m for m in ledger_messages(house.log) if isinstance(m, NoticeEntry)]
    assert [n.state for n in notices] == ["sending", "failed"]


async def test_new_figures_alone_edit_the_message_every_few_minutes(house: House) -> None:
    await house.say(alert_message(an_alert(tags={"api_key": "unknown"})))
    told = len(house.chat.history)
    for minute in range(1, 12):
        await house.clock.advance(60)
        await house.say(later(1 + minute, 60 * minute, tags={"api_key": "unknown"}))
    assert len(house.chat.posts) == 1
    assert len(house.chat.history) - told == 2


async def test_a_channel_that_cannot_edit_gets_no_figures_only_news(house: House) -> None:
    house.chat.can_edit = False
    await house.say(alert_message(an_alert(tier="notice", tags={"api_key": "unknown"})))
    for minute in range(1, 12):
        await house.clock.advance(60)
        await house.say(later(1 + minute, 60 * minute, tier="notice", tags={"api_key": "unknown"}))
    assert len(house.chat.posts) == 1
    await house.say(later(20, 700, tier="page", tags={"api_key": "unknown"}))
    assert len(house.chat.posts) == 2
    await house.say(later(21, 760, tier="digest", tags={"api_key": "unknown"}))
    assert len(house.chat.posts) == 2


async def test_a_failed_undo_is_stuck_until_a_person_asks_again(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "before undo":
            raise PermanentError("HTTP 401")

    await house.say(alert_message(an_alert()))
    house.gate.hook = hook
    await house.wait(3600)
    assert house.ledger()[-1].detail == "could not be undone: HTTP 401"
    other = an_alert(alert_id="a2", fingerprint="f2", revision=5, updated_at=T0 + 3600)
    await house.say(alert_message(other))
    assert house.states(action_id_for("a2", "gate", 1)) == ["skipped"]
    await house.say(command_message("undo", T0, id="u1", action_id=ID1))
    await house.wait(60)
    assert house.states()[-2:] == ["failed", "failed"]

    async def works(point: str) -> None: ...

    house.gate.hook = works
    await house.say(command_message("undo", T0, id="u2", action_id=ID1))
    assert house.states()[-1] == "restored"
    assert house.gate.limits["k1"] is None


async def test_a_refused_apply_is_final_for_the_alert(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "before apply":
            raise PermanentError("HTTP 403")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    await house.wait(600)
    assert house.states() == ["planned", "failed"]


async def test_an_error_in_one_action_does_not_stop_the_others(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "plan":
            raise KeyError("a bug")

    await house.say(alert_message(an_alert()))
    house.gate.hook = hook
    await house.say(alert_message(an_alert(alert_id="a2", fingerprint="f2", tags={"api_key": "k2"})))
    await house.wait(3600)
    assert house.states()[-1] == "restored"


async def test_a_change_by_hand_during_an_outage_is_not_overwritten(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "after apply":
            raise TransientError("reset")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    assert house.states() == ["planned"]
    house.gate.limits["k1"] = 3
    await house.restart()
    assert house.states() == ["planned", "drift"]
    assert house.gate.limits["k1"] == 3


async def test_a_plan_that_is_found_in_force_is_not_applied_again(house: House) -> None:
    async def hook(point: str) -> None:
        if point == "after apply":
            raise TransientError("reset")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    await house.restart()
    assert house.states() == ["planned", "applied"]
    assert house.ledger()[-1].detail == "found in force"
    assert house.gate.calls == [("apply", "k1", 10)]


async def test_an_older_revision_that_comes_late_is_passed_over(house: House) -> None:
    await house.say(later(2, 60, status="resolved"), alert_message(an_alert()))
    await house.say(alert_message(an_alert()))
    assert house.states() == []
    assert house.runner.view()["firing"] == []


async def test_a_plan_without_outcome_is_undone_when_its_alert_is_over(house: House) -> None:
    async def hook(point: str) -> None:
        if point in ("after apply", "before undo"):
            raise TransientError("reset")

    house.gate.hook = hook
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved"))
    assert house.gate.limits["k1"] == 10

    async def works(point: str) -> None: ...

    house.gate.hook = works
    await house.restart()
    assert house.states() == ["planned", "restored"]
    assert house.gate.limits["k1"] is None


async def test_facts_that_are_over_are_deleted_from_the_state(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.say(later(2, 60, status="resolved"))
    assert b"actions/alerts/a1" in await house.log.table(STATE)
    await house.say(command_message("undo", T0, action_id=ID1))
    await house.wait(1)
    table = await house.log.table(STATE)
    assert set(table) == {b"actions/commands"}


async def test_what_cannot_be_read_becomes_a_dead_letter_and_the_rest_goes_on(house: House) -> None:
    good = encode(an_alert())
    await house.say(Message(ALERTS, b'{"alert_id": 3}\n' + good + b"\nnot json\n", key=b"f1"))
    assert house.states() == ["planned", "applied"]
    assert len(house.log.of(DEAD_LETTER)) == 2


async def test_an_unreachable_log_loses_nothing(house: House) -> None:
    working = house.runner._reader.commit  # type: ignore[union-attr]
    broken = 2

    async def commit(appends: Any = ()) -> None:
        nonlocal broken
        if broken:
            broken -= 1
            raise TransientError("broker gone")
        await working(appends)

    house.runner._reader.commit = commit  # type: ignore[union-attr,method-assign]
    await house.log.append([alert_message(an_alert())])
    for _ in range(4):
        step = asyncio.create_task(house.runner.step())
        await house.clock.advance(1.0)
        await step
    assert house.states() == ["planned", "applied"]


async def test_run_works_in_tasks_until_it_is_stopped(house: House) -> None:
    stop, told_so = asyncio.Event(), asyncio.Event()

    async def hook(point: str) -> None:
        if point == "after send" and told(house.chat.history[-1][1])[1] == ["applied"]:
            told_so.set()

    house.chat.hook = hook
    task = asyncio.create_task(house.runner.run(stop))
    await house.log.append([alert_message(an_alert())])
    async with asyncio.timeout(10):
        await told_so.wait()
        stop.set()
        await task
    assert house.runner.view()["open"][0]["action_id"] == ID1


async def test_a_hanging_call_is_cut_off_and_other_channels_are_told() -> None:
    house = House()

    async def hang(point: str) -> None:
        await asyncio.Event().wait()

    slow = Channel(hook=hang)
    config = settings(
        notifiers=[{"name": "slow"}, {"name": "chat"}], routes=[{"notify": ["slow", "chat"], "act": ["gate"]}]
    )
    notifiers = {"slow": slow, "chat": house.chat}
    runner = ActionsRunner(house.log, house.clock, config, {"gate": house.gate}, notifiers, call_timeout_s=0.01)
    await house.log.append([alert_message(an_alert())])
    await runner.open()
    await runner.step()
    assert len(house.chat.posts) == 1
    assert "no answer within" in runner.view()["problems"]["slow"]


async def test_many_alerts_on_a_slow_gateway_do_not_delay_the_end_of_a_lease(house: House) -> None:
    await house.say(alert_message(an_alert()))
    plans = 0

    async def hook(point: str) -> None:
        nonlocal plans
        if point == "plan":
            plans += 1
            raise TransientError("slow")

    house.gate.hook = hook
    others = [an_alert(alert_id=f"b{n}", fingerprint=f"g{n}", updated_at=T0 + 3600) for n in range(50)]
    await house.clock.advance(3600)
    await house.say(*map(alert_message, others))
    assert house.states()[-1] == "restored"
    assert plans == 1


async def test_nothing_is_begun_while_messages_wait(house: House) -> None:
    many = [alert_message(an_alert(alert_id=f"b{n}", fingerprint=f"g{n}")) for n in range(500)]
    await house.log.append([alert_message(an_alert()), *many, later(2, 1, status="resolved")])
    await house.runner.step()
    assert house.gate.calls == []
    await house.runner.step()
    assert house.states() == []


async def test_a_lease_of_an_action_that_was_taken_out_of_the_configuration_is_shown(house: House) -> None:
    await house.say(alert_message(an_alert()))
    runner = ActionsRunner(house.log, house.clock, house.config, {}, {"chat": house.chat})
    await runner.open()
    await runner.step()
    assert "no longer configured" in runner.view()["problems"][ID1]


class KilledError(BaseException):
    """The process is gone."""


class Killer:
    """Ends the process at the given points, counting every append, commit and call, before and after each."""

    def __init__(self, *at: int) -> None:
        self.at, self.count = at, 0

    async def point(self, _name: str = "") -> None:
        self.count += 1
        if self.count in self.at:
            raise KilledError


class KillableLog(MemoryLog):
    def __init__(self, killer: Killer) -> None:
        super().__init__()
        self.killer = killer

    async def append(self, messages: Any) -> None:
        await self.killer.point()
        await super().append(messages)
        await self.killer.point()

    async def say(self, message: Message) -> None:
        """What another process appends."""
        await super().append([message])


async def story(killer: Killer) -> House:
    """Alert, throttle, fall, resolve, lease end; whenever the process is killed it starts again."""
    log = KillableLog(killer)
    house = House(log=log)
    house.gate.hook = house.chat.hook = killer.point

    async def alive(seconds: float) -> None:
        await house.clock.advance(seconds)
        for _ in range(4):
            try:
                await house.runner.step()
            except KilledError:
                house.runner = house.new_runner()
                await house.runner.open()

    await house.runner.open()
    await log.say(alert_message(an_alert()))
    await alive(0)
    await log.say(later(2, 60, usd_per_hour=14.0))
    await alive(60)
    await log.say(later(3, 600, usd_per_hour=12.0, status="resolved", resolved_at=T0 + 600))
    await alive(540)
    await alive(3000)
    await alive(60)
    return house


def told(notice: Any) -> tuple[str, list[str]]:
    return notice.alert.status, [entry.state for entry in notice.ledger if entry.state != "planned"]


@pytest.mark.parametrize("gap", [0, 1, 2, 5])
async def test_killed_at_any_point_or_two_it_ends_the_same(gap: int) -> None:
    calm = Killer()
    untouched = await story(calm)
    assert untouched.gate.calls == [("apply", "k1", 10), ("undo", "k1", None)]
    assert calm.count > 30
    for at in range(1, calm.count + 1):
        house = await story(Killer(at, at + gap))
        assert house.gate.limits == {"k1": None, "k2": 500}, at
        assert {value for verb, _, value in house.gate.calls if verb == "apply"} == {10}, at
        assert len(house.chat.posts) == 1, at
        notices = [notice for _, notice in house.chat.history]
        assert len({notice.key for notice in notices}) == len(notices), at
        status, states = told(notices[-1])
        assert (status, list(dict.fromkeys(states))) == ("resolved", ["applied", "effective", "restored"]), at
        assert list(dict.fromkeys(house.states())) == ["planned", "applied", "effective", "restored"], at
        folded = Ledger(ledger_messages(house.log))
        assert folded.open_actions() == [], at
        last = folded.last_notice("chat", "a1")
        assert last is not None, at
        assert last.state == "sent", at
        assert await house.log.table(STATE) == {}, at
