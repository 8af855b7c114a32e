"""The whole detector in memory, for back-tests and benchmarks: the same rollup and shard, without a log between."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from curb.detector.rollup.relay import CommandRelay
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.detector.shard import Shard
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS, COSTS, DEAD_LETTER, GPU, SPEND, USAGE
from curb.stream.records.spend import Alert, DeadLetter


class Pipeline:
    """Feed raw records, and people's knowledge, in the order of receipt; alerts come out as time passes."""

    def __init__(self, settings: DetectorSettings) -> None:
        self.shard = Shard(settings)
        self._inputs: dict[str, Rollup | CommandRelay] = {
            topic: Rollup(settings, topic, partitions=1, name=topic, live=False) for topic in (USAGE, COSTS, GPU)
        }
        self._inputs[COMMANDS] = CommandRelay(settings, partitions=1, name=COMMANDS, live=False)
        self._alerts: list[Alert] = []
        self._dead_letters: list[DeadLetter] = []
        self._offset = 0

    @property
    def alerts(self) -> list[Alert]:
        """Alert revisions since the last look."""
        alerts, self._alerts = self._alerts, []
        return alerts

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What could not be counted, since the last look."""
        letters, self._dead_letters = self._dead_letters, []
        return letters

    def feed(self, raw: bytes | Iterable[bytes], topic: str = USAGE) -> None:
        """Take in raw records, or with COMMANDS people's knowledge: the value of a message, or lines."""
        value = raw if isinstance(raw, bytes) else b"\n".join(raw)
        self._offset += 1
        self._pass_on(self._inputs[topic].process(Message(topic, value, partition=0, offset=self._offset)))

    def tick(self, at: float | None = None) -> None:
        """Let time come to `at`, or with None to the latest receipt so far."""
        now = max(each.time for each in self._inputs.values()) if at is None else at
        for each in self._inputs.values():
            self._pass_on(each.flush(now))
        self.shard.flush(now)

    def _pass_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message.topic == DEAD_LETTER:
                self._dead_letters.append(msgspec.json.decode(message.value, type=DeadLetter))
            elif message.topic == SPEND:
                self._alerts += [_alert(each) for each in self.shard.process(message)]


def _alert(message: Message) -> Alert:
    assert message.topic == ALERTS
    return msgspec.json.decode(message.value, type=Alert)
