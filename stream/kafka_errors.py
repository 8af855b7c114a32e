"""Which errors of Kafka can pass by themselves and which need a change; told apart in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as kafka

from stream.errors import PermanentError, TransientError

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
    # What aiokafka raises for a request the broker is too old for.
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
