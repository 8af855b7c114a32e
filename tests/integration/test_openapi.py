"""The OpenAPI document: every route is in it, every answer is as it says, errors are problems, filters are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast, get_type_hints, is_typeddict

import msgspec
import pytest
import yaml
from aiohttp.test_utils import TestClient, TestServer

from curb.config.file import load_text
from curb.serve.answers import Problem
from curb.serve.api import make_app
from curb.serve.openapi import OPERATIONS, Operation, document
from curb.serve.running import Running
from curb.serve.slack_people import Doors
from curb.stream.records.spend import Alert
from curb.views.unit_costs import WantedUnitCost
from tests.fakes.alerts import alert_message, an_alert, an_entry
from tests.fakes.money import a_shard, charge
from tests.integration.test_dashboard import a_daemon

ACTIONS = {
    "actions": [{"kind": "haproxy", "name": "gate", "socket": "/run/haproxy.sock", "map_file": "/etc/haproxy/l.map"}],
    "routes": [{"act": ["gate"]}],
}
BUDGET = {"name": "keys", "scope": "key", "amount_usd": 10, "period": "day"}
READ = [one for one in OPERATIONS if one.method == "GET" and one.path.startswith(("/v1/", "/healthz", "/readyz"))]
POSTED: dict[str, dict[str, Any]] = {
    "/v1/commands": {"kind": "halt", "args": {"reason": "test"}},
    "/v1/proposals": {"alert_id": "a1", "action": "gate", "reason": "it goes on"},
    "/v1/plans": {"tags": {"team": "a"}, "start": "2095-01-01T00:00:00Z", "end": "2095-01-02T00:00:00Z", "max_usd": 5},
    "/v1/silences": {"matchers": {"team": "a"}, "until": "2095-01-01T00:00:00Z"},
    "/v1/budget-increases": {"budget": "keys", "amount_usd": 5, "expires_at": "2095-01-01T00:00:00Z"},
    "/v1/annotations": {"kind": "deploy", "text": "v2"},
    "/v1/feedback": {"alert_id": "a1", "verdict": "real"},
}
TOKEN = {"Authorization": "Bearer page-token"}


class Forecasts:
    async def report(self, scope: str, limit: int) -> dict[str, Any]:
        return {"scope": scope, "at": "", "rows": []}


def daemon() -> Any:
    """With spend, a budget, an alert and its action."""
    shard = a_shard(budgets=[BUDGET])
    charge(shard, {"k1": 8.0, "k2": 1.0})
    rows = [{"tags": {"team": "a"}, "total_usd": 1.0, "units": 2, "usd_per_unit": 0.5}]
    recent = SimpleNamespace(rows=lambda: [(WantedUnitCost(by=("team",), unit="requests"), rows)])
    found = a_daemon(shards=lambda: [shard], forecasts=Forecasts(), units=SimpleNamespace(recent=recent))
    found.config = load_text(yaml.safe_dump({"http": {"token": "page-token"}, "actions": ACTIONS}))
    found.view.alerts["a1"] = an_alert(alert_id="a1")
    found.view.actions["i1"] = [an_entry(1, "planned", alert_id="a1"), an_entry(1, "applied", alert_id="a1")]
    return found


@pytest.fixture
async def client() -> AsyncIterator[TestClient[Any, Any]]:
    house = daemon()
    await house.log.append([alert_message(house.view.alerts["a1"])])
    async with TestClient(TestServer(make_app(cast(Running, house), Doors()))) as found:
        yield found


def placed(path: str) -> str:
    return path.replace("{alert_id}", "a1").replace("{action_id}", "i1")


def undeclared(answer: Any, kind: Any) -> set[str]:
    """Keys of an answer that its type does not have."""
    return set(answer) - set(get_type_hints(kind)) if is_typeddict(kind) else set()


# --- the document -------------------------------------------------------------------------------------------------


def test_every_route_is_in_it_and_no_other() -> None:
    app = make_app(cast(Running, daemon()), Doors())
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    served = {(method, path) for method, path in routes if method != "HEAD"}
    assert served == {(one.method, one.path) for one in OPERATIONS}


async def test_it_is_served_as_it_is_made(client: TestClient[Any, Any]) -> None:
    async with client.get("/openapi.json", headers=TOKEN) as answer:
        assert await answer.json() == document(["key", "team", "model", "origin", "node", "group"])


def test_names_are_unique_and_references_lead_somewhere() -> None:
    found = document()
    assert found["openapi"] == "3.1.0"
    names = [one.name for one in OPERATIONS]
    assert len(set(names)) == len(names)
    text = msgspec.json.encode(found).decode()
    references = {part.split('"')[0] for part in text.split('"$ref":"#/components/schemas/')[1:]}
    assert references <= set(found["components"]["schemas"])


# --- answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", READ, ids=lambda one: one.name)
async def test_an_answer_is_as_the_document_says(client: TestClient[Any, Any], one: Operation) -> None:
    async with client.get(placed(one.path), headers=TOKEN) as answer:
        assert answer.status == one.status, await answer.text()
        body = await answer.json()
    msgspec.convert(body, one.answer, strict=True)
    assert not undeclared(body, one.answer)


@pytest.mark.parametrize("path", POSTED)
async def test_what_is_asked_is_accepted_as_the_document_says(client: TestClient[Any, Any], path: str) -> None:
    (one,) = (each for each in OPERATIONS if (each.method, each.path) == ("POST", path))
    msgspec.convert(POSTED[path], one.body, strict=False)
    async with client.post(path, json=POSTED[path], headers=TOKEN) as answer:
        assert answer.status == one.status, await answer.text()
        msgspec.convert(await answer.json(), one.answer, strict=True)


def test_every_post_of_the_api_has_an_example_here() -> None:
    assert {one.path for one in OPERATIONS if one.method == "POST" and one.token == "api"} == set(POSTED)


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/alerts/none", 404),
        ("GET", "/v1/alerts/none/explain", 404),
        ("GET", "/v1/actions/none", 404),
        ("GET", "/v1/no-such-route", 404),
        ("PUT", "/v1/alerts", 405),
        ("DELETE", "/v1/plans/none", 404),
        ("POST", "/v1/commands", 400),
        ("POST", "/v1/plans", 400),
    ],
)
async def test_errors_are_problems(client: TestClient[Any, Any], method: str, path: str, status: int) -> None:
    async with client.request(method, path, headers=TOKEN, data=b"[]" if method == "POST" else None) as answer:
        assert (answer.status, answer.content_type) == (status, "application/problem+json")
        body = await answer.json()
    problem = msgspec.convert(body, Problem, strict=True)
    assert problem["status"] == status
    assert problem["detail"] == problem["error"] != ""
    if status == 405:
        assert "GET" in answer.headers["Allow"]


async def test_a_command_of_nobody_is_refused(client: TestClient[Any, Any]) -> None:
    async with client.post("/v1/commands", json={"kind": "halt", "by": {}}, headers=TOKEN) as answer:
        assert answer.status == 400


async def test_a_missing_token_is_a_problem(client: TestClient[Any, Any]) -> None:
    async with client.get("/v1/status") as answer:
        assert (answer.status, answer.content_type) == (401, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/alerts?status=open", "status is one of firing, resolved"),
        ("/v1/alerts?limit=0", "whole number from 1 to 10000"),
        ("/v1/alerts?limit=x", "whole number"),
        ("/v1/alerts?limit=-1", "whole number"),
        ("/v1/alerts?limit=1e3", "whole number"),
        ("/v1/alerts?limit=%D9%A1", "whole number"),
        (f"/v1/alerts?limit={'9' * 5000}", "whole number"),
        ("/v1/alerts?limit=5&limit=6", "twice"),
        ("/v1/alerts?team=a", "no filter 'team'; there are: status, limit"),
        ("/v1/spend?scope=nobody", "no scope 'nobody'; there are: key, team"),
        ("/v1/status?x=1", "there are: none"),
    ],
)
async def test_a_filter_that_cannot_be_meant_is_refused(client: TestClient[Any, Any], path: str, words: str) -> None:
    async with client.get(path, headers=TOKEN) as answer:
        assert (answer.status, answer.content_type) == (400, "application/problem+json")
        assert words in (await answer.json())["detail"]


async def test_filters_that_are_meant_hold(client: TestClient[Any, Any]) -> None:
    async with client.get("/v1/alerts?status=firing&limit=1", headers=TOKEN) as answer:
        assert [alert.alert_id for alert in msgspec.json.decode(await answer.read(), type=list[Alert])] == ["a1"]
    async with client.get("/v1/alerts?status=resolved", headers=TOKEN) as answer:
        assert await answer.json() == []
