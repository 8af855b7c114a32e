"""LiteLLM's backfill over real HTTP: what a dead receiver missed comes later, once; misleading pages are errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import REGISTRY
from pydantic import SecretStr

from curb.config.file import load_text
from curb.connectors.connector import Checkable, Connector, Context, PushWithBackfill
from curb.connectors.decode import Rejected
from curb.connectors.intake.inbox import InboxSource, add_routes
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens.litellm import Config, LiteLLM
from curb.connectors.tokens.litellm_backfill import Backfill
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.wiring import make_connectors
from tests.fakes.litellm_spend_logs import KEY, SpendLogs, row_of
from tests.fakes.litellm_usage import array, payload
from tests.fakes.memory_log import MemoryLog

NOW = 1_750_000_000.0
TOKEN = "a-long-token"
FRESH = "curb_connector_last_success_timestamp_seconds"
PRICES = PriceBook.load()
Events = list[dict[str, Any]]


class Gateway:
    """A proxy with its database, the connector that reads it, and Curb's log."""

    def __init__(self, server: TestServer, http: aiohttp.ClientSession, logs: SpendLogs) -> None:
        self.logs, self.log, self.clock, self.http = logs, MemoryLog(), ManualClock(NOW), http
        self.url = str(server.make_url("/"))
        self.source = self.build().push.source

    def build(self, **backfill: Any) -> PushWithBackfill:
        block = {"url": self.url, "key": KEY, **backfill}
        data = {"kind": "litellm", "name": "gw", "token": TOKEN, "backfill": block}
        built = Config.model_validate(data).build(Context(self.clock, self.http, PRICES))
        assert isinstance(built, PushWithBackfill)
        return built

    def pull(self, **backfill: Any) -> Backfill:
        connector = self.build(**backfill).backfill.connector
        assert isinstance(connector, Backfill)
        return connector

    async def push(self, events: Events) -> None:
        app = web.Application()
        add_routes(app, {"gw": InboxSource("gw", self.source, SecretStr(TOKEN))}, self.log, self.clock)
        async with TestClient(TestServer(app)) as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.post("/v1/ingest/gw", data=array(events), headers=headers)).status == 200

    async def catch_up(self, connector: Connector) -> int:
        """Steps until there is no more; how many."""
        runner, steps = PullRunner(connector, "gw/backfill", self.log, self.clock), 1
        while await runner.step():
            steps += 1
        return steps

    def ids(self) -> list[str]:
        return [record.id for record in self.log.records()]


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    logs = SpendLogs()
    async with TestServer(logs.app()) as server, aiohttp.ClientSession() as http:
        yield Gateway(server, http, logs)


def events(count: int, **changes: Any) -> Events:
    return [payload(n, NOW - 300 + n + 0.123654, **changes) for n in range(count)]


async def test_what_a_killed_receiver_missed_is_backfilled_once(gateway: Gateway) -> None:
    sent = events(60)
    uuid = "3ee6674f-7544-47d9-824e-e81bce743c72"  # where there is no answer, the id is that of the call
    sent[10] |= {"status": "failure", "id": uuid, "litellm_call_id": uuid, "response_cost": 0.0}
    sent[20] |= {"cache_hit": True, "id": f"chatcmpl-20_cache_hit{NOW}", "response_cost": 0.0}
    gateway.logs.rows = [row_of(event) for event in sent]
    await gateway.push(sent[:25])  # then the receiver was killed, and LiteLLM dropped the rest
    steps = await gateway.catch_up(gateway.pull(page_size=10))
    ids = gateway.ids()
    assert steps == 6
    assert len(set(ids)) == 60
    assert len(ids) == 25 + 60
    pushed = {record.id: record for record in gateway.source.parse(array(sent), location="", at=NOW).records}
    assert set(pushed) == set(ids)
    for record in gateway.log.records():
        assert record.effective_cost == pushed[record.id].effective_cost
        assert record.input_tokens == pushed[record.id].input_tokens
        assert record.tags["team"] == "search"


