"""Unreadable records are counted, logged and kept as dead letters with a reason; the rest continues."""

from __future__ import annotations

import hashlib
import logging
from typing import Literal, get_args

from curb.stream import metrics
from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import DEAD_LETTER
from curb.stream.records.spend import DeadLetter

logger = logging.getLogger(__name__)

Reason = Literal[
    "not_json",
    "not_utf8",
    "too_large",
    "wrong_type",
    "missing_field",
    "not_finite",
    "negative_cost",
    "too_old",
    "in_the_future",
    "unknown_type",
    "unknown_version",
    "invalid",
]
REASONS: tuple[str, ...] = get_args(Reason)


def reason_for(why: str) -> Reason:
    """The reason in what msgspec says of a line on a topic of Curb's own: a later version of Curb, or another program,
    has written it."""
    if why.endswith("`$.type`"):
        return "unknown_type"
    return "unknown_version" if why.endswith("`$.v`") else "invalid"


def dead_letter(
    source: str, reason: Reason, detail: str, *, location: str, content: bytes, at: float, count: int = 1
) -> Message:
    """Count and log the unreadable `content` and return the message to append to the dead-letter topic.

    `count` is how many like it this one stands for.

    Only the size and hash of the content are kept. `detail` must not quote it beyond field names and numbers.
    """
    metrics.DEAD_LETTERS.labels(source=source, reason=reason).inc(count)
    logger.warning("dead letter", extra={"source": source, "reason": reason, "detail": detail, "location": location})
    record = DeadLetter(
        source=source,
        reason=reason,
        detail=detail[:500],
        at=at,
        location=location,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        count=count,
    )
    return Message(DEAD_LETTER, encode(record), key=source.encode())
