"""The demo gateway over real HTTP: the calls Curb makes to it, the calls clients make, and its reports to Curb."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.demo.gateway import BATCH_SIZE, Gateway
from curb.demo.trace import DEFAULT_START, Trace
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError

START = DEFAULT_START + 4 * 86400 + 14 * 3600
MASTER = {"Authorization": "Bearer sk-master"}
CHAT = {"model": "any", "messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 10}
Made = tuple[Gateway, ManualClock, aiohttp.ClientSession, str, Trace]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.load()


@pytest.fixture
async def made(trace: Trace) -> AsyncIterator[Made]:
    clock = ManualClock(START)
    async with aiohttp.ClientSession() as http:
        limits = {"support-agent": {"rpm_limit": 600}}
        gateway = Gateway(trace, clock, master_key="sk-master", http=http, limits=limits)
        url = await gateway.start()
        yield gateway, clock, http, url, trace
        await gateway.close()


async def chat(http: aiohttp.ClientSession, url: str, secret: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    headers = {"Authorization": f"Bearer {secret}"}
    async with http.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def update(http: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str] = MASTER) -> tuple[int, Any]:
    async with http.post(f"{url}/key/update", data=json.dumps(body), headers=headers) as answer:
        return answer.status, await answer.json()


async def info(http: aiohttp.ClientSession, url: str, key: str, headers: dict[str, str] = MASTER) -> tuple[int, Any]:
    async with http.get(f"{url}/key/info", params={"key": key}, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_limit_is_set_read_back_enforced_and_cleared(made: Made) -> None:
    gateway, clock, http, url, trace = made
    key = trace.key("support-agent")
    status, found = await info(http, url, key.api_key)
    assert (status, found["key"], found["info"]["rpm_limit"]) == (200, key.api_key, 600)
    headers = MASTER | {"litellm-changed-by": "curb/a1"}
    assert (await update(http, url, {"key": key.api_key, "rpm_limit": 3}, headers))[0] == 200
    assert gateway.changes == [(START, key.api_key, {"rpm_limit": 3}, "curb/a1")]
    answers = [await chat(http, url, key.secret) for _ in range(5)]
    assert [a[0] for a in answers] == [200, 200, 200, 429, 429]
    assert answers[0][1]["usage"] == {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    assert answers[3][1]["error"]["type"] == "throttling_error"
    assert answers[3][1]["error"]["code"] == "429"
    assert answers[3][2]["retry-after"] == "60"
    await clock.advance(60)
    assert (await chat(http, url, key.secret))[0] == 200
    await update(http, url, {"key": key.secret, "rpm_limit": None})
    assert (await info(http, url, key.secret))[1]["info"]["rpm_limit"] is None
    assert gateway.limit("support-agent") is None
    assert [(await chat(http, url, key.secret))[0] for _ in range(5)] == [200] * 5


async def test_http_calls_and_admit_share_one_limiter(made: Made) -> None:
    gateway, _, http, url, trace = made
    key = trace.key("support-agent")
    await update(http, url, {"key": key.api_key, "rpm_limit": 2})
    request = next(r for r in trace.requests_between(START, START + 600) if r.key is key)._replace(at=START)
    assert gateway.admit(request)
    assert (await chat(http, url, key.secret))[0] == 200
    assert not gateway.admit(request)
    assert (await chat(http, url, key.secret))[0] == 429


async def test_wrong_callers_and_wrong_bodies_get_their_status(made: Made) -> None:
    _, _, http, url, trace = made
    key = trace.key("support-agent").api_key
    assert (await info(http, url, key, {}))[0] == 401
    assert (await update(http, url, {"key": key, "rpm_limit": 1}, {"Authorization": "Bearer no"}))[0] == 401
    assert (await info(http, url, "key-unknown"))[0] == 404
    assert (await update(http, url, {"key": "key-unknown", "rpm_limit": 1}))[0] == 404
    assert (await update(http, url, [1]))[0] == 400
    assert (await update(http, url, {"key": key, "rpm_limit": "many"}))[0] == 400
    assert (await update(http, url, {"key": key, "models": ["m"]}))[0] == 400
    assert (await chat(http, url, key))[0] == 401
    assert (await info(http, url, key))[1]["info"]["rpm_limit"] == 600


class Receiver:
    """What Curb's ingest route looks like from outside, with an answer on demand."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.tokens: set[str] = set()

    async def receive(self, request: web.Request) -> web.Response:
        status = self.statuses.pop(0) if self.statuses else 200
        self.tokens.add(request.headers["Authorization"])
        if status == 200:
            self.batches.append(await request.json())
        return web.Response(status=status)


@pytest.fixture
async def receiver(made: Made) -> AsyncIterator[Receiver]:
    app, receives = web.Application(), Receiver()
    app.router.add_post("/v1/ingest/gateway", receives.receive)
    async with TestServer(app) as server:
        made[0].report_to(str(server.make_url("/v1/ingest/gateway")), "ingest-token")
        yield receives


async def test_every_call_is_reported_once_in_batches(made: Made, receiver: Receiver) -> None:
    gateway, _, _, _, trace = made
    requests = list(trace.requests_between(START, START + 1200))
    assert len(requests) > BATCH_SIZE
    verdicts = {r.id: gateway.admit(r) for r in requests}
    receiver.statuses = [200, 503]
    await gateway.flush()
    await gateway.flush()
    assert receiver.tokens == {"Bearer ingest-token"}
    assert len(receiver.batches[0]) == BATCH_SIZE
    sent = [report for batch in receiver.batches for report in batch]
    assert [r["id"] for r in sent] == [r.id for r in requests]
    assert gateway.reported == len(requests)
    assert sum(r["response_cost"] for r in sent) == pytest.approx(sum(r.cost_usd for r in requests), rel=1e-12)
    assert all((r["status"] == "success") == verdicts[r["id"]] for r in sent)
    first, request = sent[0], requests[0]
    assert first["metadata"]["user_api_key_hash"] == request.key.api_key
    assert first["metadata"]["user_api_key_team_alias"] == request.key.team
    assert (first["startTime"], first["model"]) == (request.at, request.key.model)
    assert "loop" not in first


async def test_a_rejected_call_is_reported_as_a_failure_that_costs_nothing(made: Made, receiver: Receiver) -> None:
    gateway, _, http, url, trace = made
    key = trace.key("support-agent")
    await update(http, url, {"key": key.api_key, "rpm_limit": 0})
    await chat(http, url, key.secret)
    await gateway.flush()
    [[report]] = receiver.batches
    assert (report["status"], report["response_cost"], report["total_tokens"]) == ("failure", 0, 0)
    assert report["error_information"]["error_code"] == "429"
    assert "x" * 50 not in json.dumps(report)


async def test_a_receiver_that_refuses_is_an_error_and_one_that_is_away_is_not(made: Made, receiver: Receiver) -> None:
    gateway, _, http, url, trace = made
    await chat(http, url, trace.key("support-agent").secret)
    receiver.statuses = [401]
    with pytest.raises(PermanentError, match="401"):
        await gateway.flush()
    gateway.report_to("http://127.0.0.1:1/nobody", "t")
    await gateway.flush()
    assert gateway.reported == 0
