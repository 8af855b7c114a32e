"""Planted secrets are in no answer of the port, whatever is asked, and in no line of the log meanwhile."""

from __future__ import annotations

import logging
from typing import Any, cast

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from curb.actions.notify.protocol import DayDigest
from curb.actions.notify.webhook import Config as WebhookConfig
from curb.actions.notify.webhook import Webhook
from curb.config.file import CurbConfig, load_text
from curb.logs import JsonFormatter
from curb.serve.api import make_app
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from tests.integration.test_dashboard import a_daemon

PLANTED = {name: f"planted-secret-{name}" for name in ("api", "reader", "inbox", "lever", "slack", "hook")}
CONFIG: dict[str, Any] = {
    "http": {
        "token": PLANTED["api"],
        "tokens": [{"name": "reader", "token": PLANTED["reader"], "roles": ["read", "ingest"]}],
    },
    "connectors": [{"kind": "usage_jsonl", "name": "meter", "token": PLANTED["inbox"]}],
    "actions": {
        "actions": [
            {"kind": "litellm_limits", "name": "limits", "base_url": "http://gw.example", "api_key": PLANTED["lever"]}
        ],
        "notifiers": [
            {"kind": "slack", "name": "on-call", "token": PLANTED["slack"], "channel": "C0123456789"},
            {"kind": "webhook", "name": "hook", "url": f"https://hooks.example/{PLANTED['hook']}"},
        ],
    },
}
FORMS = ("/press", "/sign-in")
PAGES = ("/alerts", "/series", "/actions", "/config", "/sign-in", "/page.css")
GETS = (*PAGES, "/", "/alerts/none", "/healthz", "/readyz", "/metrics", "/v1/status", "/v1/alerts", "/v1/alerts/none")
MORE_GETS = ("/v1/actions", "/v1/actions/none", "/v1/connectors", "/v1/budgets", "/v1/plans", "/v1/none", "/none")
POSTS = (
    "/v1/commands",
    "/v1/plans",
    "/v1/silences",
    "/v1/feedback",
    "/v1/ingest/meter",
    "/v1/slack/on-call",
    "/press",
    "/sign-in",
)


def config() -> CurbConfig:
    return load_text(yaml.safe_dump(CONFIG))


@pytest.mark.parametrize("token", ["none", "wrong", PLANTED["reader"], PLANTED["api"]])
async def test_no_answer_and_no_log_line_holds_a_secret(token: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    daemon = a_daemon(config=config(), shards=list)
    headers = {} if token == "none" else {"Authorization": f"Bearer {token}"}
    seen: list[str] = []
    async with TestClient(TestServer(make_app(cast(Running, daemon), Doors()))) as client:
        for path in (*GETS, *MORE_GETS):
            async with client.get(path, headers=headers) as answer:
                seen.append(f"{answer.headers} {await answer.text()}")
        for path in POSTS:
            for body in (b"", b"[", b"{}", b'{"kind": "halt"}', b"\xff"):
                async with client.post(path, headers=headers, data=body) as answer:
                    seen.append(f"{answer.headers} {await answer.text()}")
    assert len(seen) == len(GETS) + len(MORE_GETS) + 5 * len(POSTS)
    text = "\n".join([*seen, *(JsonFormatter().format(record) for record in caplog.records)])
    assert "planted-secret" not in text


@pytest.mark.parametrize("status", [302, 400, 404, 500])
async def test_an_error_of_a_webhook_names_its_host_and_not_its_path(status: int) -> None:
    """Receivers such as Slack's and Teams' know who posts by the path alone."""

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"detail": f"no route {request.path}"}, status=status)

    app = web.Application()
    app.router.add_post("/services/{secret}", refuse)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        url = str(server.make_url(f"/services/{PLANTED['hook']}"))
        hook = Webhook(WebhookConfig.model_validate({"kind": "webhook", "name": "h", "url": url}), http, ManualClock())
        with pytest.raises((PermanentError, TransientError)) as error:
            await hook.send_digest(DayDigest("k", "2026-01-01", 0.0, (), ()))
    assert "planted-secret" not in str(error.value)
    assert str(error.value).startswith("POST 127.0.0.1: ")
