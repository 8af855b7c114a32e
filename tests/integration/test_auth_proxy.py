"""People whom a proxy has signed in: believed from its addresses alone, with the roles of their groups."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

from curb.config.errors import ConfigErrors
from curb.config.file import load_text
from curb.serve.api import make_app
from curb.serve.pages.sessions import COOKIE
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from tests.fakes.alerts import alert_message, an_alert, an_entry
from tests.integration.test_dashboard import a_daemon
from tests.integration.test_pages_operate import Browser, commands

PROXY: dict[str, Any] = {
    "addresses": ["127.0.0.0/24"],
    "groups": {"*": ["read"], "sre": ["operate"], "finance": ["approve"]},
}
APPROVERS = {
    "owners": {"people": ["sso:ana@example.org"], "up_to_usd": 500},
    "finance": {"people": ["group:finance"]},
}
ACTIONS = {
    "actions": [{"kind": "haproxy", "name": "gate", "socket": "/run/haproxy.sock", "map_file": "/etc/haproxy/l.map"}],
    "routes": [{"act": ["gate"], "mode": "approve"}],
    "approvers": APPROVERS,
}


def config(**proxy: Any) -> Any:
    tokens = [{"name": "answers", "token": "answers-token", "roles": ["approve"]}]
    given = {"http": {"auth_proxy": PROXY | proxy, "tokens": tokens}, "actions": ACTIONS}
    return load_text(yaml.safe_dump(given))


def a_house(**proxy: Any) -> Any:
    found = a_daemon(config=config(**proxy))
    found.view.apply(alert_message(an_alert()))
    found.view.actions["x2"] = [an_entry(2, "proposed", alert_id="a1", rung=1)]
    found.view.actions["x1"] = [an_entry(1, "applied", alert_id="a1", rung=1)]
    return found


@pytest.fixture
def house() -> Any:
    return a_house()


@pytest.fixture
async def browser(house: Any) -> AsyncIterator[Browser]:
    async with TestClient(TestServer(make_app(cast(Running, house), Doors()))) as client:
        yield client


def said(user: str = "ana@example.org", groups: str = "") -> dict[str, str]:
    return {"X-Forwarded-User": user} | ({"X-Forwarded-Groups": groups} if groups else {})


async def opened(browser: Browser, path: str = "/alerts/a1", **headers: Any) -> tuple[int, str]:
    async with browser.get(path, **headers) as answer:
        return answer.status, await answer.text()


def fields_of(text: str) -> dict[str, str]:
    found = dict(re.findall(r'type="hidden" name="(form_token|once|next)" value="([^"]*)"', text))
    return {name: html.unescape(value) for name, value in found.items()}


async def pressed(browser: Browser, groups: str, fields: dict[str, str], **headers: str) -> tuple[int, str]:
    _, text = await opened(browser, headers=said(groups=groups))
    data, sent = fields_of(text) | fields, said(groups=groups) | headers
    async with browser.post("/press", data=data, headers=sent, allow_redirects=False) as answer:
        return answer.status, await answer.text()


async def test_a_person_of_the_proxy_reads_and_is_named(browser: Browser) -> None:
    status, text = await opened(browser, headers=said())
    assert status == 200
    assert "sso:ana@example.org" in text
    assert "Undo" not in text
    assert COOKIE in {cookie.key for cookie in browser.session.cookie_jar}


async def test_a_group_presses_what_its_role_allows_under_the_persons_name(browser: Browser, house: Any) -> None:
    assert await pressed(browser, "sre", {"verb": "undo", "action_id": "x1"}) == (303, "")
    (command,) = commands(house)
    assert (command.kind, command.by) == ("undo", "sso:ana@example.org")


@pytest.mark.parametrize(
    ("groups", "by"),
    [
        ("finance", "group:finance (sso:ana@example.org)"),  # $1,900 at risk is more than she may approve herself
        ("sre", "sso:ana@example.org"),
        ("unknown,finance", "group:finance (sso:ana@example.org)"),
    ],
)
async def test_an_answer_is_in_the_name_that_may_approve_so_much(
    browser: Browser, house: Any, groups: str, by: str
) -> None:
    status, text = await pressed(browser, groups, {"verb": "approve", "action_id": "x2"})
    assert status == 303, text
    (command,) = commands(house)
    assert (command.kind, command.by) == ("approve", by)


async def test_who_may_approve_may_not_operate(browser: Browser, house: Any) -> None:
    _, text = await opened(browser, headers=said(groups="finance"))
    assert "Approve" in text
    assert "Undo" not in text
    assert "may approve" in text
    status, text = await pressed(browser, "finance", {"verb": "undo", "action_id": "x1"})
    assert (status, "needs a role that may operate" in text) == (403, True)
    assert commands(house) == []


async def test_who_may_read_presses_nothing(browser: Browser, house: Any) -> None:
    assert (await pressed(browser, "", {"verb": "approve", "action_id": "x2"}))[0] == 403
    assert commands(house) == []


async def test_another_site_presses_nothing_for_a_person_of_the_proxy(browser: Browser, house: Any) -> None:
    undo = {"verb": "undo", "action_id": "x1"}
    assert (await pressed(browser, "sre", undo, Origin="https://evil.example"))[0] == 403
    assert (await pressed(browser, "sre", undo | {"form_token": "guess"}))[0] == 403
    browser.session.cookie_jar.clear()  # what another site makes a browser send has no cookie
    data = undo | {"form_token": "guess", "once": "x", "next": "/"}
    async with browser.post("/press", data=data, headers=said(groups="sre"), allow_redirects=False) as answer:
        assert answer.status == 403
    assert commands(house) == []


async def test_open_forms_stay_good_when_a_link_brings_no_cookie(browser: Browser, house: Any) -> None:
    _, text = await opened(browser, headers=said(groups="sre"))
    browser.session.cookie_jar.clear()
    await opened(browser, headers=said(groups="sre"))
    data = fields_of(text) | {"verb": "undo", "action_id": "x1"}
    async with browser.post("/press", data=data, headers=said(groups="sre"), allow_redirects=False) as answer:
        assert answer.status == 303


async def test_a_role_that_was_taken_away_counts_at_once(browser: Browser, house: Any) -> None:
    _, text = await opened(browser, headers=said(groups="sre"))
    data = fields_of(text) | {"verb": "undo", "action_id": "x1"}
    async with browser.post("/press", data=data, headers=said(), allow_redirects=False) as answer:
        assert answer.status == 403
    assert commands(house) == []


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Forwarded-User", "")],
        [("X-Forwarded-User", "ana"), ("X-Forwarded-User", "root")],
        [("X-Forwarded-User", "on-call (ana)")],
        [("X-Remote-User", "ana")],
    ],
)
async def test_what_names_nobody_opens_nothing(browser: Browser, headers: list[tuple[str, str]]) -> None:
    assert (await opened(browser, headers=headers))[0] == 401


async def test_the_header_counts_from_the_proxy_alone() -> None:
    house = a_house(addresses=["10.1.2.3"])
    async with TestClient(TestServer(make_app(cast(Running, house), Doors()))) as client:
        assert (await opened(client, headers=said(groups="sre")))[0] == 401


async def test_the_header_opens_pages_and_not_the_api(browser: Browser) -> None:
    assert (await opened(browser, "/v1/status", headers=said(groups="sre")))[0] == 401
    async with browser.post("/v1/commands", json={"kind": "halt"}, headers=said(groups="sre")) as answer:
        assert answer.status == 401


async def test_without_a_role_for_everybody_a_stranger_is_refused() -> None:
    house = a_house(groups={"sre": ["operate"], "finance": ["approve"]})
    async with TestClient(TestServer(make_app(cast(Running, house), Doors()))) as client:
        status, text = await opened(client, headers=said(groups="*,other"))
        assert (status, "no group of sso:ana@example.org may read" in text) == (403, True)


async def test_a_token_that_may_approve_answers_in_its_own_name_and_does_nothing_else(
    browser: Browser, house: Any
) -> None:
    token = {"Authorization": "Bearer answers-token"}
    answer = {"kind": "approve", "by": "fred", "args": {"action_id": "x2"}}
    async with browser.post("/v1/commands", json=answer, headers=token) as taken:
        assert taken.status == 202
    async with browser.post("/v1/commands", json={"kind": "halt"}, headers=token) as refused:
        assert refused.status == 403
    async with browser.post("/v1/silences", json={}, headers=token) as refused:
        assert refused.status == 403
    assert [(command.kind, command.by) for command in commands(house)] == [("approve", "answers")]


@pytest.mark.parametrize(
    ("proxy", "path", "words"),
    [
        ({"addresses": ["0.0.0.0/0"]}, "http.auth_proxy.addresses", "whoever has one of them could claim"),
        ({"addresses": ["10.0.0.0/8"]}, "http.auth_proxy.addresses", "name those of the proxy alone"),
        ({"addresses": ["proxy.local"]}, "http.auth_proxy.addresses[0]", "network"),
        ({"groups": {"finance": ["owner"]}}, "http.auth_proxy.groups.finance[0]", "'operate'"),
        ({"groups": {"sre": ["operate"]}}, "actions.approvers.finance.people[0]", "has no group 'finance'"),
        ({"user_header": "X User"}, "http.auth_proxy.user_header", "match"),
    ],
)
def test_a_wrong_proxy_is_an_error_with_its_path(proxy: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        config(**proxy)
    assert any(error.path == path and words in f"{error.message} {error.hint}" for error in caught.value.errors), (
        caught.value
    )


def test_an_approver_of_a_proxy_without_one_is_an_error() -> None:
    with pytest.raises(ConfigErrors, match="none is configured"):
        load_text(yaml.safe_dump({"actions": ACTIONS}))
