"""The page of exposure: read in the background from gateways and log, kept between views, hostile names as text."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from curb.config.file import CurbConfig
from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import SPEND
from curb.stream.records.spend import SpendPartial
from tests.fakes.litellm_admin import ADMIN_KEY, LitellmAdmin
from tests.fakes.spend import T0
from tests.integration.test_dashboard import HOSTILE, TOKEN, a_daemon, page

Browser = TestClient[Any, Any]


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[LitellmAdmin, str]]:
    fake = LitellmAdmin(
        keys={
            "free": {"key_alias": HOSTILE, "spend": 1.0},
            "rate": {"key_alias": "chat", "rpm_limit": 10, "spend": 1.0},
            "over": {"key_alias": "stopped", "blocked": True},
            **{f"n{number:02}": {"key_alias": f"bot-{number:02}", "rpm_limit": 1} for number in range(60)},
        }
    )
    async with TestServer(fake.app()) as server:
        yield fake, str(server.make_url("/"))


@pytest.fixture
async def daemon(proxy: tuple[LitellmAdmin, str]) -> Any:
    action = {"kind": "litellm_limits", "name": "limits", "base_url": proxy[1], "api_key": ADMIN_KEY}
    config = CurbConfig.model_validate({"http": {"token": TOKEN}})
    actions = type(config.actions).model_validate({"actions": [_lever(action)]})
    found = a_daemon(config=config.model_copy(update={"actions": actions}))
    tags = {"team": "ads", "project": "p", "api_key": "free"}
    part = SpendPartial(scope="key", tags=tags, bucket_start=int(T0), effective_cost=4.0, events=1)
    part.requests = 40
    await found.log.append([Message(SPEND, encode_lines([part]), partition=0)])
    return found


def _lever(given: dict[str, Any]) -> Any:
    from curb.actions.levers.litellm_limits import Config

    return Config.model_validate(given)


@pytest.fixture
async def browser(daemon: Any) -> AsyncIterator[Browser]:
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        yield client


async def read(browser: Browser, path: str = "/exposure") -> str:
    """The page when the reading is over."""
    async with asyncio.timeout(30):
        while "Reading the gateways" in (text := await page(browser, path)):
            pass
    return text


async def test_no_limit_first_then_by_dollars_with_the_total(browser: Browser) -> None:
    assert "The figures appear here" in await page(browser, "/exposure")
    text = await read(browser)
    # Ten cents a request: ten a minute are $60, one is $6, and sixty keys of one are $360.
    for shown in ("1 of 63", "$420.00/h", "$60.00", "rpm_limit 10", "no limit", "$4.00"):
        assert shown in html.unescape(text), shown
    assert text.index("&lt;script&gt;") < text.index("chat") < text.index("bot-00")
    assert HOSTILE not in text
    assert ADMIN_KEY not in text


async def test_a_view_asks_no_gateway_while_the_figures_are_new(
    browser: Browser, proxy: tuple[LitellmAdmin, str], daemon: Any
) -> None:
    await read(browser)
    seen = len(proxy[0].faults.seen)
    for _ in range(5):
        await page(browser, "/exposure")
    assert len(proxy[0].faults.seen) == seen
    clock: ManualClock = daemon.clock
    await clock.advance(901.0)
    proxy[0].keys["rate"]["rpm_limit"] = 20
    assert "$60.00" in await page(browser, "/exposure"), "the old figures are shown while new ones are read"
    assert "$120.00" in await read(browser)
    assert len(proxy[0].faults.seen) > seen


async def test_a_gateway_that_is_away_is_said_and_the_old_figures_stay(
    browser: Browser, proxy: tuple[LitellmAdmin, str], daemon: Any
) -> None:
    await read(browser)
    proxy[0].faults.always = "503"
    await daemon.clock.advance(901.0)
    await page(browser, "/exposure")
    text = await read(browser)
    assert "HTTP 503" in text
    assert "The figures below are older" in text
    assert "$60.00" in text


async def test_search_filter_and_pages(browser: Browser) -> None:
    await read(browser)
    text = await page(browser, "/exposure?q=BOT-1")
    assert ("bot-10" in text, "bot-20" in text, "chat" in text) == (True, False, False)
    text = await page(browser, "/exposure?bound=refused")
    assert ("stopped" in text, "bot-10" in text) == (True, False)
    first, second = await page(browser, "/exposure"), await page(browser, "/exposure?place=50")
    assert "/exposure?place=50" in first
    assert ("bot-59" in first, "bot-59" in second, "First page" in second) == (False, True, True)


@pytest.mark.parametrize("query", ["bound=odd", "place=-1", "place=x", f"place={'9' * 30}", f"q={'x' * 201}"])
async def test_what_cannot_be_meant_is_400(browser: Browser, query: str) -> None:
    async with browser.get(f"/exposure?{query}", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 400


async def test_without_a_gateway_the_page_says_what_makes_one_known() -> None:
    async with TestClient(TestServer(make_app(cast(Running, a_daemon()), Doors()))) as client:
        text = await page(client, "/exposure")
    assert "no gateway is known" in text
    assert "Reading" not in text
