"""Runs `curb replay` as its own process against a configuration, kills it, and reads what it left on the log."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from curb import wiring
from curb.config.file import load_file
from curb.stream.clock import WallClock
from curb.stream.log.codec import decode_lines
from curb.stream.log.protocol import Log, TopicPartition
from curb.stream.log.topics import ALERTS, SPEND, USAGE
from curb.stream.records.spend import Alert

#: Seconds between two looks at how far a replay is.
_POLL_S = 0.3


class Replay(NamedTuple):
    """A stream and a configuration to replay it with."""

    events: Path
    config: Path

    async def _start(self) -> asyncio.subprocess.Process:
        command = [
            sys.executable,
            "-m",
            "curb",
            "replay",
            str(self.events),
            "-c",
            str(self.config),
            "--notify",
        ]
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)

    async def to_the_end(self) -> str:
        """Run it until it ends by itself; its output."""
        process = await self._start()
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def killed_at(self, progress: int) -> bool:
        """Run it and kill -9 it as soon as the log holds so many messages; whether it was still running then."""
        process = await self._start()
        output = asyncio.ensure_future(process.communicate())
        log = await self._open_log()
        count = _Count(log)
        while not output.done() and await count.messages() < progress:
            await asyncio.wait({output}, timeout=_POLL_S)
        await log.close()
        struck = process.returncode is None
        if struck:
            process.kill()
        out, _ = await output
        assert struck or process.returncode == 0, out.decode()
        return struck

    async def progress(self) -> int:
        """How many messages of usage and of spend the log holds."""
        log = await self._open_log()
        found = await _Count(log).messages()
        await log.close()
        return found

    async def _open_log(self) -> Log:
        log = wiring.make_log(load_file(self.config), WallClock())
        await log.open()
        return log


class _Count:
    """Counts the messages of usage and of spend on a log; each look reads what came since the last one."""

    def __init__(self, log: Log) -> None:
        self._log, self._found = log, 0
        topics = (USAGE, SPEND)
        self._next = {TopicPartition(topic, p): 0 for topic in topics for p in range(log.partitions(topic))}

    async def messages(self) -> int:
        for topic in (USAGE, SPEND):
            async for message in self._log.scan(topic, dict(self._next)):
                self._found += 1
                self._next[TopicPartition(topic, message.partition)] = message.offset + 1
        return self._found


def write_config(path: Path, log: dict[str, Any], bucket_s: int, slack_url: str, token: str, channel: str) -> Path:
    """A configuration that tells a Slack at `slack_url` of each alert by itself, and commits and takes snapshots often.

    An alert that waits for others is told at the end of a replay all the same.
    """
    notifier = {"kind": "slack", "name": "slack", "token": token, "channel": channel, "base_url": slack_url}
    config = {
        "log": log,
        "instance": "replayed",
        "commit_interval_s": 0.05,
        "snapshot_interval_s": 0.5,
        "detector": {"bucket_s": bucket_s},
        "actions": {"notifiers": [notifier], "telling": {"group_by": [], "inhibit": False}},
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def input_totals(events: Path) -> dict[str, float]:
    """Dollars per api_key over the unique ids of a stream, added without rounding."""
    parts: dict[str, list[float]] = defaultdict(list)
    seen = set()
    opener = gzip.open if events.suffix == ".gz" else open
    with opener(events, "rb") as lines:
        for line in lines:
            event = json.loads(line)
            if event["src"] != "llm" or event["id"] in seen:
                continue
            seen.add(event["id"])
            parts[event["tags"]["api_key"]].append(event["cost_usd"])
    return {key: math.fsum(costs) for key, costs in parts.items()}


async def curb_totals(config: Path) -> dict[str, float]:
    """Dollars per api_key as `curb spend` adds them up from the log."""
    command = [sys.executable, "-m", "curb", "spend", "-c", str(config), "--json"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    parts: dict[str, list[float]] = defaultdict(list)
    for line in out.splitlines():
        row = json.loads(line)
        parts[row["tags"]["api_key"]].append(row["total_usd"])
    return {key: math.fsum(costs) for key, costs in parts.items()}


async def alert_revisions(config: Path) -> Counter[tuple[str, int]]:
    """How often each revision of each alert is on the log."""
    log = wiring.make_log(load_file(config), WallClock())
    await log.open()
    try:
        found: Counter[tuple[str, int]] = Counter()
        async for message in log.scan(ALERTS):
            for alert in decode_lines(message.value, Alert, lambda *_: None):
                found[alert.alert_id, alert.revision] += 1
        return found
    finally:
        await log.close()
