"""The pages in a real browser: signing in, pressing, a link from elsewhere, renewing, a phone, and without scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestServer

from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from tests.fakes.alerts import T0, alert_message, an_alert
from tests.integration.test_dashboard import HOSTILE
from tests.integration.test_pages_operate import commands, knowledge
from tests.integration.test_pages_operate import daemon as daemon  # noqa: PLC0414 (a fixture)
from tests.real.chromium import Chromium, chromium
from tests.real.programs import AwayError, npm_file
from tests.require import require

SERIES = "/series/one?scope=team&tag=team%3Dsearch"
PAGES = ("/", "/exposure", "/models", "/series", SERIES, "/alerts", "/alerts/a1", "/actions", "/config")
SIGN_IN = """
document.querySelector('[name=token]').value = 'operator-token';
document.querySelector('[name=name]').value = 'M'.repeat(64);
document.querySelector('main form').submit();
"""


AXE = "axe-core@4.14.1"
VIOLATIONS = "axe.run().then(found => found.violations.map(each => [each.id, each.nodes.map(node => node.html)]))"
#: What a thumb presses, and is less than 44 px high or wide.
TOO_SMALL = """
[...document.querySelectorAll('button, .button, summary, select, input:not([type=hidden]), nav a, .card h3 a')]
    .filter(each => each.offsetParent)
    .map(each => [each.textContent.trim(), each.getBoundingClientRect()])
    .filter(([text, box]) => Math.min(box.width, box.height) < 44)
    .map(([text, box]) => `${text}: ${box.width} x ${box.height}`)
"""


@pytest.fixture
async def url(daemon: Any) -> AsyncIterator[str]:
    async with TestServer(make_app(cast(Running, daemon), Doors()), host="127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.port}"


async def signed_in(browser: Chromium, url: str, path: str = "/alerts/a1") -> None:
    await browser.go(url + path)
    await browser.follow(SIGN_IN)
    assert await browser.run("location.pathname") == path


async def test_on_call_on_a_phone(url: str, daemon: Any) -> None:
    """From the link of a message to an undo, an approval, a snooze and planned work, with a thumb."""
    async with chromium() as browser:
        await browser.size(390)
        await signed_in(browser, url)
        assert await browser.run("document.cookie") == "", "scripts cannot read it"
        for label in ("Undo", "Approve", "Snooze", "Announce", "Not an anomaly"):
            await browser.press(label)
            assert "Noted" in await browser.text(), label
        assert [each.kind for each in commands(daemon)] == ["undo", "approve", "snooze"]
        assert [type(each).__name__ for each in knowledge(daemon)] == ["PlannedActivity", "Feedback"]
        assert not browser.complaints[1:], "but for the first page, which asks to sign in"


async def test_a_link_from_elsewhere_leads_to_the_page_at_once(url: str) -> None:
    async with chromium() as browser:
        await signed_in(browser, url)
        await browser.go(url.replace("127.0.0.1", "localhost") + "/sign-in")
        await browser.run(f"document.body.innerHTML = '<a href=\"{url}/alerts/a1\">x</a>'; 1")
        await browser.follow("document.querySelector('a').click()")
        async with asyncio.timeout(30):
            while "Runaway spend" not in await browser.text():
                pass  # the page asks for itself once more


async def test_a_page_fits_a_phone_in_both_schemes_and_breaks_no_rule_of_its_policy(url: str) -> None:
    async with chromium() as browser:
        await signed_in(browser, url, "/")
        browser.complaints.clear()
        for path in PAGES:
            for width, dark in ((390, False), (390, True), (1280, False)):
                await browser.size(width, dark=dark)
                await browser.go(url + path)
                assert await browser.run("document.documentElement.scrollWidth") <= width, (path, width)
                assert (
                    HOSTILE in await browser.text() or "search" in await browser.text() or path not in ("/", "/alerts")
                )
        assert not browser.complaints


async def test_everything_is_large_enough_for_a_thumb(url: str) -> None:
    """44 px, but for links within a sentence or a table."""
    async with chromium() as browser:
        await browser.size(390)
        await browser.go(f"{url}/sign-in")
        assert await browser.run(TOO_SMALL) == []
        await signed_in(browser, url, "/")
        for path in PAGES:
            await browser.go(url + path)
            await browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; }); 1")
            assert await browser.run(TOO_SMALL) == [], path


async def test_the_keyboard_is_enough(url: str, daemon: Any) -> None:
    async with chromium() as browser:
        await signed_in(browser, url)
        for label in ("Undo", "Snooze"):
            await browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; }); 1")
            for _ in range(60):
                await browser.key("Tab")
                if await browser.run("document.activeElement.textContent.trim()") == label:
                    break
            outline = await browser.run("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", f"where the keyboard is cannot be seen: {label}"
            await browser.follow_key("Enter")
            assert "Noted" in await browser.text()
        assert [each.kind for each in commands(daemon)] == ["undo", "snooze"]


async def test_axe_finds_nothing_on_any_page_in_either_scheme(url: str) -> None:
    """WCAG 2.2 A and AA, and the practices that axe knows, with everything unfolded."""
    try:
        axe = npm_file("axe-core", AXE, "axe-core/axe.min.js").read_text(encoding="utf-8")
    except AwayError as away:
        require("npm", f"{away}; axe-core is installed with it")
    async with chromium() as browser:
        await signed_in(browser, url, "/")
        for path in ("/sign-in", *PAGES, "/actions/x1", "/models/one", "/models/runs"):
            for width, dark in ((390, False), (390, True), (1280, False)):
                await browser.size(width, dark=dark)
                await browser.go(url + path)
                await browser.run("document.querySelectorAll('details').forEach(each => { each.open = true; }); 1")
                await browser.run(f"{axe}; 1")
                assert await browser.run(VIOLATIONS) == [], (path, width, dark)


async def test_a_page_renews_itself_but_not_under_somebody_who_fills_in_a_form(url: str, daemon: Any) -> None:
    async with chromium() as browser:
        await signed_in(browser, url)
        await browser.run("window.stays = true; document.querySelector('#snooze').open = true; 1")
        daemon.view.apply(alert_message(an_alert(revision=3, updated_at=T0 + 60, usd_per_hour=777.0)))
        await browser.run("renew()")
        assert "$777.00" not in await browser.text()
        await browser.run("document.querySelector('#snooze').open = false; renew()")
        assert "$777.00" in await browser.text()
        assert await browser.run("window.stays"), "the page was not loaded again"


async def test_everything_works_without_scripts(url: str, daemon: Any) -> None:
    async with chromium() as browser:
        await browser.scripts(on=False)
        await signed_in(browser, url)
        await browser.press("Undo")
        assert "Noted" in await browser.text()
        assert [each.kind for each in commands(daemon)] == ["undo"]