async def test_rows_that_are_written_late_are_found_and_others_not_given_again(gateway: Gateway) -> None:
    sent = events(20)
    connector = gateway.pull(page_size=10)
    gateway.logs.rows = [row_of(event) for event in sent[5:]]
    await gateway.catch_up(connector)
    gateway.logs.rows = [row_of(event) for event in sent]
    await gateway.clock.advance(60)
    await gateway.catch_up(connector)
    assert len(gateway.ids()) == len(set(gateway.ids())) == 20


async def test_rows_that_are_news_are_dated_by_their_reading(gateway: Gateway) -> None:
    connector = gateway.pull()
    gateway.logs.rows = [row_of(payload(0, NOW - 300))]
    await gateway.catch_up(connector)  # the first reading brings the past
    await gateway.clock.advance(60)
    gateway.logs.rows += [row_of(payload(1, NOW - 240)), row_of(payload(2, NOW - 840))]
    await gateway.catch_up(connector)
    await gateway.clock.advance(700)  # a pause
    gateway.logs.rows.append(row_of(payload(3, NOW + 500)))
    await gateway.catch_up(connector)
    dated = [record.charge_period_start for record in sorted(gateway.log.records(), key=lambda record: record.id)]
    assert dated == [NOW - 300, NOW + 60, NOW + 60, NOW + 500]


async def test_rows_that_come_after_an_hour_keep_their_time(gateway: Gateway) -> None:
    connector = gateway.pull(overlap_minutes=120)
    await gateway.catch_up(connector)
    await gateway.clock.advance(60)
    gateway.logs.rows = [row_of(payload(1, NOW - 3530)), row_of(payload(2, NOW - 3550))]
    await gateway.catch_up(connector)
    dated = {record.id: record.charge_period_start for record in gateway.log.records()}
    assert sorted(dated.values()) == [NOW - 3550, NOW + 60]


async def test_a_new_process_repeats_the_overlap_with_the_same_ids(gateway: Gateway) -> None:
    gateway.logs.rows = [row_of(event) for event in events(20)]
    await gateway.catch_up(gateway.pull())
    await gateway.clock.advance(120)
    await gateway.catch_up(gateway.pull(overlap_minutes=15))
    assert (len(gateway.ids()), len(set(gateway.ids()))) == (40, 20)


async def test_what_could_not_be_appended_is_given_again(gateway: Gateway) -> None:
    gateway.logs.rows = [row_of(event) for event in events(20)]
    connector = gateway.pull()
    runner = PullRunner(connector, "gw/backfill", gateway.log, gateway.clock)
    gateway.log.fail_next = 1
    with pytest.raises(TransientError):
        await runner.step()
    await runner.step()
    assert len(gateway.ids()) == 20


async def test_how_far_back_it_goes_is_bounded(gateway: Gateway) -> None:
    await gateway.catch_up(gateway.pull(first_hours=2))
    assert gateway.logs.queries[0]["start_date"] == "2025-06-15 13:06:40"
    await gateway.clock.advance(30 * 86400)
    await gateway.catch_up(gateway.pull(max_hours=24))
    assert gateway.logs.queries[-1]["start_date"] == "2025-07-14 15:06:40"


async def test_a_page_that_repeats_is_an_error_and_no_endless_loop(gateway: Gateway) -> None:
    gateway.logs.rows = [row_of(event) for event in events(50)]
    gateway.logs.repeat = True
    with pytest.raises(TransientError, match="repeats the page before"):
        await gateway.catch_up(gateway.pull(page_size=10))
    gateway.logs.repeat = False
    await gateway.catch_up(gateway.pull(page_size=10))
    assert len(set(gateway.ids())) == 50


async def test_a_key_that_expires_between_pages_loses_nothing(gateway: Gateway) -> None:
    gateway.logs.rows = [row_of(event) for event in events(50)]
    connector = gateway.pull(page_size=10)
    runner = PullRunner(connector, "gw/backfill", gateway.log, gateway.clock)
    assert await runner.step()
    gateway.logs.faults.next.append("401")
    with pytest.raises(PermanentError, match=r"GET 127\.0\.0\.1/spend/logs/v2: HTTP 401"):
        await runner.step()
    while await runner.step():
        pass
    assert len(gateway.ids()) == len(set(gateway.ids())) == 50


