"""Fourteen kinds of calls through the real LiteLLM: its callback, and its spend logs alone, give the same records.

Switched on as tests/real/test_litellm_gateway.py is. It takes about three minutes of real time.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web

from curb.connectors.connector import Context, PushWithBackfill
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.litellm import Config, LiteLLM
from curb.stream.clock import WallClock
from curb.stream.records.spend import UsageRecord
from tests.real.litellm_kinds import KINDS, Caller
from tests.real.litellm_proxy import PORT, TOKEN, Proxy, find_proxy
from tests.real.litellm_upstream import UPSTREAM_PORT, upstream

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

#: Kind → records: an image, speech or rerank of a model with a price and one of a model without; an attempt before the
#: fallback; the first answer and that from the cache.
EXPECTED = dict.fromkeys(KINDS, 1) | {"image": 2, "audio": 2, "rerank": 2, "fallback": 2, "cached": 2}
#: What LiteLLM 1.108.7 says these cost. The rest is priced by Curb: LiteLLM has no price or its own says $0.
REPORTED_USD = {
    "chat": 0.00024,
    "stream": 0.00024,
    "responses": 0.00045,
    "messages": 0.006475,
    "embeddings": 0.000014,
    "batch": 0.315,
    "pass-through": 0.006475,
    "fallback": 0.00024,
    "cached": 0.00024,
    "failed": 0.0,
}
Records = dict[str, UsageRecord]


class Received(NamedTuple):
    """Bodies that the callback posted."""

    bodies: list[bytes]

    async def post(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        self.bodies.append(await request.read())
        return web.json_response({})


@asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[None]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def backfilled(proxy: Proxy, http: aiohttp.ClientSession) -> tuple[LiteLLM, list[UsageRecord]]:
    """What the spend logs hold of the last minutes, and the source of the same connector."""
    block = {"url": proxy.url, "key": proxy.master, "first_hours": 0.1}
    data = {"kind": "litellm", "name": "gateway", "token": TOKEN, "backfill": block}
    built = Config.model_validate(data).build(Context(WallClock(), http, PriceBook.load()))
    assert isinstance(built, PushWithBackfill)
    assert isinstance(built.push.source, LiteLLM)
    found: list[Any] = []
    batch = await built.backfill.connector.read(None)
    while True:
        assert batch.dead == []
        found += batch.records
        if not batch.more:
            return built.push.source, found
        batch = await built.backfill.connector.read(batch.cursor)


def of_key(records: list[Any], key_hash: str) -> Records:
    return {record.id: record for record in records if record.tags.get("api_key") == key_hash}


def tags(record: UsageRecord, *without: str) -> dict[str, str]:
    return {name: value for name, value in record.tags.items() if name not in without}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_callback_and_the_spend_logs_give_the_same(kind: str) -> None:
    received = Received([])
    inbox = web.Application(client_max_size=10**8)
    inbox.router.add_post("/v1/ingest/gateway", received.post)
    async with find_proxy() as proxy, aiohttp.ClientSession() as http:
        if "up-gpt" not in {model["id"] for model in (await proxy.admin("GET", "/v1/models"))["data"]}:
            pytest.skip("start the proxy with tests/real/litellm.yaml, which has the models that this test calls")
        async with serving(upstream(), UPSTREAM_PORT), serving(inbox, PORT):
            made = await proxy.admin("POST", "/key/generate", json={"key_alias": f"{kind}-{uuid.uuid4().hex[:8]}"})
            await KINDS[kind](Caller(http, proxy.url, made["key"]))
            pushed: Records = {}
            logged: Records = {}
            for _ in range(60):
                source, rows = await backfilled(proxy, http)
                batches = [source.parse(body, location="inbox", at=WallClock().now()) for body in received.bodies]
                assert [batch.dead for batch in batches] == [[]] * len(batches)
                pushed = of_key([record for batch in batches for record in batch.records], made["token"])
                logged = of_key(rows, made["token"])
                spent = (await proxy.admin("GET", "/key/info", params={"key": made["token"]}))["info"]["spend"]
                if len(pushed) == len(logged) == EXPECTED[kind] and spent >= REPORTED_USD.get(kind, 0.0) * 0.999:
                    break
                await asyncio.sleep(1)
    _same(pushed, logged, EXPECTED[kind])
    usd = sum(record.effective_cost for record in logged.values())
    if kind in REPORTED_USD:
        assert usd == pytest.approx(REPORTED_USD[kind])
        assert spent == pytest.approx(usd, abs=1e-9)
    for record in logged.values():
        assert record.errors or record.effective_cost or record.cost_source == "fallback" or kind == "cached"


def _same(pushed: Records, logged: Records, count: int) -> None:
    assert set(pushed) == set(logged), json.dumps([sorted(pushed), sorted(logged)])
    assert len(pushed) == count
    for event_id, record in pushed.items():
        row = logged[event_id]
        assert row.effective_cost == pytest.approx(record.effective_cost)
        assert (row.cost_source, row.requests, row.errors) == (record.cost_source, record.requests, record.errors)
        assert (row.input_tokens, row.output_tokens) == (record.input_tokens, record.output_tokens)
        assert row.cache_read_input_tokens == record.cache_read_input_tokens
        # Of an attempt before a fallback, the logs know no provider.
        unknown = ("provider",) if record.errors and "provider" not in row.tags else ()
        assert tags(row) == tags(record, *unknown)
