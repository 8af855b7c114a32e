"""The whole detector in memory, for back-tests and benchmarks: the same rollup and shard, without a log between."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from curb.detector.bills.derived import usage_settings
from curb.detector.bills.lanes import ShardWithBills
from curb.detector.bills.rollup import CostsRollup
from curb.detector.rollup.judged import Judged
from curb.detector.rollup.relay import CommandRelay
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS, COSTS, DEAD_LETTER, GPU, SPEND, USAGE
from curb.stream.records.spend import Alert, DeadLetter


class Pipeline:
    """Feed raw records, and people's knowledge, in the order of receipt; alerts come out as time passes."""

    def __init__(self, settings: DetectorSettings) -> None:
        self.shard = ShardWithBills(settings)
        usage = usage_settings(settings)
        self._inputs: dict[str, Rollup | CommandRelay] = {
            topic: Rollup(usage, topic, partitions=1, name=topic, live=False) for topic in (USAGE, GPU)
        }
        self._inputs[COSTS] = CostsRollup(settings, partitions=1, name=COSTS, live=False)
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

    def feed(self, raw: bytes | Iterable[bytes], topic: str = USAGE, source: str = "") -> None:
        """Take in raw records, or with COMMANDS people's knowledge: the value of a message, or lines.

        Each bill is judged on its own: `source` is the name of its connector.
        """
        value = raw if isinstance(raw, bytes) else b"\n".join(raw)
        self._offset += 1
        self._pass_on(
            self._inputs[topic].process(Message(topic, value, key=source.encode(), partition=0, offset=self._offset))
        )

    def tick(self, at: float | None = None) -> None:
        """Let time come to `at`, or with None to the latest receipt so far."""
        now = max(each.time for each in self._inputs.values()) if at is None else at
        for each in self._inputs.values():
            self._pass_on(each.flush(now))
        self.shard.flush(now)

    def snapshot(self) -> dict[str, bytes]:
        """The state, right after a tick, by part."""
        return {"shard": self.shard.snapshot(), **{topic: each.snapshot() for topic, each in self._inputs.items()}}

    def restore(self, parts: dict[str, bytes]) -> None:
        """Bring a fresh pipeline to `parts`."""
        self.shard.restore(parts["shard"])
        for topic, each in self._inputs.items():
            each.restore(parts[topic])

    @property
    def scored_until(self) -> float:
        """The end of the last record that waits to be scored, epoch seconds; 0 where none waits."""
        return max(each.scored_until for each in self._rollups)

    @property
    def judged(self) -> Judged:
        """Records and dollars so far, and those that came too late to be judged in their bucket."""
        return Judged(*(sum(each) for each in zip(*(i.judged for i in self._rollups), strict=True)))

    @property
    def _rollups(self) -> list[Rollup]:
        return [each for each in self._inputs.values() if isinstance(each, Rollup)]

    def _pass_on(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message.topic == DEAD_LETTER:
                self._dead_letters.append(msgspec.json.decode(message.value, type=DeadLetter))
            elif message.topic == SPEND:
                found = (each for each in self.shard.process(message) if each.topic == ALERTS)
                self._alerts += [msgspec.json.decode(each.value, type=Alert) for each in found]
