"""Who may do what at the port: roles of tokens, this machine without a token, foreign names and other sites."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from prometheus_client import REGISTRY

from curb.config.file import HttpSettings
from curb.serve.access import Access
from curb.serve.limits import client_of

READER, OPERATOR, SENDER, OLD = "reader-token", "operator-token", "sender-token", "old-token"
ASSISTANT, ADMIN = "assistant-token", "admin-token"
TOKENS = [
    {"name": "prometheus", "token": READER, "roles": ["read"]},
    {"name": "on-call", "token": OPERATOR, "roles": ["operate"]},
    {"name": "assistant", "token": ASSISTANT, "roles": ["propose"]},
    {"name": "boss", "token": ADMIN, "roles": ["admin"]},
    {"name": "gateway", "token": SENDER, "roles": ["ingest"]},
]


async def ask(settings: dict[str, Any], method: str, path: str, remote: str = "127.0.0.1", **headers: str) -> int:
    """The status of the answer; 200 where the handler was reached."""
    sent = {name.replace("_", "-"): value for name, value in ({"Host": "127.0.0.1:8088"} | headers).items()}

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response()

    request = make_mocked_request(method, path, headers=sent).clone(remote=remote)
    return (await Access(HttpSettings.model_validate(settings)).check(request, handler)).status


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def basic(token: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{token}".encode()).decode()}


@pytest.mark.parametrize(
    ("token", "method", "path", "status"),
    [
        (READER, "GET", "/v1/status", 200),
        (READER, "GET", "/", 200),
        (READER, "POST", "/v1/commands", 403),
        (READER, "DELETE", "/v1/silences/s1", 403),
        (OPERATOR, "GET", "/v1/status", 200),
        (OPERATOR, "POST", "/v1/commands", 200),
        (OPERATOR, "POST", "/v1/budget-increases", 403),
        (OPERATOR, "DELETE", "/v1/budget-increases/i1", 403),
        (OPERATOR, "GET", "/v1/budget-increases", 200),
        (ADMIN, "POST", "/v1/budget-increases", 200),
        (ADMIN, "DELETE", "/v1/budget-increases/i1", 200),
        (ADMIN, "POST", "/v1/commands", 200),
        (OLD, "POST", "/v1/budget-increases", 200),
        (READER, "POST", "/v1/proposals", 403),
        (OPERATOR, "POST", "/v1/proposals", 200),
        (ASSISTANT, "GET", "/v1/status", 200),
        (ASSISTANT, "POST", "/v1/proposals", 200),
        (ASSISTANT, "POST", "/v1/commands", 403),
        (ASSISTANT, "POST", "/v1/proposals/", 403),
        (ASSISTANT, "POST", "/v1/silences", 403),
        (SENDER, "GET", "/v1/status", 403),
        (SENDER, "POST", "/v1/commands", 403),
        (OLD, "GET", "/v1/status", 200),
        (OLD, "POST", "/v1/commands", 200),
        ("wrong", "GET", "/v1/status", 401),
        ("wrong", "POST", "/v1/commands", 401),
        ("", "GET", "/v1/status", 401),
        ("wrong", "GET", "/no/such/path", 401),
        # The inbox and Slack's door check by themselves.
        ("wrong", "POST", "/v1/ingest/gateway", 200),
        ("wrong", "POST", "/v1/slack/on-call", 200),
    ],
)
async def test_a_token_may_do_what_its_roles_say(token: str, method: str, path: str, status: int) -> None:
    assert await ask({"token": OLD, "tokens": TOKENS}, method, path, **bearer(token)) == status


async def test_guesses_are_counted() -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("curb_http_wrong_tokens_total") or 0.0

    before, settings = count(), {"tokens": TOKENS}
    for headers in (bearer("wrong"), basic("wrong"), bearer(READER), bearer(SENDER), {}):
        await ask(settings, "GET", "/", **headers)
    assert Access(HttpSettings.model_validate(settings)).known("guess")[1] == frozenset()
    assert count() - before == 3


async def test_a_browser_may_send_the_token_as_a_password_to_read_pages() -> None:
    settings = {"tokens": TOKENS}
    assert await ask(settings, "GET", "/", **basic(READER)) == 200
    assert await ask(settings, "GET", "/", **basic(SENDER)) == 403
    assert await ask(settings, "GET", "/v1/status", **basic(READER)) == 401
    assert await ask(settings, "POST", "/v1/commands", **basic(OPERATOR)) == 401
    assert await ask(settings, "GET", "/", Origin="http://evil.example", **basic(READER)) == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_open_paths_are_open_until_they_are_left_out(path: str) -> None:
    assert await ask({"token": OLD}, "GET", path, remote="10.0.0.1") == 200
    closed = {"tokens": TOKENS, "open_paths": []}
    assert await ask(closed, "GET", path) == 401
    assert await ask(closed, "GET", path, **bearer(SENDER)) == 403
    assert await ask(closed, "GET", path, **bearer(READER)) == 200


async def test_without_a_token_this_machine_may_read_and_nothing_else() -> None:
    assert await ask({}, "GET", "/v1/status") == 200
    assert await ask({}, "GET", "/v1/status", remote="::1") == 200
    assert await ask({}, "POST", "/v1/commands") == 401
    assert await ask({}, "GET", "/v1/status", remote="10.0.0.1") == 401
    # A token for sending alone takes nothing away from that.
    assert await ask({"tokens": TOKENS[-1:]}, "GET", "/v1/status") == 200
    assert await ask({"tokens": TOKENS[:1]}, "GET", "/v1/status") == 401


@pytest.mark.parametrize("path", ["/v1/status", "/v1/alerts", "/", "/readyz", "/metrics"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8088", "localhost.evil.example", "[", "1.2.3.4.evil"])
async def test_a_foreign_name_reads_nothing(path: str, host: str) -> None:
    assert await ask({}, "GET", path, Host=host) == 421
    assert await ask({}, "GET", "/healthz", Host=host) == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8088", "127.0.0.1", "[::1]:8088", "10.1.2.3:80", "a.localhost", "curb.example", ""]
)
async def test_own_names_and_addresses_are_known(host: str) -> None:
    assert await ask({"allowed_hosts": ["curb.example"]}, "GET", "/v1/status", Host=host) == 200


async def test_allowed_names_may_be_many() -> None:
    settings = {"allowed_hosts": ["*.corp.example"]}
    assert await ask(settings, "GET", "/v1/status", Host="curb.corp.example:8088") == 200
    assert await ask(settings, "GET", "/v1/status", Host="corp.example.evil") == 421


async def test_with_a_token_the_name_does_not_matter() -> None:
    """A proxy passes on the name that its clients use."""
    assert await ask({"token": OLD}, "GET", "/v1/status", Host="curb.corp.example", **bearer(OLD)) == 200
    assert await ask({"token": OLD}, "GET", "/", Host="curb.corp.example") == 401


async def test_probes_and_prometheus_may_use_any_name_where_curb_listens_for_all() -> None:
    assert await ask({"host": "0.0.0.0"}, "GET", "/metrics", Host="curb:8088", remote="10.0.0.1") == 200
    strict = {"host": "0.0.0.0", "allowed_hosts": ["curb"]}
    assert await ask(strict, "GET", "/metrics", Host="curb:8088", remote="10.0.0.1") == 200
    assert await ask(strict, "GET", "/metrics", Host="evil.example", remote="10.0.0.1") == 421
    assert await ask({"host": "0.0.0.0"}, "GET", "/v1/status", Host="evil.example") == 421


async def test_another_site_reads_nothing_and_its_links_may_be_followed() -> None:
    assert await ask({}, "GET", "/v1/status", Origin="http://evil.example") == 403
    assert await ask({}, "GET", "/v1/status", Origin="null") == 403
    assert await ask({}, "GET", "/v1/status", Origin="http://[evil") == 403
    assert await ask({}, "GET", "/v1/status", Origin="http://127.0.0.1:8088") == 200
    cross = {"Sec_Fetch_Site": "cross-site"}
    assert await ask({}, "GET", "/alerts/a1/chart.png", Sec_Fetch_Mode="no-cors", **cross) == 403
    assert await ask({}, "GET", "/alerts/a1", Sec_Fetch_Mode="navigate", **cross) == 200


class Port:
    """One `Access` on a clock that is moved by hand; the handler answers 200, and the inbox 401 for a wrong token."""

    def __init__(self, **settings: Any) -> None:
        self.at = 1000.0
        self.access = Access(HttpSettings.model_validate({"tokens": TOKENS, **settings}), now=lambda: self.at)

    async def ask(self, token: str, path: str = "/v1/status", remote: str = "10.0.0.1") -> int:
        return (await self.answer(token, path, remote)).status

    async def answer(self, token: str, path: str = "/v1/status", remote: str = "10.0.0.1") -> web.StreamResponse:
        async def handler(request: web.Request) -> web.StreamResponse:
            right = request.headers.get("Authorization") == f"Bearer {SENDER}"
            return web.Response(status=401 if path.startswith("/v1/ingest/") and not right else 200)

        headers = {"Host": "127.0.0.1:8088", **(bearer(token) if token else {})}
        request = make_mocked_request("GET", path, headers=headers).clone(remote=remote)
        return await self.access.check(request, handler)


@pytest.mark.parametrize("path", ["/v1/status", "/v1/ingest/gateway", "/metrics"])
async def test_who_tries_many_tokens_is_answered_later(path: str) -> None:
    port = Port(open_paths=[])
    assert await port.ask(READER) == 200
    assert [await port.ask(f"guess-{n}", path) for n in range(21)] == [401] * 20 + [429]
    refused = await port.answer(READER[:-1] + "x", path)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "10")
    assert await port.ask(READER) == 200, "who has a token goes on behind the same address"
    assert await port.ask("guess-1", path) == 401, "the same wrong one again is no guess"
    assert await port.ask(OPERATOR, remote="10.0.0.2") == 200
    assert await port.ask(OPERATOR) == 429, "a right one is not found out faster"
    port.at += 10
    assert await port.ask(OPERATOR) == 200
    assert [await port.ask(f"more-{n}", path) for n in range(2)] == [401, 429]


async def test_a_sender_with_an_old_token_is_no_guesser() -> None:
    port = Port()
    assert {await port.ask("old-one", "/v1/ingest/gateway") for _ in range(1000)} == {401}
    assert await port.ask(SENDER, "/v1/ingest/gateway") == 200


async def test_an_open_path_does_not_make_a_token_known() -> None:
    port = Port()
    guesses = [f"guess-{n}" for n in range(100)]
    for guess in guesses:
        await port.ask(guess, "/healthz")
    assert [await port.ask(guess) for guess in guesses].count(429) == 80


async def test_requests_of_a_token_and_of_an_address_are_limited() -> None:
    port = Port(requests_per_s=2, inbox_requests_per_s=1)
    assert [await port.ask(READER) for _ in range(21)] == [200] * 20 + [429]
    assert await port.ask(OPERATOR) == 200
    assert [await port.ask("", remote="127.0.0.1") for _ in range(21)] == [401] * 20 + [429]
    assert await port.ask("", "/healthz", remote="127.0.0.1") == 200
    assert [await port.ask(SENDER, "/v1/ingest/gateway") for _ in range(11)] == [200] * 10 + [429]
    assert await port.ask(SENDER, "/v1/ingest/another") == 200
    port.at += 0.5
    assert [await port.ask(READER) for _ in range(2)] == [200, 429]


def test_a_client_is_an_address_or_a_network() -> None:
    assert client_of("10.0.0.1") == client_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_of("2001:db8::1") == client_of("2001:db8::2:3") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == "fe80::/64"
    assert client_of(None) == ""
