"""OpenAI's admin API for projects, their rate limits per model and their monthly spend limit."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.levers.openai_project import OpenaiProject
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.faults import Faults

KIND = "openai_project"
ADMIN_KEY = "sk-admin-of-the-test"
_PROJECT = "/organization/projects/{id}"


def rate_limit(model: str, rpm: int | None, tpm: int = 1_000_000) -> dict[str, Any]:
    common = {"object": "project.rate_limit", "id": f"rl-{model}", "model": model}
    return common | {"max_requests_per_1_minute": rpm, "max_tokens_per_1_minute": tpm, "max_images_per_1_minute": 5}


class OpenaiAdmin:
    """`projects` by id: name, status, limits (a list) and spend (cents, or nothing).

    `allowed` are the calls its key may make.
    """

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed
        self.projects: dict[str, dict[str, Any]] = {}
        self.page_size = 100
        self.faults = Faults()
        self.called: set[str] = set()
        self.sent: list[Any] = []

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware(), self._admin])
        base = "/v1" + _PROJECT
        app.router.add_get(base, self._get)
        app.router.add_get(base + "/rate_limits", self._list)
        app.router.add_post(base + "/rate_limits/{limit}", self._update)
        app.router.add_get(base + "/spend_limit", self._get_spend)
        app.router.add_post(base + "/spend_limit", self._set_spend)
        app.router.add_delete(base + "/spend_limit", self._delete_spend)
        return app

    @web.middleware
    async def _admin(self, request: web.Request, handler: Any) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource else request.path
        call = f"{request.method} {path.removeprefix('/v1').replace('{limit}', '{id}')}"
        self.called.add(call)
        if request.headers.get("Authorization") != f"Bearer {ADMIN_KEY}" or call not in self.allowed:
            return web.json_response({"error": {"code": "insufficient_permissions"}}, status=403)
        project = self.projects.get(request.match_info.get("id", ""))
        if project is None:
            return web.json_response({"error": {"code": "not_found"}}, status=404)
        if request.can_read_body:
            self.sent.append(await request.json())
        answer: web.StreamResponse = await handler(request, project)
        return answer

    async def _get(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        told = {"id": request.match_info["id"], "object": "organization.project"}
        return web.json_response(told | {"name": project["name"], "status": project["status"]})

    async def _list(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        ids = [each["id"] for each in project["limits"]]
        start = ids.index(request.query["after"]) + 1 if "after" in request.query else 0
        data = project["limits"][start : start + min(self.page_size, int(request.query["limit"]))]
        more = start + len(data) < len(ids)
        last = data[-1]["id"] if data else None
        return web.json_response({"object": "list", "data": data, "last_id": last, "has_more": more})

    async def _update(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        (limit,) = [each for each in project["limits"] if each["id"] == request.match_info["limit"]]
        body = await request.json()
        if not body or not all(isinstance(value, int) and value >= 0 for value in body.values()):
            return web.json_response({"error": {"code": "invalid_request"}}, status=400)
        limit.update(body)
        return web.json_response(limit)

    async def _get_spend(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        if project.get("spend") is None:
            return web.json_response({"error": {"code": "not_found"}}, status=404)
        return web.json_response(_spend(project["spend"]))

    async def _set_spend(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        body = await request.json()
        if (body["currency"], body["interval"]) != ("USD", "month") or body["threshold_amount"] < 1:
            return web.json_response({"error": {"code": "invalid_request"}}, status=400)
        project["spend"] = body["threshold_amount"]
        return web.json_response(_spend(project["spend"]))

    async def _delete_spend(self, request: web.Request, project: dict[str, Any]) -> web.Response:
        if project.pop("spend", None) is None:
            return web.json_response({"error": {"code": "not_found"}}, status=404)
        return web.json_response({"object": "project.spend_limit.deleted", "deleted": True})


def _spend(cents: int) -> dict[str, Any]:
    common = {"object": "project.spend_limit", "currency": "USD", "interval": "month"}
    return common | {"threshold_amount": cents, "enforcement": {"status": "enforcing"}}


class OpenaiProjectBench(ActionBench):
    """A project with a spend limit, and one with none, for an alert that names its model."""

    secret = ADMIN_KEY

    def __init__(self) -> None:
        self.fake = OpenaiAdmin(set(OpenaiProject.permissions))
        self.faults: Faults = self.fake.faults
        models = [("gpt-4o", 500), ("gpt-4o-mini", 5000), ("tiny", 10), ("tts-1", None)]
        for id_, spend in (("proj_a", {"spend": 900_000}), ("proj_b", {})):
            limits = [rate_limit(*model) for model in models]
            self.fake.projects[id_] = {"name": id_[5:], "status": "active", "limits": limits, **spend}
        with_model = an_alert(tags={"project": "proj_b", "model": "gpt-4o-mini-2024-07-18"})
        self.cases = [(an_alert(tags={"project": "proj_a"}), NORMAL), (with_model, NORMAL)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/v1"))

    def config(self, address: str) -> dict[str, Any]:
        base = {"kind": KIND, "name": "openai", "base_url": address, "api_key": ADMIN_KEY, "timeout_s": 0.2}
        return base | {"tpm": 40_000, "spend_limit_usd": 2500}

    def world(self) -> Any:
        return copy.deepcopy(self.fake.projects)

    def change_by_hand(self) -> None:
        for project in self.fake.projects.values():
            project["spend"] = 33
            for limit in project["limits"]:
                limit |= {"max_requests_per_1_minute": 33, "max_tokens_per_1_minute": 33}

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"project": "proj_nobody"})

    def called(self) -> set[str]:
        return self.fake.called
