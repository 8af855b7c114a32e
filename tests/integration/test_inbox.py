"""The inbox over real HTTP: tokens, limits, compression, and 200 only after the append."""

from __future__ import annotations

import asyncio
import gzip
import io
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY
from pydantic import SecretStr

from curb.connectors.connector import Context
from curb.connectors.intake.body import Bodies
from curb.connectors.intake.inbox import InboxSource, add_routes
from curb.connectors.intake.refused_posts import RefusedPosts
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import litellm, usage_jsonl
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import Message
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
    server = TestServer(app)
    await server.start_server(auto_decompress=False)
    async with TestClient(server) as client:
        yield client


def counted(connector: str, reason: str) -> float:
    labels = {"connector": connector, "reason": reason}
    return REGISTRY.get_sample_value("curb_ingest_not_taken_total", labels) or 0.0


def body(count: int = 3) -> bytes:
    return litellm_usage.array([litellm_usage.payload(n, NOW - 60) for n in range(count)])


async def test_answers_with_counts_after_the_append(client: Client, log: MemoryLog, source: InboxSource) -> None:
    damaged = body(3)[:-1] + b',{"startTime": 1}]'
    response = await client.post(PATH, data=damaged, headers=AUTH)
    assert response.status == 207
    assert response.content_type == "application/problem+json"
    answer = await response.json()
    assert (answer["accepted"], answer["dead"], answer["status"]) == (3, 1, 207)
    assert [(error["index"], error["reason"]) for error in answer["errors"]] == [(3, "missing_field")]
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


@pytest.mark.parametrize("path", ["other", "", "gw/v1/traces"])
async def test_a_path_that_no_connector_has_is_404_with_those_that_exist(client: Client, path: str) -> None:
    response = await client.post(f"/v1/ingest/{path}", data=body(), headers=AUTH)
    assert response.status == 404
    answer = await response.json()
    assert (answer["paths"], answer["detail"].split("; ")[1]) == ([PATH], f"there is {PATH}")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        response = await client.post(f"/v1/ingest/{path}", data=body(), headers=headers)
        assert (response.status, PATH in await response.text()) == (401, False), "names are for who has a token"


async def test_a_slash_at_the_end_of_a_path_is_no_other_path(client: Client) -> None:
    assert (await client.post(f"{PATH}/", data=body(), headers=AUTH)).status == 200


async def test_a_path_where_nothing_is_pushed_to_is_404(log: MemoryLog) -> None:
    app = web.Application()
    add_routes(app, {}, log, ManualClock(NOW))
    async with TestClient(TestServer(app)) as client:
        response = await client.post("/v1/ingest/other", data=body())
        assert response.status == 404
        assert "no connector is configured that is pushed to" in await response.text()


async def test_what_reaches_no_connector_is_counted_and_logged_with_the_paths_that_exist(
    log: MemoryLog, source: InboxSource, caplog: pytest.LogCaptureFixture
) -> None:
    app, clock, refused = web.Application(), ManualClock(NOW), RefusedPosts()
    add_routes(app, {"gw": source}, log, clock, refused=refused)
    wrong = {"Authorization": "Bearer other"}
    before = [counted("", "unknown_path"), counted("gw", "wrong_token"), counted("gw", "no_token")]
    async with TestClient(TestServer(app)) as client:
        for path, headers in (("litelm", AUTH), ("litelm", wrong), ("gw", wrong), ("gw", {}), ("gw", AUTH)):
            await client.post(f"/v1/ingest/{path}", data=body(), headers=headers)
        rows = [(row.path, row.why, row.count) for row in refused.rows(NOW)]
        assert rows == [("/v1/ingest/litelm", "unknown_path", 2), (PATH, "wrong_token", 1), (PATH, "no_token", 1)]
        after = [counted("", "unknown_path"), counted("gw", "wrong_token"), counted("gw", "no_token")]
        assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 1]
        logged = [str(record.__dict__["detail"]) for record in caplog.records]
        assert len(logged) == 3, "once an hour each"
        assert logged[0].endswith(f"no connector has this path; there is {PATH}")
        await clock.advance(3600)
        await client.post("/v1/ingest/litelm", data=body(), headers=AUTH)
        assert [str(record.__dict__["detail"])[:46] for record in caplog.records[3:]] == [
            "POST /v1/ingest/litelm was refused 3 times, las"[:46]
        ]
        assert [row.path for row in refused.rows(NOW + 86_400)] == ["/v1/ingest/litelm"], "what was mended is forgotten"


async def test_however_many_paths_are_tried_few_are_kept() -> None:
    refused = RefusedPosts()
    for number in range(1000):
        refused.add(f"/v1/ingest/\x1b[31m{number}" + "x" * 500, "unknown_path", NOW, [])
    rows = refused.rows(NOW)
    assert (len(rows), sum(row.count for row in rows)) == (21, 1000)
    assert {row.path for row in rows if row.count > 1} == {"other paths"}
    assert all(row.path.isprintable() and len(row.path) < 130 for row in rows)


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
    assert len((await response.json())["errors"]) == 1
    assert len(log.dead_letters()) == 1


