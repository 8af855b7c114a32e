"""A kubeconfig and its credential plugin: what client-go takes is taken, and no command is run unasked."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from curb.stream.clients.kubernetes import KubernetesAccess, KubernetesClient
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError

NOW = 1_750_000_000.0
V1 = "client.authentication.k8s.io/v1"
#: A plugin that counts its calls and gives what the file `gives` says.
PLUGIN = """#!/bin/sh
echo "$KUBERNETES_EXEC_INFO" >> "$(dirname "$0")/calls"
echo "a secret on the other stream" >&2
cat "$(dirname "$0")/gives"
"""


class Server:
    """An API server that remembers who asked; `status` is its answer."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.status = 200

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers.get("Authorization"))
        return web.json_response({"items": []}, status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    made, app = Server(), web.Application()
    app.router.add_route("*", "/{tail:.*}", made.handle)
    async with TestServer(app) as running:
        yield made, str(running.make_url("/")).rstrip("/")


class Bench:
    """A file in a directory with a plugin, and a client that reads it."""

    def __init__(self, directory: Path, url: str, http: aiohttp.ClientSession) -> None:
        self.directory, self._url, self._http = directory, url, http
        self.clock = ManualClock(NOW)
        plugin = directory / "plugin"
        plugin.write_text(PLUGIN)
        plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
        self.exec: dict[str, Any] = {"apiVersion": V1, "command": "./plugin", "interactiveMode": "IfAvailable"}

    def write(self, user: dict[str, Any], **cluster: Any) -> None:
        config = {
            "clusters": [{"name": "c", "cluster": {"server": self._url, **cluster}}],
            "users": [{"name": "u", "user": user}, {"name": "other", "user": {"token": "of-the-other"}}],
            "contexts": [
                {"name": "x", "context": {"cluster": "c", "user": "u"}},
                {"name": "y", "context": {"cluster": "c", "user": "other"}},
            ],
            "current-context": "x",
        }
        (self.directory / "config").write_text(yaml.safe_dump(config))

    def gives(self, expires: float | None = None, version: str = V1, **status: Any) -> None:
        if expires is not None:
            status["expirationTimestamp"] = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        said = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (self.directory / "gives").write_text(json.dumps(said))

    @property
    def calls(self) -> list[Any]:
        file = self.directory / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def client(self, **more: Any) -> KubernetesClient:
        access = KubernetesAccess(kubeconfig=self.directory / "config", **more)
        return KubernetesClient(access, self._http, self.clock)


@pytest.fixture
async def bench(tmp_path: Path, server: tuple[Server, str]) -> AsyncIterator[Bench]:
    async with aiohttp.ClientSession() as http:
        yield Bench(tmp_path, server[1], http)


async def ask(client: KubernetesClient) -> None:
    await client.request("GET", "/api/v1/pods")


async def test_tokens_of_the_file_and_of_the_file_that_it_names(bench: Bench, server: Any) -> None:
    bench.write({"token": "of-the-user"})
    client = bench.client()
    await ask(client)
    await ask(bench.client(context="y"))
    (bench.directory / "token").write_text("of-a-file\n")
    bench.write({"tokenFile": "token"})
    await ask(client)  # the file has changed
    assert server[0].asked == ["Bearer of-the-user", "Bearer of-the-other", "Bearer of-a-file"]
    assert client.host == "127.0.0.1"


async def test_a_plugin_is_run_once_until_its_credential_ends(bench: Bench, server: Any) -> None:
    bench.write({"exec": bench.exec | {"provideClusterInfo": True}})
    bench.gives(NOW + 900, token="first")
    client = bench.client(run_plugin=True)
    await ask(client)
    await ask(client)
    bench.gives(NOW + 1800, token="second")
    await bench.clock.advance(880)
    await ask(client)
    assert server[0].asked == ["Bearer first", "Bearer first", "Bearer second"]
    assert len(bench.calls) == 2
    assert bench.calls[0]["apiVersion"] == V1
    assert bench.calls[0]["spec"]["interactive"] is False
    assert bench.calls[0]["spec"]["cluster"]["server"].startswith("http://127.0.0.1")


async def test_a_credential_that_is_refused_is_asked_for_anew(bench: Bench, server: Any) -> None:
    bench.write({"exec": bench.exec})
    bench.gives(token="revoked")
    client = bench.client(run_plugin=True)
    server[0].status = 401
    with pytest.raises(PermanentError, match="HTTP 401"):
        await ask(client)
    bench.gives(token="new")
    server[0].status = 200
    await ask(client)
    assert server[0].asked == ["Bearer revoked", "Bearer new"]


async def test_no_command_is_run_unasked(bench: Bench) -> None:
    bench.write({"exec": bench.exec})
    bench.gives(token="never")
    with pytest.raises(PermanentError, match="allow it with run_plugin: true"):
        await ask(bench.client())
    assert bench.calls == []
    with pytest.raises(ValidationError, match="name the file"):
        KubernetesAccess(run_plugin=True)


@pytest.mark.parametrize(
    ("change", "output", "error", "says"),
    [
        ({"interactiveMode": "Always"}, None, PermanentError, "nobody is there"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, None, PermanentError, "exec needs a command"),
        ({"command": "./missing"}, None, PermanentError, "cannot be run"),
        ({"command": "false"}, None, TransientError, "it ended with 1"),
        ({}, "not json", PermanentError, "prints no ExecCredential"),
        ({}, '{"kind": "Status"}', PermanentError, "prints Status"),
        ({}, json.dumps({"apiVersion": V1, "kind": "ExecCredential"}), PermanentError, "neither a token nor"),
    ],
)
async def test_a_plugin_that_gives_nothing(bench: Bench, change: Any, output: Any, error: Any, says: str) -> None:
    bench.write({"exec": bench.exec | change})
    bench.gives(token="t")
    if output is not None:
        (bench.directory / "gives").write_text(output)
    with pytest.raises(error, match=says) as caught:
        await ask(bench.client(run_plugin=True))
    assert "secret" not in str(caught.value)


async def test_a_credential_that_is_over_is_not_sent(bench: Bench, server: Any) -> None:
    bench.write({"exec": bench.exec})
    bench.gives(NOW - 1, token="old")
    with pytest.raises(TransientError, match="a credential that is over"):
        await ask(bench.client(run_plugin=True))
    assert server[0].asked == []


@pytest.mark.parametrize(
    ("user", "cluster", "says"),
    [
        ({"username": "ana", "password": "p"}, {}, "does not know username"),
        ({"auth-provider": {"name": "gcp"}}, {}, "does not know auth-provider"),
        ({"as": "admin", "token": "t"}, {}, "does not know as"),
        ({"token": "t"}, {"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify is refused"),
        ({"token": "t"}, {"proxy-url": "http://p"}, "does not know proxy-url"),
        ({"token": "t"}, {"certificate-authority-data": "%%%"}, "not base64"),
        ({"token": "t"}, {"certificate-authority-data": base64.b64encode(b"x").decode()}, "not a readable certificate"),
        ({"token": "t"}, {"certificate-authority": "missing.crt"}, "cannot be read"),
        ({"tokenFile": "missing"}, {}, "cannot be read"),
        ({"token": "t"}, {"server": "10.0.0.1"}, "has no server"),
    ],
)
async def test_what_curb_does_not_know_is_named(bench: Bench, user: Any, cluster: Any, says: str) -> None:
    bench.write(user, **cluster)
    with pytest.raises(PermanentError, match=says):
        await ask(bench.client())


@pytest.mark.parametrize("text", ["", "[]", "{", "current-context: x", "contexts: [{name: x}]\ncurrent-context: x"])
async def test_a_file_that_is_no_kubeconfig(bench: Bench, text: str) -> None:
    (bench.directory / "config").write_text(text)
    with pytest.raises(PermanentError, match="config: "):
        await ask(bench.client())
    bench.write({"token": "t"})
    with pytest.raises(PermanentError, match="no 'z'"):
        await ask(bench.client(context="z"))
