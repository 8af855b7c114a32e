"""Which errors of Kafka can pass by themselves and which need a change; and closings whose errors do not matter."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiokafka import errors as kafka

from curb.stream.errors import PermanentError, TransientError

_PERMANENT: tuple[type[Exception], ...] = (
    kafka.TopicAuthorizationFailedError,
    kafka.GroupAuthorizationFailedError,
    kafka.ClusterAuthorizationFailedError,
    kafka.TransactionalIdAuthorizationFailed,
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.UnsupportedSaslMechanismError,
    kafka.UnsupportedVersionError,
    kafka.IncompatibleBrokerVersion,
    kafka.MessageSizeTooLargeError,
    kafka.RecordListTooLargeError,
    kafka.RecordTooLargeError,
    kafka.InvalidTopicError,
    kafka.InvalidPartitionsError,
    kafka.InvalidReplicationFactorError,
    kafka.InvalidTransactionTimeout,
    kafka.PolicyViolationError,
    kafka.ProducerFenced,
    # aiokafka's error for a request that the broker is too old for.
    NotImplementedError,
)
_TRANSIENT: tuple[type[Exception], ...] = (
    kafka.KafkaError,
    kafka.ConsumerStoppedError,
    kafka.IllegalOperation,
    TimeoutError,
    OSError,
)


@contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Raise TransientError or PermanentError instead of what aiokafka raises. `doing` is shown to people."""
    try:
        yield
    except _PERMANENT as error:
        raise PermanentError(f"Kafka, {doing}: {error or type(error).__name__}") from error
    except _TRANSIENT as error:
        raise TransientError(f"Kafka, {doing}: {str(error) or type(error).__name__}") from error


#: How long a closing that was given up may take to notice it (seconds).
_GIVEN_UP_S = 1.0


async def finish(closing: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    """Run a `close` or `stop` of aiokafka to its end, or give it up after `timeout_s` seconds.

    Errors that can pass are not raised: what is closed is not used again. And aiokafka waits for tasks that it has
    cancelled: where a request is under way, their CancelledError comes out of its `stop`. Left to rise, it would end
    the caller as if somebody had cancelled that, without a word; the task made here keeps it in.
    """
    task = asyncio.create_task(closing)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GIVEN_UP_S)
    if task.done() and not task.cancelled():
        with suppress(*_TRANSIENT):
            task.result()
