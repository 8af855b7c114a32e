"""What people know over HTTP: told, listed, taken back; clear about what is wrong; on the log when answered."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from curb.connectors.intake.body import Bodies
from curb.serve.http_knowledge import add_routes
from curb.serve.running import Running
from curb.stream.clock import ManualClock
from curb.stream.log.protocol import TopicPartition
from curb.stream.log.topics import COMMANDS
from curb.stream.records.knowledge import read_knowledge
from curb.stream.records.spend import Feedback, Knowledge
from tests.fakes.memory_log import MemoryLog
from tests.fakes.odd_lines import odd_line

NOW = 1_750_032_000.0
SOON, LATER, PAST = "2025-06-16T02:00:00Z", "2025-06-16T10:00:00+02:00", "2025-06-15T10:00:00Z"
PLAN = {"tags": {"team": "a", "job": "backfill"}, "start": SOON, "end": LATER, "max_usd": 50, "reason": "month end"}
SILENCE = {"matchers": {"team": "a*"}, "until": LATER, "reason": "release"}
INCREASE = {"budget": "team", "amount_usd": 100, "expires_at": LATER, "match": {"team": "a"}}
ANNOTATION = {"kind": "deploy", "text": "checkout 2.3", "tags": {"project": "checkout"}, "by": "ci"}
FEEDBACK = {"alert_id": "known-1", "verdict": "not_an_anomaly", "note": "batch"}


class House:
    """A daemon as far as these routes see it, and a client."""

    def __init__(self) -> None:
        self.log, self.clock = MemoryLog(), ManualClock(NOW)
        self.view = SimpleNamespace(alerts={"known-1": SimpleNamespace(status="firing")})
        self.roles = frozenset({"operate", "admin"})
        app = web.Application()
        add_routes(app, cast(Running, self), Bodies(), lambda _: ("", self.roles))
        self.client = TestClient(TestServer(app))

    async def call(self, method: str, path: str, body: Any = None, data: bytes | None = None) -> tuple[int, Any]:
        more: dict[str, Any] = {"data": data} if body is None else {"json": body}
        async with self.client.request(method, path, **more) as answer:
            return answer.status, await answer.json()

    @property
    def told(self) -> list[Knowledge]:
        messages = self.log.messages[TopicPartition(COMMANDS, 0)]
        return [record for each in messages for record in read_knowledge(each.value, lambda *_: None)]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    async with house.client:
        yield house


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("plans", PLAN),
        ("silences", SILENCE),
        ("budget-increases", INCREASE),
        ("annotations", ANNOTATION),
        ("feedback", FEEDBACK),
    ],
)
async def test_told_is_on_the_log_and_listed(house: House, path: str, body: dict[str, Any]) -> None:
    assert await house.call("GET", f"/v1/{path}") == (200, [])
    status, answer = await house.call("POST", f"/v1/{path}", body)
    assert (status, list(answer)) == (202, ["id"])
    assert [(record.id, record.at, record.by) for record in house.told] == [(answer["id"], NOW, body.get("by", "api"))]
    status, listed = await house.call("GET", f"/v1/{path}")
    assert [record["id"] for record in listed] == [answer["id"]]
    assert {key: listed[0][key] for key in body if isinstance(body[key], dict)} == {
        key: value for key, value in body.items() if isinstance(value, dict)
    }


@pytest.mark.parametrize(("path", "body"), [("plans", PLAN), ("silences", SILENCE), ("budget-increases", INCREASE)])
async def test_taken_back_it_is_no_longer_listed(house: House, path: str, body: dict[str, Any]) -> None:
    _, answer = await house.call("POST", f"/v1/{path}", body)
    await house.clock.advance(1.0)
    assert await house.call("DELETE", f"/v1/{path}/{answer['id']}") == (202, {"id": answer["id"]})
    assert await house.call("GET", f"/v1/{path}") == (200, [])
    assert (await house.call("DELETE", f"/v1/{path}/{answer['id']}"))[0] == 404
    assert [record.at for record in house.told] == [NOW, NOW + 1]


async def test_over_it_is_no_longer_listed(house: House) -> None:
    await house.call("POST", "/v1/silences", SILENCE)
    await house.clock.advance(86400.0)
    assert await house.call("GET", "/v1/silences") == (200, [])


async def test_a_verdict_on_an_alert_nobody_knows_is_kept_and_said(house: House) -> None:
    status, answer = await house.call("POST", "/v1/feedback", {**FEEDBACK, "alert_id": "unknown-1"})
    assert status == 202
    assert "unknown-1" in answer["warning"]
    assert [each.alert_id for each in house.told if isinstance(each, Feedback)] == ["unknown-1"]


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("plans", {**PLAN, "end": SOON}, "end is not after start"),
        ("plans", {**PLAN, "start": PAST, "end": PAST}, "end is in the past"),
        ("plans", {**PLAN, "start": "2025-06-16T02:00:00"}, "times need a zone"),
        ("plans", {**PLAN, "start": "tomorrow"}, "times need a zone"),
        ("plans", {**PLAN, "max_usd": -1}, "max_usd"),
        ("plans", {**PLAN, "tags": {}}, "tags is empty"),
        ("plans", {**PLAN, "tags": {"team": "\u200b"}}, "tags has an empty"),
        ("plans", {**PLAN, "maxusd": 1}, "maxusd"),
        ("plans", {"tags": {"team": "a"}}, "missing required field"),
        ("plans", [], "Expected `object`"),
        ("silences", {**SILENCE, "matchers": {}}, "matchers is empty"),
        ("silences", {**SILENCE, "until": PAST}, "until is in the past"),
        ("budget-increases", {**INCREASE, "amount_usd": 0}, "amount_usd is 0"),
        ("budget-increases", {**INCREASE, "expires_at": PAST}, "expires_at is in the past"),
        ("annotations", {**ANNOTATION, "at": LATER}, "at is in the future"),
        ("annotations", {**ANNOTATION, "kind": "party"}, "party"),
        ("feedback", {**FEEDBACK, "verdict": "meh"}, "meh"),
        ("feedback", {**FEEDBACK, "alert_id": " "}, "alert_id is empty"),
    ],
)
async def test_what_cannot_be_meant_is_refused_with_its_reason(house: House, path: str, body: Any, why: str) -> None:
    status, answer = await house.call("POST", f"/v1/{path}", body)
    assert status == 400
    assert why in answer["error"]
    assert not house.told


async def test_a_body_that_is_no_json(house: House) -> None:
    for body in (b"{", b"\xff", b'{"max_usd": NaN'):
        assert (await house.call("POST", "/v1/plans", data=body))[0] == 400


async def test_a_log_that_is_away_is_said(house: House) -> None:
    house.log.fail_next = 1
    async with house.client.post("/v1/plans", json=PLAN) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert (await house.call("POST", "/v1/plans", PLAN))[0] == 202


async def test_texts_and_tags_are_cleaned_like_those_of_spend(house: House) -> None:
    await house.call("POST", "/v1/plans", {**PLAN, "tags": {" team ": "a\u200b"}, "reason": " x\n" + "y" * 3000})
    (record,) = house.told
    assert getattr(record, "tags", None) == {"team": "a"}
    assert len(getattr(record, "reason", "")) == 1000


@pytest.mark.parametrize("path", ["plans", "silences", "budget-increases", "annotations", "feedback"])
async def test_odd_bodies_are_400_or_cleaned(house: House, path: str) -> None:
    good = dict(
        zip(
            ("plans", "silences", "budget-increases", "annotations", "feedback"),
            (PLAN, SILENCE, INCREASE, ANNOTATION, FEEDBACK),
            strict=True,
        )
    )[path]
    for seed in range(150):
        body = odd_line(random.Random(seed), good)
        answer = await house.client.post(f"/v1/{path}", data=body)
        assert answer.status in (202, 400), (answer.status, body[:200])


async def test_what_fires_is_made_the_usual_by_an_admin_alone(house: House) -> None:
    house.roles = frozenset({"operate"})
    status, answer = await house.call("POST", "/v1/feedback", FEEDBACK)
    assert (status, "may not admin" in answer["error"]) == (403, True)
    assert not house.told
    assert (await house.call("POST", "/v1/feedback", {**FEEDBACK, "verdict": "real"}))[0] == 202
    house.view.alerts["known-1"].status = "resolved"
    assert (await house.call("POST", "/v1/feedback", FEEDBACK))[0] == 202
