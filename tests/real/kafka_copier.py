"""A process that copies a topic in transactions and kills itself where it is told to; see test_kafka_crash.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any, NoReturn

from curb.stream.clock import WallClock
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND, USAGE

#: Where to die: after a fetch; with messages sent but no offsets; with both, before the commit; after the commit.
POINTS = ("read", "sent", "offsets", "committed")
#: The commit in which to die, counted from 1: there is work done before and work left after.
FATAL_COMMIT = 3
BATCH = 25


def settings(bootstrap: str, prefix: str) -> KafkaSettings:
    """What the copier and its test use: whoever was killed is given up soon, so that its successor waits little."""
    valid = KafkaSettings(
        kind="kafka", bootstrap_servers=bootstrap, topic_prefix=prefix, partitions=2, transaction_timeout_s=3
    )
    # Shorter than a broker as it comes allows; the one of the tests does.
    return valid.model_copy(update={"session_timeout_s": 2})


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


async def copy(bootstrap: str, prefix: str, instance: str, point: str) -> None:
    log = KafkaLog(settings(bootstrap, prefix), instance, WallClock())
    await log.open()
    reader: Any = await log.reader("copier", [USAGE])
    commits = 0
    while not reader.positions() or await reader.lag():
        messages = await reader.fetch(max_messages=BATCH, timeout_s=0.5)
        if not messages:
            continue
        commits += 1
        if commits == FATAL_COMMIT:
            producer = reader._producer._producer
            if point == "read":
                die()
            if point == "sent":
                producer.send_offsets_to_transaction = die
            if point == "offsets":
                producer.commit_transaction = die
        await reader.commit([Message(SPEND, message.value + b"!", key=message.key) for message in messages])
        if commits == FATAL_COMMIT and point == "committed":
            die()
    await reader.close()
    await log.close()


if __name__ == "__main__":
    asyncio.run(copy(*sys.argv[1:]))
