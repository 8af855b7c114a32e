"""One name per key: learned from records that have both, and used in all that people read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from curb.actions.notify.names import TagNames
from curb.actions.notify.webhook import Webhook
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.log.protocol import Message
from curb.stream.log.topics import NAMES, USAGE
from curb.stream.records.names import TagName, name_message, read_names
from curb.stream.records.spend import Cause
from tests.fakes.alerts import a_plan, alert_message, an_alert, an_entry
from tests.fakes.memory_log import MemoryLog
from tests.fakes.spend import T0, message, usage
from tests.unit.test_outbox import ThreadedHouse

HASH = "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b"
BOT = {"api_key": HASH, "key_alias": "support-agent", "team": "support"}


def rows(messages: Any) -> list[tuple[str, str, str]]:
    found = [msgspec.json.decode(each.value, type=TagName) for each in messages if each.topic == NAMES]
    return [(each.tag, each.value, each.name) for each in found]


def rolled(rollup: Rollup, *tags: dict[str, str], at: float = T0) -> list[tuple[str, str, str]]:
    out: list[Message] = []
    for number, each in enumerate(tags):
        out += rollup.process(message(usage(f"{at}-{number}", at=at, tags=each)))
    return rows([*out, *rollup.flush(None)])


def test_a_name_is_noted_once_and_again_when_it_changes() -> None:
    rollup = Rollup(DetectorSettings(), USAGE, 1, name="in/0")
    assert rolled(rollup, BOT, BOT | {"model": "m"}) == [("api_key", HASH, "support-agent")]
    assert rolled(rollup, BOT, at=T0 + 1) == []
    assert rolled(rollup, BOT | {"key_alias": "copilot"}, at=T0 + 2) == [("api_key", HASH, "copilot")]


@pytest.mark.parametrize("tags", [{"api_key": HASH}, {"key_alias": " "}, {"api_key": "a", "key_alias": "a"}])
def test_without_another_name_nothing_is_noted(tags: dict[str, str]) -> None:
    assert rolled(Rollup(DetectorSettings(), USAGE, 1, name="in/0"), tags) == []


def test_other_tags_have_names_where_they_are_configured() -> None:
    rollup = Rollup(DetectorSettings(names={"team": "team_name"}), USAGE, 1, name="in/0")
    assert rolled(rollup, BOT | {"team_name": "Support"}) == [("team", "support", "Support")]


async def test_the_newest_name_counts_and_what_cannot_be_read_is_left_out() -> None:
    log = MemoryLog()
    await log.append([name_message("api_key", HASH, "old"), name_message("api_key", HASH, "new")])
    await log.append([Message(NAMES, b"{", key=b"x")])
    assert await read_names(log) == {("api_key", HASH): "new"}


def test_sentences_have_the_name_for_the_value_and_for_its_start() -> None:
    names = TagNames({("api_key", HASH): "support-agent"})
    alert = an_alert(
        tags={"team": "support", "api_key": HASH},
        explanation=f"key {HASH[:16]}… (team support) burns; it is {HASH}. 0{HASH} is another.",
        causes=[Cause(tags={"api_key": HASH, "model": "m"}, excess_usd=1.0, share=1.0)],
    )
    shown = names.alert(alert)
    assert shown.tags == {"team": "support", "api_key": "support-agent"}
    assert shown.causes[0].tags == {"api_key": "support-agent", "model": "m"}
    assert shown.explanation == f"key support-agent (team support) burns; it is support-agent. 0{HASH} is another."


def test_keys_with_the_same_name_are_distinguished() -> None:
    names = TagNames({("api_key", HASH): "bot", ("api_key", "a" * 64): "bot", ("team", "t"): "bot"})
    assert [names.of("api_key", HASH), names.of("team", "t")] == ["bot (88dc28)", "bot"]


@pytest.mark.parametrize("name", ["<!channel>", r"\1 \g<0>", "*bold* `code`"])
def test_a_hostile_name_is_data(name: str) -> None:
    entry = an_entry(plan=a_plan(summary=f"limit key {HASH}"), tags={"api_key": HASH})
    assert TagNames({("api_key", HASH): name}).entry(entry).plan.summary == f"limit key {name}"


async def test_a_channel_has_one_name_for_a_key_from_the_first_message_on() -> None:
    house = ThreadedHouse()
    await house.log.append([name_message("api_key", "k1", "support-agent")])
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    await house.log.append([name_message("api_key", HASH, "copilot")])
    await house.say(alert_message(an_alert(alert_id="a2", fingerprint="f2", tags={"api_key": HASH})))
    tags = [each.alert.tags["api_key"] for each in house.chat.messages.values()]
    assert tags == ["support-agent", "copilot"]
    assert {each.alert.tags["api_key"] for each in house.chat.replies["m1"]} == {"support-agent"}
    assert house.gate.limits["k1"] == 10, "actions find the key by its value"


async def test_what_machines_read_keeps_the_value() -> None:
    house = ThreadedHouse()
    house.chat.exact_tags = True  # type: ignore[attr-defined]
    await house.log.append([name_message("api_key", "k1", "support-agent")])
    await house.runner.open()
    await house.say(alert_message(an_alert()))
    assert house.chat.messages["m1"].alert.tags["api_key"] == "k1"
    assert Webhook.exact_tags
