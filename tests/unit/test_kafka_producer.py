"""Giving up what a producer has not delivered leaves no error behind, wherever a batch is at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka import errors as kafka

from curb.stream.kafka import producer as kafka_producer
from curb.stream.kafka.connection import KafkaSettings

AT = KafkaPartition("t", 0)


def queued(_: Any, batch: Any) -> None:
    """Never sent: `batch` is in the queue as `add_message` left it."""


def sent(accumulator: Any, batch: Any) -> None:
    assert accumulator._pop_batch(AT) is batch


def put_back(accumulator: Any, batch: Any) -> None:
    sent(accumulator, batch)
    accumulator.reenqueue(batch)


#: `turns` of the loop lie between giving up and the moment a batch that was sent is put back; None: it never is.
CASES = [(queued, None), (put_back, None), *((sent, turns) for turns in (None, 0, 1, 2))]


@pytest.mark.parametrize(("before", "turns"), CASES)
async def test_a_batch_is_given_up_once_wherever_it_is(before: Callable[[Any, Any], None], turns: int | None) -> None:
    producer = kafka_producer._new_producer(KafkaSettings(kind="kafka", bootstrap_servers="127.0.0.1:1"))
    accumulator = producer._message_accumulator
    accumulator._txn_manager.set_pid_and_epoch(1, 0)
    message = await accumulator.add_message(AT, b"k", b"v", timeout=1)
    (batch,) = accumulator._batches[AT]
    before(accumulator, batch)

    kafka_producer._give_up(accumulator, kafka.ProducerClosed())
    if turns is not None:
        for _ in range(turns):
            await asyncio.sleep(0)
        accumulator.reenqueue(batch)
    for _ in range(3):
        await asyncio.sleep(0)  # what is amiss shows in asyncio's log, which every test looks at

    assert isinstance(message.exception(), kafka.ProducerClosed)
    assert not accumulator._pending_batches
    await kafka_producer.stop_producer(producer)
