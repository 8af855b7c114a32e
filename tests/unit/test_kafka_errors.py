"""Closing what belongs to aiokafka: its errors and its own cancellations stay inside, those of the caller do not."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import errors as kafka

from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.errors import finish, kafka_errors


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_cancellation_inside_a_closing_does_not_end_the_caller() -> None:
    async def closing() -> None:
        request = asyncio.create_task(forever())
        await asyncio.sleep(0)
        request.cancel()
        await request  # as aiokafka's fetcher does it

    with pytest.raises(asyncio.CancelledError):
        await closing()
    await finish(closing(), 60)


async def test_errors_of_kafka_are_left_out_and_errors_of_ours_are_not() -> None:
    async def failing(error: Exception) -> None:
        raise error

    await finish(failing(kafka.NodeNotReadyError()), 60)
    await finish(failing(TimeoutError()), 60)
    with pytest.raises(ZeroDivisionError):
        await finish(failing(ZeroDivisionError()), 60)


async def test_a_closing_that_hangs_is_cancelled() -> None:
    ended: list[str] = []

    async def hanging() -> None:
        try:
            await forever()
        finally:
            ended.append("hanging")

    await finish(hanging(), 0.01)
    assert ended == ["hanging"]


async def test_cancelling_the_caller_cancels_the_closing_and_the_caller() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hanging() -> None:
        try:
            begun.set()
            await forever()
        finally:
            ended.set()

    caller = asyncio.create_task(finish(hanging(), 60))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()


def test_what_can_pass_is_told_from_what_needs_a_change() -> None:
    with pytest.raises(TransientError, match="Kafka, reading: NodeNotReadyError"), kafka_errors("reading"):
        raise kafka.NodeNotReadyError
    with pytest.raises(TransientError, match="TimeoutError"), kafka_errors("reading"):
        raise TimeoutError
    with pytest.raises(PermanentError, match="Kafka, opening"), kafka_errors("opening"):
        raise kafka.GroupAuthorizationFailedError("g")
