"""The Kubernetes client: what is not the API's answer is no answer, and the token is the newest and never told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.stream.clients.kubernetes import KubernetesAccess, KubernetesClient, NoSuchResourceError
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError

TOKEN = "token-of-the-account"


class Api:
    """Answers with `status`, `body` and `content_type`, and remembers who asked."""

    def __init__(self) -> None:
        self.status, self.body, self.content_type = 200, '{"items": []}', "application/json"
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers["Authorization"])
        given: Any = {"status": self.status, "text": self.body, "headers": self.headers}
        return web.Response(content_type=self.content_type, **given)


@pytest.fixture
def account(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN + "\n")
    return tmp_path


@pytest.fixture
async def served(account: Path) -> AsyncIterator[tuple[Api, KubernetesClient]]:
    api, app = Api(), web.Application()
    app.router.add_route("*", "/{tail:.*}", api.handle)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        access = KubernetesAccess(url=str(server.make_url("/")).rstrip("/"), account=account)
        yield api, KubernetesClient(access, http, ManualClock())


async def listed(client: KubernetesClient) -> list[bytes]:
    return [bytes(item) async for item in client.items("/api/v1/pods")]


async def test_the_token_is_read_anew_for_every_request(served: Any, account: Path) -> None:
    api, client = served
    await listed(client)
    (account / "token").write_text("rotated")
    await listed(client)
    assert api.asked == [f"Bearer {TOKEN}", "Bearer rotated"]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ({"status": 302, "headers": {"Location": "https://elsewhere"}}, PermanentError, "redirects elsewhere"),
        ({"content_type": "text/html", "body": "<html>sign in</html>"}, PermanentError, "text/html instead of"),
        ({"body": "{"}, TransientError, "the list is not readable"),
        ({"body": '{"items": 3}'}, TransientError, "the list is not readable"),
        ({"status": 401}, PermanentError, "HTTP 401"),
        ({"status": 403}, PermanentError, "HTTP 403"),
        ({"status": 404}, PermanentError, "HTTP 404"),
        ({"status": 409}, TransientError, "HTTP 409"),
        ({"status": 422}, PermanentError, "HTTP 422"),
        ({"status": 503}, TransientError, "HTTP 503"),
    ],
)
async def test_what_is_no_answer(served: Any, answer: dict[str, Any], error: type[Exception], said: str) -> None:
    api, client = served
    vars(api).update(answer)
    with pytest.raises(error, match=said) as caught:
        await listed(client)
    assert TOKEN not in str(caught.value)


async def test_statuses_that_are_asked_for_are_answers(served: Any) -> None:
    """A 404 only where it is about the object: a kind that is not served and a proxy's page say nothing about it."""
    api, client = served
    api.status = 404
    details = {"name": "p1", "kind": "pods"}
    api.body = json.dumps(
        {"kind": "Status", "reason": "NotFound", "message": 'pods "p1" not found', "details": details}
    )
    assert (await client.request("GET", "/api/v1/namespaces/ml/pods/p1", also=(404,))).status == 404
    assert (await client.request("PATCH", "/api/v1/namespaces/ml/pods/p1/scale", patch={}, also=(404,))).status == 404
    with pytest.raises(PermanentError, match='HTTP 404: pods "p1" not found'):
        await client.request("GET", "/api/v1/namespaces/ml/pods/p1")
    for body in (
        "404 page not found",
        "<html>",
        "{}",
        '{"kind": "Status", "reason": "NotFound", "details": {}}',
        api.body,
    ):
        api.body = body
        with pytest.raises(NoSuchResourceError):
            await client.request("GET", "/api/v1/namespaces/ml/pods/p2", also=(404,))


async def test_the_server_s_own_reason_is_passed_on_without_the_token(served: Any) -> None:
    api, client = served
    api.status, api.body = 403, json.dumps({"kind": "Status", "message": f"User {TOKEN} cannot\npatch jobs"})
    with pytest.raises(PermanentError, match="HTTP 403: User … cannot patch jobs"):
        await client.request("GET", "/apis/batch/v1/jobs")


async def test_a_certificate_that_is_none(account: Path) -> None:
    (account / "ca.crt").write_text("not a certificate")
    async with aiohttp.ClientSession() as http:
        access = KubernetesAccess(url="https://127.0.0.1:1", account=account)
        with pytest.raises(PermanentError, match="not a readable certificate"):
            await listed(KubernetesClient(access, http, ManualClock()))


async def test_nobody_there(account: Path) -> None:
    async with aiohttp.ClientSession() as http:
        access = KubernetesAccess(url="http://127.0.0.1:1", account=account)
        with pytest.raises(TransientError, match=r"GET 127.0.0.1/api/v1/pods: ClientConnectorError"):
            await listed(KubernetesClient(access, http, ManualClock()))
