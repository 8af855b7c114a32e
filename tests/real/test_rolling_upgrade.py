"""Two versions of Curb in one Kafka group, replaced one after the other: nothing lost, nothing done or said twice."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.stream.clock import WallClock
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.codec import decode_lines, encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, COMMANDS, STATE
from curb.stream.records.spend import Alert, Command
from tests.acceptance.daemons import Daemon
from tests.fakes.litellm_admin import LitellmAdmin
from tests.fakes.webhook_receiver import WebhookReceiver
from tests.old_logs import KEYS, NEW_LIMIT, OLD_LIMIT, TOKEN, configuration
from tests.ports import free_port
from tests.real.kafka_broker import Broker
from tests.real.other_version import earlier_version

# Seven starts of a process that owns partitions; on a busy machine each can take half a minute.
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
LOOP = KEYS[0]


class Cluster:
    """Daemons on one topic prefix, what they act on, and what was sent to them."""

    def __init__(self, home: Path, bootstrap: str, gateway: LitellmAdmin, hook: WebhookReceiver) -> None:
        self.home, self.gateway, self.hook = home, gateway, hook
        self.log_settings = {
            "kind": "kafka",
            "bootstrap_servers": bootstrap,
            "topic_prefix": f"roll-{uuid.uuid4().hex[:12]}.",
            "partitions": 2,
            "session_timeout_s": 6,
            "transaction_timeout_s": 5,
        }
        self.urls = ("", "")
        self.sent = dict.fromkeys(KEYS, 0.0)
        self.daemons: list[Daemon] = []

    async def start(self, instance: str, code: Path | None) -> Daemon:
        """A daemon of this version, or of the version in `code`."""
        port = free_port()
        text = configuration(self.home / instance, port, *self.urls)
        old = f"log: {{directory: {self.home / instance}}}"
        short = "lease_minutes: 1}"
        assert old in text
        assert short in text
        # However long the test takes, the lease is ended by nobody but the test.
        text = text.replace(short, "lease_minutes: 120}")
        path = self.home / f"{instance}.yaml"
        path.write_text(text.replace(old, f"instance: {instance}\nlog: {json.dumps(self.log_settings)}"), "utf-8")
        daemon = Daemon(path, port, code=code)
        self.daemons.append(daemon)
        await daemon.start(ready_s=120.0)
        return daemon

    async def push(self, daemon: Daemon, key: str, usd: float) -> None:
        record = {"id": uuid.uuid4().hex, "charge_period_start": time.time() - 1, "effective_cost": usd, "requests": 1}
        body = json.dumps(record | {"tags": {"team": "a", "project": "p", "api_key": key}})
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            async with http.post(f"{daemon.url}/v1/ingest/meter", data=body) as answer:
                assert answer.status == 200, await answer.text()
        self.sent[key] += usd

    async def spent(self) -> dict[str, float]:
        """The dollars of each key, wherever it is counted."""
        found: dict[str, float] = {}
        async with aiohttp.ClientSession() as http:
            for daemon in self.daemons:
                if not daemon.runs:
                    continue
                async with http.get(f"{daemon.url}/v1/budgets") as answer:
                    rows = (await answer.json())["budgets"]
                found |= {row["tags"]["api_key"]: row["spent_usd"] for row in rows if "api_key" in row["tags"]}
        return found

    async def until_counted(self) -> None:
        """Until what was sent is what is counted, to the cent of a cent."""

        async def counted() -> bool:
            found = await self.spent()
            return all(abs(found.get(key, 0.0) - usd) < 1e-6 for key, usd in self.sent.items() if usd)

        await until(counted, lambda: f"sent {self.sent}")

    async def alerts(self, log: KafkaLog) -> list[Alert]:
        """Every revision, in the order of the log."""
        found: list[Alert] = []
        async for message in log.scan(ALERTS):
            found += decode_lines(message.value, Alert, lambda *_: None)
        return found


async def until(condition: Callable[[], Awaitable[bool]], what: Callable[[], str]) -> None:
    try:
        async with asyncio.timeout(120):
            while not await condition():
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"not within 120 s: {what()}")


@pytest.fixture
async def cluster(kafka_broker: Broker, tmp_path: Path) -> AsyncIterator[Cluster]:
    gateway, hook = LitellmAdmin({key: {"rpm_limit": OLD_LIMIT} for key in KEYS}), WebhookReceiver()
    made = Cluster(tmp_path, kafka_broker.bootstrap, gateway, hook)
    async with TestServer(gateway.app()) as limits, TestServer(hook.app()) as hooks:
        made.urls = str(limits.make_url("/")), str(hooks.make_url("/hook"))
        yield made
        for daemon in made.daemons:
            await daemon.end()


@pytest.fixture
async def log(cluster: Cluster) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(KafkaSettings(**cluster.log_settings), "test", WallClock())
    await log.open()
    yield log
    await log.close()


def announced(hook: WebhookReceiver) -> list[tuple[Any, Any]]:
    """Alert and revision of each message, in order."""
    bodies = (body["alert"] for body in hook.accepted.values() if "alert" in body)
    return [(alert["alert_id"], alert["revision"]) for alert in bodies]


async def test_versions_take_turns_and_a_snapshot_of_neither_is_set_aside(
    cluster: Cluster, log: KafkaLog, tmp_path: Path
) -> None:
    commit, code = earlier_version(tmp_path)

    # Two of the earlier version; one key goes over its budget and is limited.
    first, second = await cluster.start("a", code), await cluster.start("b", code)
    for key in KEYS:
        await cluster.push(first, key, 0.001)
    await cluster.push(second, LOOP, 0.6)
    await until(_limited(cluster), lambda: f"limited by {commit}: {cluster.gateway.updates}")
    await cluster.until_counted()

    # One is replaced: both versions hold partitions of the same groups, and either takes what is pushed.
    assert await second.stop() == 0
    second = await cluster.start("b", None)
    for daemon in (first, second):
        await cluster.push(daemon, LOOP, 0.25)
        await cluster.push(daemon, KEYS[1], 0.001)
    await cluster.until_counted()

    # The other follows.
    assert await first.stop() == 0
    first = await cluster.start("a", None)
    await cluster.push(first, KEYS[2], 0.002)
    await cluster.until_counted()
    (alert_id,) = {alert.alert_id for alert in await cluster.alerts(log)}

    # All end, their snapshots are of a version nobody knows, and one starts.
    assert await first.stop() == await second.stop() == 0
    heads = {key: value for key, value in (await log.table(STATE)).items() if key.endswith(b"/head")}
    unknown = [
        Message(STATE, json.dumps(json.loads(value) | {"form": "of tomorrow"}).encode(), key=key)
        for key, value in heads.items()
        if key.startswith(b"curb-detector/")
    ]
    assert unknown
    await log.append(unknown)
    first = await cluster.start("a", None)
    await until(
        _set_aside(first, len(unknown)), lambda: f"{len(unknown)} set aside: {first.log.read_text('utf-8')[-2000:]}"
    )
    await cluster.until_counted()
    await cluster.push(first, LOOP, 0.3)
    await cluster.until_counted()

    # The limit is given back once, and what was raised is one alert whose revisions go on.
    (action_id,) = await _open_actions(first)
    undo = Command(id=uuid.uuid4().hex, kind="undo", at=time.time(), by="test", args={"action_id": action_id})
    await log.append([Message(COMMANDS, encode(undo), key=b"undo")])
    await until(_restored(cluster), lambda: f"restored: {cluster.gateway.updates}")
    assert [body for _, body in cluster.gateway.updates] == [{"rpm_limit": NEW_LIMIT}, {"rpm_limit": OLD_LIMIT}]
    alerts = await cluster.alerts(log)
    assert {alert.alert_id for alert in alerts} == {alert_id}
    revisions = [alert.revision for alert in alerts]
    assert revisions == sorted(set(revisions))
    said = announced(cluster.hook)
    assert said
    assert len(set(said)) == len(said), "a revision was sent twice"
    assert {each for each, _ in said} == {alert_id}
    assert await first.stop() == 0


async def _open_actions(daemon: Daemon) -> list[str]:
    async with aiohttp.ClientSession() as http, http.get(f"{daemon.url}/v1/actions") as answer:
        return [
            row["action_id"] for row in await answer.json() if row["state"] in ("applied", "effective", "ineffective")
        ]


def _set_aside(daemon: Daemon, count: int) -> Callable[[], Awaitable[bool]]:
    async def set_aside() -> bool:
        return daemon.log.read_text("utf-8").count("set aside") == count

    return set_aside


def _limited(cluster: Cluster) -> Callable[[], Awaitable[bool]]:
    async def limited() -> bool:
        return bool(cluster.gateway.keys[LOOP]["rpm_limit"] == NEW_LIMIT)

    return limited


def _restored(cluster: Cluster) -> Callable[[], Awaitable[bool]]:
    async def restored() -> bool:
        return bool(cluster.gateway.keys[LOOP]["rpm_limit"] == OLD_LIMIT)

    return restored
