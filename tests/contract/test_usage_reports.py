"""What every connector on a provider's usage reports promises: growth counts once, whatever fails in between."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer

from curb.connectors.connector import Checkable, Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import anthropic, openai
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import COSTS, CURSORS
from curb.stream.records.spend import CostRecord, SpendRecord, UsageRecord
from tests.fakes import anthropic as anthropic_fake
from tests.fakes import openai as openai_fake
from tests.fakes.memory_log import MemoryLog
from tests.fakes.openai import Call

NOW = 1_750_000_030.0
PRICES = PriceBook.load()
MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-20250514"}
Organization = openai_fake.Organization | anthropic_fake.Organization


class Upstream:
    """One kind with its fake, a clock and Curb's log."""

    def __init__(self, kind: str, organization: Organization, url: str, http: aiohttp.ClientSession) -> None:
        self.kind, self.fake, self._url, self._http = kind, organization, url, http
        self.clock, self.log = ManualClock(NOW), MemoryLog()

    def build(self, **settings: Any) -> Any:
        key = openai_fake.KEY if self.kind == "openai" else anthropic_fake.KEY
        data = {"kind": self.kind, "name": "api", "url": self._url, "key": key, "first_hours": 2, **settings}
        module = openai if self.kind == "openai" else anthropic
        return module.Config.model_validate(data).build(Context(self.clock, self._http, PRICES)).connector

    def call(self, at: float, *, tokens: int = 1000, project: str = "p1", **changes: Any) -> None:
        call = Call(at, project, "k1", MODELS[self.kind], tokens, tokens // 10, dollars=tokens / 1e4)
        self.fake.calls.append(call._replace(**changes))

    async def catch_up(self, connector: Connector) -> None:
        runner = PullRunner(connector, "api", self.log, self.clock)
        while await runner.step():
            pass

    def unique(self, topic: str = "curb.usage") -> list[SpendRecord]:
        """As the detector counts: the first record of an id."""
        first: dict[str, SpendRecord] = {}
        for record in self.log.records(topic):
            first.setdefault(record.id, record)
        return list(first.values())

    def tokens(self) -> dict[tuple[str, float], int]:
        """Input tokens by project and minute."""
        sums: dict[tuple[str, float], int] = {}
        for record in self.unique():
            place = record.tags["project"], float(record.id.split("/")[1])
            sums[place] = sums.get(place, 0) + record.input_tokens
        return sums

    def truth(self) -> dict[tuple[str, float], int]:
        sums: dict[tuple[str, float], int] = {}
        for call in self.fake.calls:
            place = call.project, call.at // 60 * 60
            sums[place] = sums.get(place, 0) + call.input
        return sums


@pytest.fixture(params=["openai", "anthropic"])
async def upstream(request: pytest.FixtureRequest) -> AsyncIterator[Upstream]:
    organization: Organization
    organization = openai_fake.Organization() if request.param == "openai" else anthropic_fake.Organization()
    async with TestServer(organization.app()) as server, aiohttp.ClientSession() as http:
        yield Upstream(request.param, organization, str(server.make_url("/")), http)


async def test_a_bucket_that_grew_gives_only_its_growth(upstream: Upstream) -> None:
    connector = upstream.build()
    upstream.call(NOW - 90)
    await upstream.catch_up(connector)
    upstream.call(NOW - 80, tokens=500)
    await upstream.clock.advance(60)
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    await upstream.catch_up(connector)
    first, second = sorted(upstream.log.records(), key=lambda record: record.id)
    assert isinstance(first, UsageRecord)
    assert (first.input_tokens, first.output_tokens) == (1000, 100)
    assert (second.input_tokens, second.output_tokens) == (500, 50)
    minute = (NOW - 90) // 60 * 60
    # The first reading brings the past; what is new after that is dated by its reading, so that it is scored.
    assert (first.charge_period_start, second.charge_period_start) == (minute, NOW + 60)
    assert first.id.startswith(f"api/{minute:.0f}/")
    assert first.id.removesuffix("/0") == second.id.removesuffix("/1")
    assert first.effective_cost == PRICES.price(MODELS[upstream.kind], input_tokens=1000, output_tokens=100)
    assert (first.cost_source, first.price_book) == ("priced", PRICES.hash)
    expected = {"project": "p1", "api_key": "k1", "model": MODELS[upstream.kind], "provider": upstream.kind}
    assert first.tags.items() >= expected.items()


@pytest.mark.parametrize("seed", range(6))
async def test_faults_and_restarts_lose_and_double_nothing(upstream: Upstream, seed: int) -> None:
    rng = random.Random(seed)
    upstream.fake.page_buckets = rng.choice([7, 60, 1440])
    upstream.fake.repeats = bool(seed % 2)
    connector, errors = upstream.build(costs=bool(seed % 3), reread_minutes=30), 0
    for _ in range(25):
        for _ in range(rng.randrange(4)):
            upstream.call(
                upstream.clock.now() - rng.randrange(1500),
                tokens=rng.randrange(1, 9000),
                project=f"p{rng.randrange(3)}",
            )
        await upstream.clock.advance(rng.choice([10, 60, 90]))
        more = True
        while more:
            upstream.fake.faults.next.extend(rng.choices(["429", "500", "401"], k=rng.randrange(2)))
            upstream.log.fail_next, upstream.log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            if rng.random() < 0.3:  # a new process: all it knows is on the log
                connector = upstream.build(costs=bool(seed % 3), reread_minutes=30)
            runner = PullRunner(connector, "api", upstream.log, upstream.clock)
            try:
                more = await runner.step()
            except (TransientError, PermanentError):
                errors += 1
    upstream.fake.faults.next.clear()
    upstream.log.fail_next = upstream.log.fail_after = 0
    await upstream.catch_up(upstream.build(costs=bool(seed % 3), reread_minutes=30))
    assert errors > 10
    assert upstream.tokens() == upstream.truth()
    billed = sum(record.effective_cost for record in upstream.unique(COSTS))
    assert billed == pytest.approx(sum(call.dollars for call in upstream.fake.calls) if seed % 3 else 0)
    assert upstream.log.dead_letters() == []


async def test_what_is_new_is_dated_by_its_reading_for_an_hour(upstream: Upstream) -> None:
    connector = upstream.build(reread_minutes=120, costs=True)
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    now = upstream.clock.now()
    ages = {"p1": 360, "p2": 3590, "p3": 3720}
    for project, age in ages.items():
        upstream.call(now - age, project=project)
    await upstream.catch_up(connector)
    dated = {record.tags["project"]: record.charge_period_start for record in upstream.log.records()}
    assert dated == {"p1": now, "p2": now, "p3": (now - 3720) // 60 * 60}
    assert upstream.tokens() == upstream.truth()
    assert {record.charge_period_start % 86_400 for record in upstream.log.records(COSTS)} == {0}


async def test_what_gathered_over_a_pause_keeps_its_time(upstream: Upstream) -> None:
    connector = upstream.build()
    await upstream.catch_up(connector)
    await upstream.clock.advance(700)
    upstream.call(upstream.clock.now() - 200)
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    upstream.call(upstream.clock.now() - 200)
    await upstream.catch_up(upstream.build())
    first, second = sorted(upstream.log.records(), key=lambda record: record.id)
    assert first.charge_period_start == (NOW + 500) // 60 * 60
    assert second.charge_period_start == NOW + 760


async def test_what_the_upstream_held_back_keeps_its_time(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.grown.MAX_GROWN", 3)
    connector = upstream.build()
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    held = upstream.clock.now()
    for minute in range(12):
        upstream.call(held - 300 - 60 * minute)
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    upstream.call(held - 240)
    await upstream.catch_up(connector)
    *backlog, news = sorted(upstream.log.records(), key=lambda record: record.id)
    assert len(backlog) == 12
    assert {each.charge_period_start for each in backlog} == {
        (held - 300 - 60 * minute) // 60 * 60 for minute in range(12)
    }
    assert news.charge_period_start == held + 60


async def test_a_repeat_has_the_same_ids_and_amounts(upstream: Upstream) -> None:
    connector = upstream.build()
    await upstream.catch_up(connector)
    await upstream.clock.advance(60)
    upstream.call(upstream.clock.now() - 200)
    cursor = msgspec.json.decode((await upstream.log.table(CURSORS))[b"api"], type=str)
    promised = (await connector.read(cursor)).cursor
    repeats = []
    for _ in range(3):
        repeats.append((await upstream.build().read(promised)).records[0])
        await upstream.clock.advance(1500)
    assert len({(each.id, each.effective_cost, each.input_tokens) for each in repeats}) == 1
    assert [each.charge_period_start for each in repeats] == [NOW + 60, NOW + 1560, NOW + 3060]


async def test_a_quiet_upstream_is_read_once_a_poll(upstream: Upstream) -> None:
    connector = upstream.build(costs=True)
    await upstream.catch_up(connector)
    before = len(upstream.fake.queries)
    await upstream.clock.advance(60)
    await upstream.catch_up(connector)
    reports = 3 if upstream.kind == "openai" else 2
    assert len(upstream.fake.queries) - before == reports


async def test_a_page_that_is_its_own_next_page_is_no_endless_loop(upstream: Upstream) -> None:
    upstream.call(NOW - 600)
    upstream.fake.page_buckets, upstream.fake.stuck = 10, True
    with pytest.raises(TransientError, match="names no new page"):
        await upstream.catch_up(upstream.build())
    assert len(upstream.fake.queries) == 2
    upstream.fake.stuck = False
    await upstream.catch_up(upstream.build())
    assert upstream.tokens() == upstream.truth()


async def test_a_key_that_expires_between_pages_gives_nothing_by_halves(upstream: Upstream) -> None:
    upstream.call(NOW - 6000)
    upstream.call(NOW - 600)
    upstream.fake.page_buckets = 10
    connector = upstream.build()
    upstream.fake.faults.next.extend(["ok", "ok", "401"])
    with pytest.raises(PermanentError, match="HTTP 401"):
        await upstream.catch_up(connector)
    assert len(upstream.fake.queries) == 2
    assert upstream.log.records() == []
    await upstream.catch_up(connector)
    assert upstream.tokens() == upstream.truth()


@pytest.mark.parametrize("fault", ["429", "500", "reset", "slow"])
async def test_storms_are_transient(upstream: Upstream, fault: str) -> None:
    connector = upstream.build(timeout_s=0.2)
    upstream.fake.faults.next.extend([fault] * 2)
    while upstream.fake.faults.next:
        with pytest.raises(TransientError) as raised:
            await connector.read(None)
        assert raised.value.retry_after == (7.0 if fault == "429" else None)
        assert "key" not in str(raised.value)


@pytest.mark.parametrize("junk", [{"model": 7}, 7, {"output_tokens": -1, "model": "m"}, {"output_tokens": 2**60}])
async def test_a_bad_row_is_one_dead_letter_however_often_it_is_read(upstream: Upstream, junk: Any) -> None:
    connector = upstream.build()
    upstream.call(NOW - 30)
    upstream.fake.extra = [junk]
    upstream.fake.page_buckets = 2000
    for _ in range(3):
        await upstream.catch_up(connector)
    reasons = {letter.reason for letter in upstream.log.dead_letters()}
    assert reasons <= {"wrong_type", "invalid"}
    places = [letter.location for letter in upstream.log.dead_letters()]
    assert 0 < len(places) == len(set(places))
    assert upstream.tokens() == upstream.truth()


async def test_costs_that_shrink_or_vanish_are_restated(upstream: Upstream) -> None:
    connector = upstream.build(costs=True)
    upstream.call(NOW - 3000, tokens=8000)
    upstream.call(NOW - 3000, tokens=4000, project="p2")
    await upstream.catch_up(connector)
    upstream.fake.calls = [upstream.fake.calls[0]._replace(dollars=0.5)]
    await upstream.catch_up(connector)
    by_project: dict[str, float] = {}
    for record in upstream.unique(COSTS):
        assert isinstance(record, CostRecord)
        assert record.delta == ("restatement" if record.effective_cost < 0 else "new_usage")
        by_project[record.tags["project"]] = by_project.get(record.tags["project"], 0) + record.billed_cost
    assert by_project == pytest.approx({"p1": 0.5, "p2": 0.0})


async def test_usage_that_is_taken_back_stays_as_it_was(upstream: Upstream) -> None:
    connector = upstream.build()
    upstream.call(NOW - 90)
    await upstream.catch_up(connector)
    upstream.fake.calls = []
    await upstream.catch_up(connector)
    assert [record.input_tokens for record in upstream.log.records()] == [1000]


async def test_an_unknown_model_costs_the_fallback(upstream: Upstream) -> None:
    upstream.call(NOW - 90, model="unheard-of")
    await upstream.catch_up(upstream.build())
    (record,) = upstream.log.records()
    assert record.cost_source == "fallback"
    assert record.effective_cost > 0


async def test_check_says_what_is_missing(upstream: Upstream) -> None:
    assert isinstance(upstream.build(), Checkable)
    assert all(check.ok for check in await upstream.build(costs=True).check())
    refused = await upstream.build(key="sk-wrong-key").check()
    assert not any(check.ok for check in refused)
    assert "HTTP 401" in refused[0].detail
    assert "admin key" in refused[0].permission


async def test_the_key_is_in_no_cursor_and_no_record(upstream: Upstream) -> None:
    upstream.call(NOW - 90)
    await upstream.catch_up(upstream.build())
    for message in [*upstream.log.of(CURSORS), *upstream.log.of("curb.usage")]:
        assert b"sk-" not in message.value


async def test_many_rows_are_given_in_parts(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.grown.MAX_GROWN", 7)
    for number in range(50):
        upstream.call(NOW - 60 * number - 40, project=f"p{number}")
    await upstream.catch_up(upstream.build())
    assert upstream.tokens() == upstream.truth()
    assert len(upstream.truth()) == 50


async def test_a_new_process_goes_on_after_a_long_stop(upstream: Upstream) -> None:
    await upstream.catch_up(upstream.build())
    await upstream.clock.advance(3 * 86400)
    for hours in range(70):
        upstream.call(upstream.clock.now() - hours * 3600 - 5)
    await upstream.catch_up(upstream.build())
    assert upstream.tokens() == upstream.truth()


async def test_how_fresh_it_is_is_told_also_while_nothing_is_used(upstream: Upstream) -> None:
    runner = PullRunner(upstream.build(), "api", upstream.log, upstream.clock)
    while await runner.step():
        pass
    assert runner.last_success == NOW
    await upstream.clock.advance(600)
    upstream.fake.faults.next.append("500")
    with pytest.raises(TransientError):
        await runner.step()
    assert runner.last_success == NOW
    await runner.step()
    assert runner.last_success == NOW + 600