@pytest.mark.parametrize("fault", ["429", "500", "reset"])
async def test_storms_are_transient(gateway: Gateway, fault: str) -> None:
    gateway.logs.rows = [row_of(event) for event in events(5)]
    gateway.logs.faults.next.extend([fault] * 6)
    connector = gateway.pull()
    while gateway.logs.faults.next:  # the client itself tries a broken connection once more
        with pytest.raises(TransientError) as raised:
            await connector.read(None)
        assert raised.value.retry_after == (7.0 if fault == "429" else None)
    assert len((await connector.read(None)).records) == 5


async def test_a_slow_answer_is_given_up(gateway: Gateway) -> None:
    gateway.logs.faults.next.append("slow")
    with pytest.raises(TransientError, match="TimeoutError"):
        await gateway.pull(timeout_s=0.05).read(None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt_tokens": "many"}, "wrong_type"),
        ({"request_id": None, "litellm_call_id": None, "metadata": None}, "missing_field"),
    ],
)
async def test_a_bad_row_is_a_dead_letter_with_its_place(gateway: Gateway, change: Any, reason: str) -> None:
    gateway.logs.rows = [row_of(event) for event in events(3)]
    gateway.logs.rows[1] |= change
    await gateway.catch_up(gateway.pull())
    (letter,) = gateway.log.dead_letters()
    assert letter.reason == reason
    assert letter.location == "/spend/logs/v2 2025-06-15 09:06:40 to 2025-06-15 15:06:40 page 1#1"
    assert len(gateway.ids()) == 2


@pytest.mark.parametrize("change", [{"metadata": "{"}, {"metadata": {"user_api_key_alias": [7]}}, {"end_user": []}])
async def test_an_odd_column_that_is_not_needed_costs_only_itself(gateway: Gateway, change: Any) -> None:
    gateway.logs.rows = [row_of(event) for event in events(3)]
    gateway.logs.rows[1] |= change
    await gateway.catch_up(gateway.pull())
    assert gateway.log.dead_letters() == []
    assert [record.effective_cost for record in gateway.log.records()] == [0.0045] * 3
    assert all(record.tags["api_key"].startswith("88dc") for record in gateway.log.records())


@pytest.mark.parametrize("start", ["yesterday", ""])
def test_a_start_that_is_no_time_is_refused(start: str) -> None:
    source = LiteLLM(Config.model_validate({"kind": "litellm", "name": "gw", "token": TOKEN}), PRICES)
    row = row_of(payload(1, NOW)) | {"startTime": start}
    assert isinstance(source.row_records(json.dumps(row).encode(), NOW), Rejected)


async def test_check_says_what_is_missing(gateway: Gateway) -> None:
    assert isinstance(gateway.pull(), Checkable)
    (fine,) = await gateway.pull().check()
    assert fine.ok
    (refused,) = await gateway.pull(key="sk-wrong").check()
    assert not refused.ok
    assert "HTTP 401" in refused.detail
    assert "admin" in refused.permission


async def test_a_daemon_reads_behind_the_push_and_tells_how_fresh_it_is(gateway: Gateway) -> None:
    text = f"""
connectors:
  - kind: litellm
    name: gw
    token: {TOKEN}
    backfill: {{url: "{gateway.url}", key: {KEY}, poll_interval_s: 30}}
"""
    made = make_connectors(load_text(text), gateway.log, gateway.clock, gateway.http)
    (runner,) = made.runners
    assert (runner.name, list(made.sources)) == ("gw/backfill", ["gw"])
    gateway.logs.faults.next.append("500")
    with pytest.raises(TransientError):
        await runner.step()
    assert runner.last_success is None
    await runner.step()
    assert runner.last_success == NOW
    assert REGISTRY.get_sample_value(FRESH, {"connector": "gw/backfill"}) == NOW
