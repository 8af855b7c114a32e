"""The stream of changes: what is new arrives, roles hold, places are bounded, and the port does not wait for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestClient, TestServer

from curb.config.file import CurbConfig
from curb.serve.api import make_app
from curb.serve.connections import Patience
from curb.serve.pages import events
from curb.serve.port import Place, Port
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from tests.fakes.alerts import alert_message, an_alert
from tests.integration.test_dashboard import a_daemon
from tests.integration.test_pages_operate import TOKENS, Browser, sign_in

READER = {"Authorization": "Bearer reader-token"}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOOK_S", 0.01)
    monkeypatch.setattr(events, "SIGN_S", 0.05)


@pytest.fixture
def daemon() -> Any:
    found = a_daemon(config=CurbConfig.model_validate({"http": {"tokens": TOKENS, "max_streams": 2}}))
    found.view.apply(alert_message(an_alert(alert_id="old")))
    return found


@pytest.fixture
async def browser(daemon: Any) -> AsyncIterator[Browser]:
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        yield client


async def part(answer: ClientResponse) -> dict[str, str]:
    """The next part with fields; signs of life are passed over."""
    while True:
        found: dict[str, str] = {}
        while line := (await answer.content.readline()).decode().strip():
            name, _, value = line.partition(": ")
            found |= {name: value} if name else {}
        if found or answer.content.at_eof():
            return found


async def test_what_changed_arrives_and_what_was_there_before_does_not(browser: Browser, daemon: Any) -> None:
    async with browser.get("/events", headers=READER) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert (await part(answer))["retry"] == "3000"
        daemon.view.apply(alert_message(an_alert(alert_id="new")))
        daemon.view.apply(alert_message(an_alert(alert_id="new", revision=2)))
        seen: set[str] = set()
        while "new" not in seen:
            found = await part(answer)
            assert found["event"] == "changed"
            seen |= set(json.loads(found["data"])["alerts"])
    assert seen == {"new"}


async def test_a_silent_stream_shows_that_it_lives(browser: Browser) -> None:
    async with browser.get("/events", headers=READER) as answer:
        await part(answer)
        assert (await answer.content.readline()).startswith(b": ")


@pytest.mark.parametrize("token", ["", "ingest-token"])
async def test_who_may_not_read_learns_nothing(browser: Browser, token: str) -> None:
    async with browser.get("/events", headers={"Authorization": f"Bearer {token}"}) as answer:
        assert answer.status in (401, 403)


async def test_more_than_there_are_places_are_refused_and_a_place_comes_back(browser: Browser) -> None:
    async with browser.get("/events", headers=READER) as one, browser.get("/events", headers=READER) as two:
        assert (one.status, two.status) == (200, 200)
        async with browser.get("/events", headers=READER) as three:
            assert (three.status, three.headers["Retry-After"]) == (503, "30")
    for _ in range(500):  # the server sees that a client is gone when it writes next
        async with browser.get("/events", headers=READER) as again:
            if again.status == 200:
                return
        await asyncio.sleep(0.01)
    raise AssertionError("no place came back")


async def test_a_stream_ends_with_the_sign_in(browser: Browser) -> None:
    assert (await sign_in(browser, "reader-token")).status == 303
    async with browser.get("/events") as answer:
        await part(answer)
        async with browser.get("/") as page:
            token = (await page.text()).partition('name="form_token" value="')[2].partition('"')[0]
        async with browser.post("/sign-out", data={"form_token": token}, allow_redirects=False):
            pass
        while not answer.content.at_eof():
            await answer.content.readline()


async def test_through_the_process_that_accepts_and_the_port_ends_at_once(daemon: Any) -> None:
    place = Place("127.0.0.1", 0, 64, Patience(head_s=5.0, body_s=5.0))
    port = Port(make_app(cast(Running, daemon), Doors()), place)
    await port.open()
    async with ClientSession(headers=READER) as session:
        async with session.get(f"http://127.0.0.1:{port.number}/events") as answer:
            await part(answer)
            daemon.view.apply(alert_message(an_alert(alert_id="new")))
            assert json.loads((await part(answer))["data"])["alerts"] == ["new"]
            async with asyncio.timeout(5):  # far less than the time that answers get when a daemon stops
                await port.close()
            while not answer.content.at_eof():
                await answer.content.readline()
