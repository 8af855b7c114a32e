"""A scan that cannot come to its end says so instead of waiting for ever."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition as KafkaPartition

from curb.stream.clock import ManualClock
from curb.stream.errors import TransientError
from curb.stream.kafka import log as kafka_log
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.topics import ALERTS


class Record(NamedTuple):
    """What aiokafka gives out, as far as a scan looks at it."""

    offset: int
    partition: int = 0
    key: bytes = b""
    value: bytes = b"v"


class Silent:
    """A consumer of one partition with five offsets whose broker goes away after it gave out `records`."""

    def __init__(self, **_: Any) -> None:
        self.records = [Record(0), Record(1)]
        self.looks_left = 3
        self.at = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def assign(self, partitions: list[KafkaPartition]) -> None:
        self.partition = partitions[0]

    async def beginning_offsets(self, partitions: list[KafkaPartition]) -> dict[KafkaPartition, int]:
        return dict.fromkeys(partitions, 0)

    async def end_offsets(self, partitions: list[KafkaPartition]) -> dict[KafkaPartition, int]:
        return dict.fromkeys(partitions, 5)

    def seek(self, partition: KafkaPartition, offset: int) -> None:
        self.at = offset

    async def position(self, partition: KafkaPartition) -> int:
        return self.at

    async def getmany(self, timeout_ms: int) -> dict[KafkaPartition, list[Record]]:
        self.looks_left -= 1
        if self.looks_left or not self.records:
            return {}
        found, self.records = self.records, []
        self.at += len(found)
        return {self.partition: found}


async def test_a_scan_whose_broker_goes_away_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "AIOKafkaConsumer", Silent)
    settings = KafkaSettings(kind="kafka", bootstrap_servers="127.0.0.1:1", request_timeout_s=1)
    log = KafkaLog(settings, "a", ManualClock())
    log._partitions = {ALERTS: 1}
    scan = log.scan(ALERTS)
    assert [(await anext(scan)).offset, (await anext(scan)).offset] == [0, 1]
    with pytest.raises(TransientError, match=r"scanning curb\.alerts: the rest"):
        await anext(scan)
