"""Kafka over TLS: with a user and password, with tokens that end, with a certificate; and what a refusal says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestServer

from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.protocol import Message
from curb.stream.log.topics import ALERTS, TOPICS, USAGE
from tests.fakes.identity_provider import CLIENT, SECRET, IdentityProvider
from tests.real.certificates import Authority
from tests.real.kafka_secured import KEY_PASSWORD, PASSWORD, USER, SecuredBroker
from tests.require import require

pytestmark = [
    pytest.mark.real,
    # aiokafka leaves a connection that ends in the middle of its handshake to the garbage collector; nothing else may.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket|function (_SelectorTransport|StreamWriter))"
        ":pytest.PytestUnraisableExceptionWarning"
    ),
]
Given = dict[str, Any]


@pytest.fixture(scope="module")
def idp() -> IdentityProvider:
    return IdentityProvider()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, idp: IdentityProvider) -> Iterator[SecuredBroker]:
    if not os.environ.get("CURB_TEST_KAFKA_SECURED"):
        # aiokafka leaves the socket of a refused connection to the garbage collector, at times in another test, where
        # a warning is a failure.
        require("kafka_secured", "set CURB_TEST_KAFKA_SECURED=1 (it starts a broker of its own, as the Kafka tests do)")
    running = SecuredBroker(tmp_path_factory.mktemp("secured"), idp)
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def token_url(idp: IdentityProvider) -> AsyncIterator[str]:
    idp.life_s, idp.requests = 3600.0, 0
    async with TestServer(idp.app()) as server:
        yield str(server.make_url("/token"))


@pytest.fixture
def ways(broker: SecuredBroker, token_url: str) -> dict[str, Given]:
    """Settings by listener."""
    certificate, key = broker.authority.issue("curb", KEY_PASSWORD)
    common = {"ssl_cafile": str(broker.authority.file), "request_timeout_s": 20}
    return {
        "SCRAM": {
            **common,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": USER,
            "sasl_password": PASSWORD,
        },
        "TOKEN": {
            **common,
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "OAUTHBEARER",
            "oauth": {"token_url": token_url, "client_id": CLIENT, "client_secret": SECRET, "scope": "kafka"},
        },
        "CERTIFICATE": {
            **common,
            "security_protocol": "SSL",
            "ssl_certfile": str(certificate),
            "ssl_keyfile": str(key),
            "ssl_key_password": KEY_PASSWORD,
        },
    }


@pytest.fixture
def log_of(broker: SecuredBroker, ways: dict[str, Given]) -> Callable[..., KafkaLog]:
    prefix = f"secured-{uuid.uuid4().hex[:12]}."

    def made(listener: str, at: str = "", **other: Any) -> KafkaLog:
        given = {**ways[listener], **other, "kind": "kafka", "topic_prefix": prefix, "partitions": 2}
        given = {name: value for name, value in given.items() if value is not None}
        return KafkaLog(
            KafkaSettings.model_validate({"bootstrap_servers": broker.address(at or listener), **given}),
            "a",
            WallClock(),
        )

    return made


def numbers(messages: list[Message]) -> list[int]:
    return sorted(int(message.value) for message in messages)


async def moved(log: KafkaLog, count: int, pause_s: float = 0.0) -> None:
    """So many messages through a reader that commits; each answer is on the log exactly once."""
    reader = None
    while reader is None:
        with contextlib.suppress(TransientError):  # as a worker does: a token may end on the way to the broker
            reader = await log.reader("g", [USAGE])
    done: list[Message] = []
    try:
        for number in range(count):
            await log.append([Message(USAGE, f"{number}".encode(), key=b"k")])
            await asyncio.sleep(pause_s)
            while len(done) <= number:
                fetched = await reader.fetch()
                done += fetched
                if fetched:
                    await reader.commit([Message(ALERTS, each.value) for each in fetched])
    finally:
        await reader.close()
    assert numbers(done) == list(range(count))
    assert numbers([message async for message in log.scan(ALERTS)]) == list(range(count))


@pytest.mark.parametrize("listener", ["SCRAM", "TOKEN", "CERTIFICATE"])
async def test_messages_and_transactions_go_through(log_of: Callable[..., KafkaLog], listener: str) -> None:
    log = log_of(listener)
    assert await log.reach() == (0, len(TOPICS))
    await log.open()
    try:
        async with asyncio.timeout(60):
            await moved(log, 5)
    finally:
        await log.close()


async def test_one_token_serves_all_connections(log_of: Callable[..., KafkaLog], idp: IdentityProvider) -> None:
    log = log_of("TOKEN")
    await log.open()
    await log.append([Message(USAGE, b"1", key=b"k")])
    await log.close()
    assert idp.requests == 1


async def test_nothing_is_lost_when_tokens_end(log_of: Callable[..., KafkaLog], idp: IdentityProvider) -> None:
    # The broker ends every connection whose token has ended.
    idp.life_s = 8.0
    log = log_of("TOKEN")
    await log.open()
    try:
        async with asyncio.timeout(90):
            await moved(log, 12, pause_s=2.0)
    finally:
        await log.close()
    assert idp.requests >= 3


async def refused(log: KafkaLog) -> str:
    with pytest.raises((PermanentError, TransientError)) as raised:
        async with asyncio.timeout(60):
            await log.open()
    await log.close()
    assert SECRET not in str(raised.value)
    assert PASSWORD not in str(raised.value)
    return str(raised.value)


async def test_a_wrong_password_is_named(log_of: Callable[..., KafkaLog]) -> None:
    assert "invalid credentials with SASL mechanism SCRAM-SHA-512" in await refused(
        log_of("SCRAM", sasl_password="another one")
    )


async def test_a_mechanism_that_the_listener_does_not_have_is_named(log_of: Callable[..., KafkaLog]) -> None:
    assert "does not take sasl_mechanism PLAIN" in await refused(log_of("SCRAM", sasl_mechanism="PLAIN"))


async def test_a_client_that_the_identity_provider_refuses_is_named(
    log_of: Callable[..., KafkaLog], ways: dict[str, Given]
) -> None:
    oauth = {**ways["TOKEN"]["oauth"], "client_id": "nobody"}
    assert "token of 127.0.0.1/token: HTTP 401: no client nobody" in await refused(log_of("TOKEN", oauth=oauth))


async def test_a_token_that_the_broker_refuses_is_named(
    log_of: Callable[..., KafkaLog], idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idp, "signed", IdentityProvider().signed)
    assert "issuer, audience and scope" in await refused(log_of("TOKEN"))


async def test_an_authority_that_is_not_known_is_named(log_of: Callable[..., KafkaLog], tmp_path: Path) -> None:
    said = await refused(log_of("SCRAM", ssl_cafile=str(Authority(tmp_path, "another").file)))
    assert "certificate verify failed" in said


async def test_no_certificate_or_one_of_another_authority_is_refused(
    log_of: Callable[..., KafkaLog], tmp_path: Path
) -> None:
    none = {"ssl_certfile": None, "ssl_keyfile": None, "ssl_key_password": None}
    certificate, key = Authority(tmp_path, "another").issue("curb")
    other = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key), "ssl_key_password": None}
    assert "listener for security_protocol SSL?" in await refused(log_of("CERTIFICATE", **none))
    assert "does it take this certificate?" in await refused(log_of("CERTIFICATE", **other))


async def test_a_client_without_encryption_is_told_what_to_look_at(log_of: Callable[..., KafkaLog]) -> None:
    plain = {"security_protocol": "PLAINTEXT", "ssl_cafile": None, "sasl_username": None, "sasl_password": None}
    assert "security_protocol" in await refused(log_of("SCRAM", request_timeout_s=5, **plain))


async def test_encryption_on_a_port_without_it_is_named(log_of: Callable[..., KafkaLog]) -> None:
    """A listener that knows no TLS answers with something that is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                taken, _ = server.accept()
                with taken:
                    taken.recv(1024)
                    taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        log = log_of("SCRAM", bootstrap_servers=f"127.0.0.1:{server.getsockname()[1]}", request_timeout_s=5)
        assert "SSL" in await refused(log)
