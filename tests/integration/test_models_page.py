"""The pages of models and runs: units over time, before and after a deploy or a new model, hostile names as text."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import AsyncIterator
from typing import Any, cast
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import TestClient, TestServer

from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.knowledge import knowledge_message
from curb.stream.records.spend import Annotation, SpendPartial
from tests.integration.test_dashboard import HOSTILE, TOKEN, a_daemon, page

Browser = TestClient[Any, Any]
#: The start of an hour.
START = 1_750_032_000
DEPLOY = START + 60 * 3600


def part(scope: str, tags: dict[str, str], hour: int, usd: float) -> SpendPartial:
    found = SpendPartial(scope=scope, tags=tags, bucket_start=START + 3600 * hour, effective_cost=usd, events=1)
    found.requests, found.input_tokens = 100, 50_000
    return found


def parts() -> list[SpendPartial]:
    """Four days of a team; a request costs twice as much from the deploy in hour 60 on, by a new model."""
    found = []
    for hour in range(96):
        usd, model = (1.0, "small-1") if hour < 60 else (2.0, HOSTILE)
        found.append(part("model", {"model": model}, hour, usd))
        key = {"team": "ads", "project": "p", "api_key": "k"}
        if hour % 24 == 3:
            key["job"] = "nightly"
        found.append(part("key", key, hour, usd))
    return found


@pytest.fixture
async def daemon() -> Any:
    found = a_daemon()
    await found.log.append([Message(SPEND, encode_lines(parts()), partition=0)])
    note = Annotation(id="d1", at=DEPLOY + 60, kind="deploy", tags={"team": "ads"}, text=f"v2 {HOSTILE}")
    found.view.apply(knowledge_message(note))
    return found


@pytest.fixture
async def browser(daemon: Any) -> AsyncIterator[Browser]:
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        yield client


async def read(browser: Browser, path: str) -> str:
    """The page when the log is read, without its markup."""
    async with asyncio.timeout(30):
        while "The log is being read" in await page(browser, "/models"):
            pass
    text = await page(browser, path)
    assert HOSTILE not in text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def one(*tags: tuple[str, str]) -> str:
    return urlencode([("tag", f"{key}={value}") for key, value in tags])


async def test_units_of_each_model_against_as_long_before(browser: Browser) -> None:
    text = await read(browser, "/models?range=24h")
    # A request of two cents, as the day before.
    assert "A request $0.02 1,000 tokens $0.04 Requests 2,400 Dollars $48.00" in text
    assert f"{HOSTILE} $0.02 as before $0.04 as before 2,400" in text
    assert "small-1 $" not in text
    assert "small-1 $0.01" in await read(browser, "/models?range=7d")


async def test_before_and_after_a_deploy_and_a_new_model(browser: Browser) -> None:
    text = await read(browser, "/models")
    begin = text.index("Before and after")
    table = text[begin : text.index("Runs of jobs")]
    deploy = table[table.index("deploy: v2") :]
    assert deploy.index("ads $0.02 +100 % $0.04 +100 % $24.00 $48.00") > 0
    assert f"new model: {HOSTILE}" in table
    assert "new model: small-1" not in table, "what the log begins with is not new"


async def test_a_run_against_the_runs_before(browser: Browser) -> None:
    text = await read(browser, "/models")
    assert "ads · p · nightly $2.00 +100 % $1.00" in text
    runs = await read(browser, "/models/runs?" + one(("team", "ads"), ("project", "p"), ("job", "nightly")))
    assert "Runs of ads · p · nightly" in runs
    assert len(re.findall(r"\$[12]\.00 1 min", runs)) == 4


async def test_the_page_of_a_model_draws_both_figures(browser: Browser) -> None:
    await read(browser, "/models")
    text = await page(browser, "/models/one?" + one(("model", HOSTILE)))
    assert text.count('<svg class="chart"') == 2
    assert HOSTILE not in text


@pytest.mark.parametrize("path", ["/models/one?tag=model%3Dnone", "/models/one", "/models/runs?tag=job%3Dnone"])
async def test_what_is_not_there_is_404(browser: Browser, path: str) -> None:
    await read(browser, "/models")
    async with browser.get(path, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 404


async def test_an_odd_range_is_400(browser: Browser) -> None:
    async with browser.get("/models?range=9y", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 400


async def test_new_spend_is_read_once_and_added(browser: Browser, daemon: Any) -> None:
    await read(browser, "/models")
    await daemon.log.append([Message(SPEND, encode_lines([part("key", {"team": "ads"}, 95, 46.0)]), partition=1)])
    await daemon.clock.advance(61.0)
    async with asyncio.timeout(30):
        while "$94.00" not in (text := await page(browser, "/models")):
            assert "$142.00" not in text


async def test_a_log_that_is_away_is_said(daemon: Any) -> None:
    def gone(*_: Any) -> Any:
        raise TransientError("Kafka, scanning curb.spend: away")

    daemon.log.scan = gone
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client, asyncio.timeout(30):
        while "scanning curb.spend: away" not in await page(client, "/models"):
            pass
