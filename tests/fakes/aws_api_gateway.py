"""Amazon API Gateway's REST API for usage plans, keys and stages: patches like the real one, asks what is allowed."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from curb.actions.levers.aws_api_gateway import ApiGateway
from curb.stream.records.spend import Alert
from curb.testing.actions import ActionBench
from tests.fakes.alerts import NORMAL, an_alert
from tests.fakes.aws_json import KEY_ID, SECRET, Refused, aws
from tests.fakes.faults import Faults

KIND = "aws_api_gateway"
#: What a method of a stage has that nobody has set.
METHOD = {"metricsEnabled": False, "dataTraceEnabled": False, "cachingEnabled": False, "cacheTtlInSeconds": 300}
_STAGE_KEYS = {"throttling/rateLimit": "throttlingRateLimit", "throttling/burstLimit": "throttlingBurstLimit"}


class ApiGatewayFake:
    """`plans`, `keys` and `stages` by id ("api/stage"); `members` says which keys a usage plan has.

    `allowed` are the actions its policy grants.
    """

    def __init__(self, allowed: set[str]) -> None:
        self.allowed = allowed
        self.plans: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, dict[str, Any]] = {}
        self.stages: dict[str, dict[str, Any]] = {}
        self.members: dict[str, list[str]] = {}
        self.page_size = 500
        self.faults = Faults()
        self.used: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.faults.middleware(), self._policy])
        app.router.add_get("/usageplans", self._list_plans)
        app.router.add_get("/usageplans/{id}/keys", self._list_keys)
        for path, things, change in (
            ("/usageplans/{id}", self.plans, _patch_plan),
            ("/apikeys/{id}", self.keys, _patch_key),
            ("/restapis/{api}/stages/{stage}", self.stages, _patch_stage),
        ):
            app.router.add_get(path, _reader(things))
            app.router.add_patch(path, _writer(things, change))
        return app

    @web.middleware
    async def _policy(self, request: web.Request, handler: Any) -> web.StreamResponse:
        action = f"apigateway:{request.method}"
        self.used.add(action)
        try:
            if f"Credential={KEY_ID}/" not in request.headers.get("Authorization", ""):
                raise Refused(403, "UnrecognizedClientException", "The security token is invalid.")
            if action not in self.allowed:
                raise Refused(403, "AccessDeniedException", f"User: curb is not authorized to perform: {action}")
            return web.json_response(await handler(request))
        except Refused as refused:
            headers = {"x-amzn-ErrorType": refused.code}
            return web.json_response({"message": refused.message}, status=refused.status, headers=headers)

    async def _list_plans(self, request: web.Request) -> Any:
        key = request.query.get("keyId")
        return self._page(request, [plan for id_, plan in self.plans.items() if key in self.members.get(id_, ())])

    async def _list_keys(self, request: web.Request) -> Any:
        return self._page(request, [{"id": key, "type": "API_KEY"} for key in self.members[request.match_info["id"]]])

    def _page(self, request: web.Request, items: list[Any]) -> Any:
        start = int(request.query.get("position", 0))
        end = start + min(self.page_size, int(request.query["limit"]))
        return {"item": items[start:end]} | ({"position": str(end)} if end < len(items) else {})


def _found(things: dict[str, dict[str, Any]], request: web.Request) -> dict[str, Any]:
    id_ = "/".join(request.match_info.values())
    if id_ not in things:
        raise Refused(404, "NotFoundException", "Invalid identifier specified")
    return things[id_]


def _reader(things: dict[str, dict[str, Any]]) -> Any:
    async def read(request: web.Request) -> Any:
        return _found(things, request)

    return read


def _writer(things: dict[str, dict[str, Any]], change: Any) -> Any:
    async def write(request: web.Request) -> Any:
        thing = _found(things, request)
        changed = copy.deepcopy(thing)
        for operation in (await request.json())["patchOperations"]:
            change(changed, operation["op"], operation["path"], operation.get("value"))
        thing.clear()
        thing.update(changed)
        return thing

    return write


def _number(name: str, value: str) -> float:
    return float(value) if name.lower().endswith("ratelimit") else int(value)


def _bad(op: str, path: str) -> Refused:
    return Refused(400, "BadRequestException", f"Invalid patch path {path} for {op}")


def _patch_plan(plan: dict[str, Any], op: str, path: str, value: str) -> None:
    head, _, name = path[1:].rpartition("/")
    if op == "remove" and path in ("/throttle", "/quota"):
        plan.pop(path[1:], None)
    elif op == "replace" and head in ("throttle", "quota"):
        plan.setdefault(head, {})[name] = _number(name, value)
    elif op == "replace" and path.startswith("/apiStages/"):
        place, _, method = head.removeprefix("apiStages/").partition("/throttle/")
        (stage,) = [each for each in plan["apiStages"] if f"{each['apiId']}:{each['stage']}" == place]
        stage["throttle"][method][name] = _number(name, value)
    else:
        raise _bad(op, path)


def _patch_key(key: dict[str, Any], op: str, path: str, value: str) -> None:
    if (op, path) != ("replace", "/enabled"):
        raise _bad(op, path)
    key["enabled"] = value == "true"


def _patch_stage(stage: dict[str, Any], op: str, path: str, value: str) -> None:
    settings = stage["methodSettings"]
    _, resource, method, *rest = path.split("/", 3)
    if op == "remove" and not rest and f"{resource}/{method}" in settings:
        del settings[f"{resource}/{method}"]
    elif op == "replace" and rest and rest[0] in _STAGE_KEYS:
        own = settings.setdefault(f"{resource}/{method}", dict(METHOD))
        own[_STAGE_KEYS[rest[0]]] = _number(rest[0], value)
    else:
        raise _bad(op, path)


class ApiGatewayBench(ActionBench):
    """Keys of usage plans with a throttle, with none, and with throttles of methods."""

    secret = SECRET

    def __init__(self) -> None:
        self.fake = ApiGatewayFake(set(ApiGateway.permissions))
        self.faults: Faults = self.fake.faults
        method = {"/chat/POST": {"rateLimit": 5.0, "burstLimit": 2}, "/ping/GET": {"rateLimit": 0.1, "burstLimit": 1}}
        stage = {"apiId": "a1b2", "stage": "prod", "throttle": method}
        quota = {"limit": 10**7, "period": "MONTH"}
        self.fake.plans.update(
            p1={"id": "p1", "name": "gold", "throttle": {"rateLimit": 10.0, "burstLimit": 200}, "quota": quota},
            p2={"id": "p2", "name": "free"},
            p3={"id": "p3", "name": "own", "throttle": {"rateLimit": 0.25, "burstLimit": 900}, "apiStages": [stage]},
        )
        self.fake.members.update(p1=["k1"], p2=["k2"], p3=["k3"])
        self.fake.keys.update({f"k{i}": {"id": f"k{i}", "enabled": True} for i in (1, 2, 3)})
        self.cases = [(an_alert(tags={"api_key": f"k{i}"}), NORMAL) for i in (1, 2, 3)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with TestServer(self.fake.app()) as server:
            yield str(server.make_url("/"))

    def config(self, address: str) -> dict[str, Any]:
        return {"kind": KIND, "name": "gateway", "aws": aws(address), "quota": True, "timeout_s": 0.2}

    def world(self) -> Any:
        return copy.deepcopy((self.fake.plans, self.fake.keys, self.fake.stages))

    def change_by_hand(self) -> None:
        for plan in self.fake.plans.values():
            plan["throttle"] = {"rateLimit": 33.0, "burstLimit": 33}
            if "quota" in plan:
                plan["quota"]["limit"] = 33
            for stage in plan.get("apiStages", ()):
                stage["throttle"]["/chat/POST"] = {"rateLimit": 33.0, "burstLimit": 33}

    def about_nothing_known(self) -> Alert:
        return an_alert(tags={"api_key": "nobody"})

    def called(self) -> set[str]:
        return self.fake.used


class StageBench(ApiGatewayBench):
    """A stage with logs and a method of its own; `config` names the stage."""

    def __init__(self) -> None:
        super().__init__()
        own = METHOD | {"throttlingRateLimit": 50.0, "throttlingBurstLimit": 90}
        every = METHOD | {"loggingLevel": "INFO", "throttlingRateLimit": 10_000.0, "throttlingBurstLimit": 5000}
        stage = {"stageName": "prod", "methodSettings": {"*/*": every, "chat/POST": own}, "createdDate": 1_750_000_000}
        self.fake.stages["a1b2/prod"] = stage
        self.cases = [(an_alert(), NORMAL)]

    def config(self, address: str) -> dict[str, Any]:
        stage = {"rest_api_id": "a1b2", "name": "prod"}
        return {"kind": KIND, "name": "gateway", "aws": aws(address), "stage": stage, "timeout_s": 0.2}

    def change_by_hand(self) -> None:
        for own in self.fake.stages["a1b2/prod"]["methodSettings"].values():
            own |= {"throttlingRateLimit": 33.0, "throttlingBurstLimit": 33}

    def recreate(self) -> bool:
        self.fake.stages["a1b2/prod"]["createdDate"] += 60
        return True

    def about_nothing_known(self) -> Alert:
        """The subject is the stage: somebody deleted it."""
        self.fake.stages.clear()
        return an_alert()
