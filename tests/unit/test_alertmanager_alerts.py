"""Alerts at Alertmanager: posted again while they fire, ended when they are over, and one of a pair is enough."""

from __future__ import annotations

from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.notify.alertmanager_alerts import Alertmanager, Config
from curb.stream.clock import ManualClock
from tests.fakes.actions_house import House, later, settings
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.fakes.gateway import Channel


class Recorder(Channel):
    """Forgets what is not repeated."""

    repeat_s = 300.0

    def __init__(self) -> None:
        super().__init__(can_edit=False)


async def repeating() -> House:
    house = House(settings(routes=[{"notify": ["chat"]}]))
    house.chat = Recorder()
    house.runner = ActionsRunner(house.log, house.clock, house.config, {}, {"chat": house.chat})
    await house.runner.open()
    return house


async def test_what_fires_is_posted_again_also_when_nothing_is_heard_of_it() -> None:
    house = await repeating()
    await house.say(alert_message(an_alert()))
    for _ in range(12):
        await house.wait(100)
    assert len(house.chat.posts) == 5
    await house.say(later(2, 1200, status="resolved", resolved_at=T0 + 1200))
    for _ in range(12):
        await house.wait(100)
    assert len(house.chat.posts) == 6
    assert house.chat.posts[-1].alert.status == "resolved"


async def test_a_channel_that_forgets_nothing_gets_no_repeats() -> None:
    house = House(settings(routes=[{"notify": ["chat"]}]))
    house.chat.can_edit = False
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    for _ in range(12):
        await house.wait(100)
    assert len(house.chat.posts) == 1


def test_it_asks_to_be_repeated() -> None:
    config = Config.model_validate({"kind": "alertmanager", "name": "am", "urls": ["http://am:9093"]})
    assert Alertmanager(config, None, ManualClock(T0)).repeat_s == 300.0  # type: ignore[arg-type]
