"""The inbox over real HTTP: tokens, limits, compression, and 200 only after the append."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from curb.connectors.connector import Context
from curb.connectors.intake.inbox import InboxSource, add_routes
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import litellm
from curb.stream.clock import ManualClock
from tests.fakes import litellm_usage
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0
TOKEN = "a-long-token"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
PATH = "/v1/ingest/gw"
Client = TestClient[web.Request, web.Application]


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def source() -> InboxSource:
    context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PriceBook.load())
    built = litellm.Config.model_validate({"kind": "litellm", "name": "gw", "token": TOKEN}).build(context).source
    return InboxSource("gw", built, SecretStr(TOKEN), max_body_bytes=1024 * 1024)


@pytest.fixture
async def client(log: MemoryLog, source: InboxSource) -> AsyncIterator[Client]:
    app = web.Application()
    add_routes(app, {"gw": source}, log, ManualClock(NOW))
    async with TestClient(TestServer(app)) as client:
        yield client


def body(count: int = 3) -> bytes:
    return litellm_usage.array([litellm_usage.payload(n, NOW - 60) for n in range(count)])


async def test_answers_with_counts_after_the_append(client: Client, log: MemoryLog, source: InboxSource) -> None:
    damaged = body(3)[:-1] + b',{"startTime": 1}]'
    response = await client.post(PATH, data=damaged, headers=AUTH)
    assert response.status == 200
    assert await response.json() == {"accepted": 3, "dead": 1}
    assert len(log.records()) == 3
    assert [letter.location for letter in log.dead_letters()] == ["POST /v1/ingest/gw#3"]
    assert source.last_success == NOW


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": TOKEN}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}],
)
async def test_needs_the_token(client: Client, log: MemoryLog, headers: dict[str, str]) -> None:
    response = await client.post(PATH, data=body(), headers=headers)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert log.messages == {}


async def test_an_unknown_name_is_404(client: Client) -> None:
    assert (await client.post("/v1/ingest/other", data=body(), headers=AUTH)).status == 404


async def test_a_log_that_is_away_asks_to_come_back(client: Client, log: MemoryLog, source: InboxSource) -> None:
    log.fail_next = 1
    response = await client.post(PATH, data=body(), headers=AUTH)
    assert response.status == 503
    assert response.headers["Retry-After"] == "5"
    assert source.last_success is None
    assert (await client.post(PATH, data=body(), headers=AUTH)).status == 200
    assert len(log.records()) == 3


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_bodies(client: Client, log: MemoryLog, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    headers = {**AUTH, "Content-Encoding": encoding}
    response = await client.post(PATH, data=pack(body(40)), headers=headers)
    assert await response.json() == {"accepted": 40, "dead": 0}
    assert len(log.records()) == 40


async def test_a_body_over_the_limit_is_413(client: Client, log: MemoryLog) -> None:
    response = await client.post(PATH, data=io.BytesIO(b" " * (1024 * 1024 + 1)), headers=AUTH)
    assert response.status == 413
    assert [letter.reason for letter in log.dead_letters()] == ["too_large"]


async def test_a_gzip_bomb_is_413(client: Client, log: MemoryLog) -> None:
    bomb = gzip.compress(b"[" + b" " * (64 * 1024 * 1024) + b"]")
    assert len(bomb) < 1024 * 1024
    response = await client.post(PATH, data=bomb, headers={**AUTH, "Content-Encoding": "gzip"})
    assert response.status == 413
    assert [letter.reason for letter in log.dead_letters()] == ["too_large"]


async def test_a_body_that_is_not_what_its_encoding_says_is_400(client: Client, log: MemoryLog) -> None:
    response = await client.post(PATH, data=b"plain", headers={**AUTH, "Content-Encoding": "gzip"})
    assert response.status == 400


@pytest.mark.parametrize("junk", [b"hello", b"\xff\xfe\xfd", b"[", b'{"a":'])
async def test_nothing_readable_is_400_and_a_dead_letter(client: Client, log: MemoryLog, junk: bytes) -> None:
    response = await client.post(PATH, data=junk, headers=AUTH)
    assert response.status == 400
    assert len(log.dead_letters()) == 1


@pytest.mark.parametrize(("content", "dead"), [(b"[]", 0), (b"", 0), (b"[1, 2]", 2), (b'{"a": 1}', 1)])
async def test_wrong_content_is_200_so_that_nobody_sends_it_for_ever(client: Client, content: bytes, dead: int) -> None:
    response = await client.post(PATH, data=content, headers=AUTH)
    assert response.status == 200
    assert await response.json() == {"accepted": 0, "dead": dead}
