"""Processes that share Kafka lay their buckets on one grid, and alert as a back-test of the same rows does."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from curb import daemon as daemons
from curb.config.file import load_text
from curb.daemon import Daemon
from curb.detector.settings import DetectorSettings
from curb.evaluate.backtest import replay
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import USAGE
from tests.fakes.row_judges import answered, found_in, on_log, until
from tests.fakes.row_streams import RUNAWAY, rows, usage_of, write
from tests.real.kafka_broker import Broker

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
STEP_S, MOVE_S, DAYS = 3600, 1440, 3.0


@asynccontextmanager
async def daemon(broker: Broker, instance: str, prefix: str, clock: ManualClock, at: Path) -> AsyncIterator[Daemon]:
    kafka = {"kind": "kafka", "bootstrap_servers": broker.bootstrap, "topic_prefix": prefix, "partitions": 2}
    text = {"log": kafka, "instance": instance, "state_dir": str(at), "http": {"port": 0}, "commit_interval_s": 0.05}
    running = Daemon(load_text(yaml.safe_dump(text)), clock)
    await running.open()
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        running.stop()
        await task
        await running.close()


async def feed(both: list[Daemon], clock: ManualClock) -> None:
    """Each row comes when its hour is over; both inputs get some."""
    stream = list(rows(STEP_S, MOVE_S, DAYS))
    for start in sorted({row["start"] for row in stream}):
        await clock.advance(start + STEP_S + 3 - clock.now())
        records = [usage_of(row) for row in stream if row["start"] == start]
        messages = [Message(USAGE, encode_lines(records[at::2]), key=b"meter", partition=at) for at in range(2)]
        await both[0].log.append(messages)
        await answered(*both)
        await clock.advance(57)  # the bucket closes
        await answered(*both)


async def test_two_processes_on_kafka_judge_hours_off_the_hour_as_a_backtest_does(
    kafka_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "_LOOK_EVERY_S", 0.05)
    stream = write(tmp_path / "stream.jsonl", STEP_S, MOVE_S, DAYS)
    expected = found_in([life.last for life in replay(stream, DetectorSettings()).alerts.values()])
    assert any(each.key == RUNAWAY for each in expected)
    clock, prefix = ManualClock(next(rows(STEP_S, MOVE_S, DAYS))["start"]), f"grid-{uuid.uuid4().hex[:12]}."
    async with (
        daemon(kafka_broker, "a", prefix, clock, tmp_path / "a") as first,
        daemon(kafka_broker, "b", prefix, clock, tmp_path / "b") as second,
    ):
        both = [first, second]
        await until(lambda: all(each.rollup.states and each.detector.states for each in both))
        assert not first.rollup.owns_all
        await feed(both, clock)
        for each in both:
            assert {shard.settings.buckets for shard in each.shards()} == {(STEP_S, MOVE_S)}
        found = found_in(await on_log(first.log))
        assert [each[:4] for each in found] == [each[:4] for each in expected]
