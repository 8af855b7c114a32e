"""The actions runner when something is down, slow, broken or unreadable, and what people are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from curb.actions.lifecycle.runner import ActionsRunner
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message, TopicPartition
from curb.stream.log.topics import ACTIONS, ALERTS, COMMANDS, DEAD_LETTER, STATE
from curb.stream.records.spend import NoticeEntry
from tests.fakes.actions_house import ID1, House, NamedNotifier, later, ledger_messages, settings, told
from tests.fakes.alerts import T0, alert_message, an_alert, command_message
from tests.fakes.gateway import Channel


@pytest.fixture
async def house() -> House:
    house = House()
    await house.runner.open()
    return house


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
    assert house.states() == ["planned", "planned", "restored"]
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


@pytest.mark.parametrize("answer_lost", [False, True])
async def test_an_unreachable_log_loses_nothing(house: House, answer_lost: bool) -> None:
    await house.log.append([alert_message(an_alert())])
    for broken in (1, 2, 1):
        setattr(house.log, "fail_after" if answer_lost else "fail_next", broken)
        try:
            await house.runner.step()
        except TransientError:
            await house.runner.close()
            await house.runner.open()
        house.log.fail_next = house.log.fail_after = 0
        await house.wait(120)
    assert list(dict.fromkeys(house.states())) == ["planned", "applied"]
    assert {value for _, _, value in house.gate.calls} == {10}


async def test_a_commit_that_fails_opens_a_new_reader(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.actions.lifecycle.runner._LOG_RETRY_S", 0.0)
    opened = 0
    working = house.log.reader

    async def reader(*args: Any, **more: Any) -> Any:
        nonlocal opened
        opened += 1
        made = await working(*args, **more)
        if opened == 1:

            async def commit(appends: Any = ()) -> None:
                raise TransientError("broker gone")

            made.commit = commit  # type: ignore[method-assign]
        return made

    house.log.reader = reader  # type: ignore[method-assign]
    runner, stop, done = house.new_runner(), asyncio.Event(), asyncio.Event()

    async def hook(point: str) -> None:
        if point == "after apply":
            done.set()

    house.gate.hook = hook
    task = asyncio.create_task(runner.run(stop))
    await house.log.append([alert_message(an_alert())])
    async with asyncio.timeout(10):
        await done.wait()
        stop.set()
        await task
    assert opened == 2
    assert house.states() == ["planned", "applied"]


@pytest.mark.parametrize(("sound_s", "waits"), [(60.0, [0.001, 0.002, 0.004, 0.008]), (-1.0, [0.001] * 4)])
async def test_waits_for_the_log_grow_and_begin_anew_after_sound_work(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sound_s: float, waits: list[float]
) -> None:
    monkeypatch.setattr("curb.actions.lifecycle.runner._LOG_RETRY_S", 0.001)
    monkeypatch.setattr("curb.actions.lifecycle.runner._SOUND_S", sound_s)
    stop, tries = asyncio.Event(), 0

    async def reader(*args: Any, **more: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == len(waits):
            stop.set()
        raise TransientError("broker gone")

    house.log.reader = reader  # type: ignore[method-assign]
    await house.new_runner().run(stop)
    assert [vars(each)["wait_s"] for each in caplog.records if each.message == "log out of reach"] == waits


@pytest.mark.parametrize("topic", [ALERTS, COMMANDS])
async def test_alerts_without_commands_are_refused(house: House, topic: str) -> None:
    with pytest.raises(PermanentError, match="same member"):
        await house.runner._on_assign(frozenset({TopicPartition(topic, 0)}))


async def test_a_standby_does_nothing_until_it_is_assigned(house: House) -> None:
    standby = house.new_runner()
    await standby._on_assign(frozenset())
    assert standby.view()["active"] is False


async def test_after_closing_it_does_nothing_more(house: House) -> None:
    await house.say(alert_message(an_alert()))
    await house.runner.close()
    assert house.runner.view()["active"] is False
    await house.clock.advance(3600)
    for passes in house.runner._passes:
        await passes.once()
    assert house.states() == ["planned", "applied"]


async def test_a_lease_outlives_the_retention_of_the_ledger(house: House) -> None:
    await house.say(alert_message(an_alert()))
    for at, messages in house.log.messages.items():
        if at.topic == ACTIONS:
            messages.clear()
    await house.restart()
    assert house.runner.view()["open"][0]["action_id"] == ID1
    await house.wait(3600)
    assert house.gate.limits["k1"] is None
    assert len(house.chat.posts) == 1


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
        notifiers=[NamedNotifier(kind="x", name="slow"), NamedNotifier(kind="x", name="chat")],
        routes=[{"notify": ["slow", "chat"], "act": ["gate"]}],
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
    assert house.states(ID1) == []


async def test_a_lease_of_an_action_that_was_taken_out_of_the_configuration_is_shown(house: House) -> None:
    await house.say(alert_message(an_alert()))
    runner = ActionsRunner(house.log, house.clock, house.config, {}, {"chat": house.chat})
    await runner.open()
    await runner.step()
    assert "no longer configured" in runner.view()["problems"][ID1]