@pytest.mark.parametrize("content", [b"[]", b""])
async def test_no_events_are_200(client: Client, content: bytes) -> None:
    response = await client.post(PATH, data=content, headers=AUTH)
    assert response.status == 200
    assert await response.json() == {"accepted": 0, "dead": 0}


@pytest.mark.parametrize(("content", "dead"), [(b"[1, 2]", 2), (b'{"a": 1}', 1)])
async def test_a_body_of_which_nothing_is_kept_is_400(client: Client, content: bytes, dead: int) -> None:
    response = await client.post(PATH, data=content, headers=AUTH)
    assert response.status == 400
    assert response.content_type == "application/problem+json"
    answer = await response.json()
    assert (answer["accepted"], answer["dead"], len(answer["errors"])) == (0, dead, dead)
    assert {error["reason"] for error in answer["errors"]} <= {"wrong_type", "missing_field"}


async def test_many_refused_events_are_counted_and_the_first_hundred_named(client: Client) -> None:
    lines = b"\n".join([body(1)[1:-1], *[b"7"] * 1500])
    answer = await (await client.post(PATH, data=lines, headers=AUTH)).json()
    assert (answer["accepted"], answer["dead"], answer["status"]) == (1, 1500, 207)
    assert [error["line"] for error in answer["errors"]] == list(range(2, 102))
    assert answer["errors_left_out"] == 1400


async def test_a_clock_that_is_off_is_a_warning(client: Client, log: MemoryLog) -> None:
    content = litellm_usage.array([litellm_usage.payload(1, NOW + 3000)])
    response = await client.post(PATH, data=content, headers=AUTH)
    assert response.status == 200
    answer = await response.json()
    assert (answer["accepted"], answer["dead"]) == (1, 0)
    assert "3000 s ahead" in answer["warnings"][0]
    assert log.records()[0].charge_period_start == NOW


async def test_a_line_that_counts_as_nothing_is_a_warning(log: MemoryLog) -> None:
    context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PriceBook.load())
    settings = {"kind": "usage_jsonl", "name": "gw", "token": TOKEN}
    built = usage_jsonl.Config.model_validate(settings).build(context).source
    app = web.Application()
    source = InboxSource("gw", built, SecretStr(TOKEN), max_body_bytes=1024)
    add_routes(app, {"gw": source}, log, ManualClock(NOW))
    line = {"id": "a", "charge_period_start": NOW - 60, "effective_cots": 5}
    async with TestClient(TestServer(app)) as client, client.post(PATH, json=line, headers=AUTH) as response:
        assert response.status == 200
        answer = await response.json()
    said = "line 1 has the unknown field effective_cots and no cost, tokens or model: it counts as $0"
    assert answer == {"accepted": 1, "dead": 0, "warnings": [said]}


class SlowLog(MemoryLog):
    """The first append waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    async def append(self, messages: Sequence[Message]) -> None:
        self.begun.set()
        await self.go.wait()
        await super().append(messages)


async def test_what_waited_when_overload_began_is_refused_as_well(source: InboxSource) -> None:
    app, log, behind_s = web.Application(), SlowLog(), [0.0]
    add_routes(app, {"gw": source}, log, ManualClock(NOW), behind_s=lambda: behind_s[0], most_behind_s=60.0)
    large = body(400)
    assert 900_000 < len(large) < 1024 * 1024
    async with TestClient(TestServer(app)) as client:
        first = asyncio.create_task(client.post(PATH, data=large, headers=AUTH))
        await log.begun.wait()
        others = [asyncio.create_task(client.post(PATH, data=large, headers=AUTH)) for _ in range(4)]
        done, _ = await asyncio.wait(others, timeout=0.2)
        assert not done  # one body is worked on after the other
        behind_s[0] = 2.0
        log.go.set()
        assert (await first).status == 200
        answers = [await each for each in others]
    assert [each.status for each in answers] == [503] * 4
    assert all(each.headers["Retry-After"] == "5" for each in answers)
    assert len(log.records()) == 400


async def test_while_curb_is_behind_a_request_is_refused_before_its_body_is_read(
    log: MemoryLog, source: InboxSource
) -> None:
    app, behind_s = web.Application(), [61.0]
    add_routes(app, {"gw": source}, log, ManualClock(NOW), behind_s=lambda: behind_s[0], most_behind_s=60.0)
    async with TestClient(TestServer(app)) as client:
        response = await client.post(PATH, data=body(), headers=AUTH)
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert "61 s behind" in (await response.json())["detail"]
        assert (await client.post(PATH, data=body())).status == 401
        assert log.messages == {}
        assert source.health.last_error == "Curb is 61 s behind, send again later"
        behind_s[0] = 59.0
        assert (await client.post(PATH, data=body(), headers=AUTH)).status == 200


async def test_bodies_that_are_too_many_at_once_are_asked_to_come_back(log: MemoryLog, source: InboxSource) -> None:
    app, bodies = web.Application(), Bodies(held_bytes=1000)
    add_routes(app, {"gw": source}, log, ManualClock(NOW), bodies)
    async with TestClient(TestServer(app)) as client:
        response = await client.post(PATH, data=body(40), headers=AUTH)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert log.messages == {}
        # What was refused is held no longer.
        assert (await client.post(PATH, data=b"[]", headers=AUTH)).status == 200
