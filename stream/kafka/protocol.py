"""Two requests of the Kafka protocol that aiokafka 0.14 only has in versions too old for exactly-once groups.

Both come from KIP-447. Offsets are read with `require_stable`, so that a new owner of a partition waits for the open
transaction of the previous one; and offsets written in a transaction carry the member and its generation, so that the
broker refuses those of a process that lost its partitions without noticing. They need a broker of version 2.5 or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)


class Membership(NamedTuple):
    """A reader's identity for the coordinator of its group."""

    member_id: str
    generation: int


_NO_TAGS: dict[int, bytes] = {}
#: "No epoch of the leader is known."
_NO_EPOCH = -1


class _OffsetFetchResponseV7(Response):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequestV7(RequestStruct):  # type: ignore[misc]
    API_KEY = 9
    API_VERSION = 7
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _OffsetFetchResponseV7
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("partitions", CompactArray(Int32)),
                ("tags", TaggedFields),
            ),
        ),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class StableOffsetsRequest(Request[_OffsetFetchRequestV7]):  # type: ignore[misc]
    """The committed offsets of a group; UNSTABLE_OFFSET_COMMIT while a transaction over them is open."""

    API_KEY = 9

    def __init__(self, group: str, partitions: Mapping[str, Sequence[int]]) -> None:
        self._group, self._partitions = group, partitions

    def build(self, request_struct_class: type[Any]) -> Any:
        topics = [(topic, list(numbers), _NO_TAGS) for topic, numbers in self._partitions.items()]
        return request_struct_class(self._group, topics, True, _NO_TAGS)


class _TxnOffsetCommitResponseV3(Response):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitRequestV3(RequestStruct):  # type: ignore[misc]
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _TxnOffsetCommitResponseV3
    SCHEMA = Schema(
        ("transactional_id", CompactString("utf-8")),
        ("group_id", CompactString("utf-8")),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation", Int32),
        ("member_id", CompactString("utf-8")),
        ("group_instance_id", CompactString("utf-8")),
        (
            "topics",
            CompactArray(
                ("name", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", CompactString("utf-8")),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class MemberOffsetsRequest(Request[_TxnOffsetCommitRequestV3]):  # type: ignore[misc]
    """Offsets as part of a transaction, refused unless `membership` is the group's current one."""

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        group: str,
        producer: tuple[int, int],
        membership: Membership,
        offsets: Mapping[str, Sequence[tuple[int, int]]],
    ) -> None:
        self._transactional_id, self._group, self._producer = transactional_id, group, producer
        self._membership, self._offsets = membership, offsets

    def build(self, request_struct_class: type[Any]) -> Any:
        topics = [
            (topic, [(number, offset, _NO_EPOCH, "", _NO_TAGS) for number, offset in offsets], _NO_TAGS)
            for topic, offsets in self._offsets.items()
        ]
        return request_struct_class(
            self._transactional_id,
            self._group,
            *self._producer,
            self._membership.generation,
            self._membership.member_id,
            None,
            topics,
            _NO_TAGS,
        )
