"""Tokens for Kafka over HTTP: asked for once, renewed before they end, and the endpoint left alone after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiokafka import errors as kafka

from curb.stream.kafka.oauth import ClientCredentials, OAuthSettings
from tests.fakes.identity_provider import CLIENT, SECRET, IdentityProvider


class Now:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def idp() -> IdentityProvider:
    return IdentityProvider(life_s=100)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
async def url(idp: IdentityProvider) -> AsyncIterator[str]:
    async with TestServer(idp.app()) as server:
        yield str(server.make_url("/token"))


def settings(url: str, **more: Any) -> OAuthSettings:
    return OAuthSettings.model_validate({"token_url": url, "client_id": CLIENT, "client_secret": SECRET, **more})


async def test_a_token_is_shared_and_renewed_before_it_ends(idp: IdentityProvider, url: str, now: Now) -> None:
    tokens = ClientCredentials(settings(url, scope="kafka", parameters={"audience": "a"}), now)
    first = await asyncio.gather(*(tokens.token() for _ in range(10)))
    assert len(set(first)) == 1
    assert idp.asked == [{"grant_type": "client_credentials", "audience": "a", "scope": "kafka"}]
    now.at += 79
    assert await tokens.token() == first[0]
    assert idp.requests == 1
    now.at += 1
    await tokens.token()
    assert idp.requests == 2


async def test_while_the_endpoint_is_away_the_last_token_is_used_to_its_end(
    idp: IdentityProvider, url: str, now: Now
) -> None:
    tokens = ClientCredentials(settings(url), now)
    token = await tokens.token()
    idp.broken = web.Response(status=503, text="down")
    now.at += 99
    for _ in range(20):
        assert await tokens.token() == token
    assert idp.requests == 2, "after a failure it is left alone"
    now.at += 1
    with pytest.raises(kafka.KafkaConnectionError, match=r"token of 127.0.0.1/token: HTTP 503"):
        await tokens.token()
    idp.broken = None
    now.at += 60
    await tokens.token()


async def test_retry_after_is_kept(idp: IdentityProvider, url: str, now: Now) -> None:
    tokens = ClientCredentials(settings(url), now)
    idp.broken = web.Response(status=429, headers={"Retry-After": "300"})
    for wait_s in (0, 299, 1):
        now.at += wait_s
        with pytest.raises(kafka.KafkaConnectionError, match="HTTP 429"):
            await tokens.token()
    assert idp.requests == 2


async def test_a_refused_client_is_named_without_its_secret(url: str) -> None:
    given = settings(url).model_copy(update={"client_id": "nobody"})
    with pytest.raises(kafka.AuthenticationFailedError, match="HTTP 401: no client nobody with") as refused:
        await given.provider().token()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (web.Response(text="<html>log in</html>"), kafka.KafkaConnectionError),
        (web.json_response({"access_token": "with\x01separator"}), kafka.AuthenticationFailedError),
        (web.json_response({"access_token": "t", "token_type": "mac"}), kafka.AuthenticationFailedError),
        (web.json_response({"access_token": None}), kafka.KafkaConnectionError),
        (web.json_response({"access_token": "t", "expires_in": "soon"}), kafka.KafkaConnectionError),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), kafka.AuthenticationFailedError),
        (web.Response(body=b"\xff" * 300_000), kafka.KafkaConnectionError),
    ],
)
async def test_what_is_no_token_is_not_sent(
    idp: IdentityProvider, url: str, answer: web.Response, error: type[Exception]
) -> None:
    idp.broken = answer
    with pytest.raises(error):
        await settings(url).provider().token()


async def test_a_token_that_has_ended_when_it_comes_is_not_sent(idp: IdentityProvider, url: str) -> None:
    idp.life_s = 0
    ticks = iter(range(0, 1000, 5))
    tokens = ClientCredentials(settings(url), lambda: float(next(ticks)))
    with pytest.raises(kafka.KafkaConnectionError, match="ended before it came"):
        await tokens.token()


async def test_nobody_listens(now: Now) -> None:
    given = settings("http://127.0.0.1:9/token", timeout_s=2)
    with pytest.raises(kafka.KafkaConnectionError, match=r"token of 127.0.0.1/token: ClientConnectorError"):
        await given.provider().token()


async def test_clients_of_one_configuration_share_tokens(idp: IdentityProvider, url: str) -> None:
    given = settings(url, extensions={"logicalCluster": "lkc-1"})
    assert await given.provider().token() == await given.provider().token()
    assert idp.requests == 1
    assert given.provider().extensions() == {"logicalCluster": "lkc-1"}
