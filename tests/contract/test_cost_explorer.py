"""What `"aws_cost_explorer"` promises: the log adds up to what AWS says, and calls stay within the budget."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.connectors.bills import aws_cost_explorer
from curb.connectors.connector import Checkable, Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import COSTS, CURSORS
from curb.stream.records.spend import CostRecord
from tests.fakes.aws_cost_explorer import Charged, CostExplorer
from tests.fakes.aws_json import SECRET, aws
from tests.fakes.memory_log import MemoryLog

#: 2025-06-15 15:06:40 UTC.
NOW = 1_750_000_000.0
DAY = 86_400.0
PRICES = PriceBook.load()


class Bench:
    """The fake with its clock and Curb's log."""

    def __init__(self, fake: CostExplorer, url: str, http: aiohttp.ClientSession, state_dir: Path) -> None:
        self.fake, self.url, self._http, self.state_dir = fake, url, http, state_dir
        self.clock, self.log = ManualClock(NOW), MemoryLog()
        self._built = list[Connector]()

    def build(self, **settings: Any) -> Any:
        data = {"kind": "aws_cost_explorer", "name": "ce", "aws": aws(self.url), "max_calls_per_day": 5000, **settings}
        config = aws_cost_explorer.Config.model_validate(data)
        self._built.append(config.build(Context(self.clock, self._http, PRICES, self.state_dir)).connector)
        return self._built[-1]

    async def close(self) -> None:
        for connector in self._built:
            await connector.close()

    async def catch_up(self, connector: Connector) -> None:
        runner = PullRunner(connector, "ce", self.log, self.clock)
        while await runner.step():
            pass

    def records(self) -> list[CostRecord]:
        first = {record.id: record for record in reversed(self.log.records(COSTS))}
        return [record for record in first.values() if isinstance(record, CostRecord)]

    def told(self, slot: float) -> dict[tuple[float, str, str], float]:
        sums: dict[tuple[float, str, str], float] = {}
        for record in self.records():
            place = record.charge_period_start // slot * slot, record.service_name, record.charge_category
            sums[place] = sums.get(place, 0.0) + record.effective_cost
        return {place: usd for place, usd in sums.items() if abs(usd) > 1e-9}

    def truth(self, slot: float) -> dict[tuple[float, str, str], float]:
        sums: dict[tuple[float, str, str], float] = {}
        for each in self.fake.charged:
            place = each.at // slot * slot, each.service, each.kind
            sums[place] = sums.get(place, 0.0) + each.usd
        return {place: usd for place, usd in sums.items() if abs(usd) > 1e-9}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    fake = CostExplorer()
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        bench = Bench(fake, str(server.make_url("/")), http, tmp_path)
        yield bench
        await bench.close()


@pytest.mark.parametrize("seed", range(3))
async def test_faults_and_restarts_lose_and_double_nothing(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    granularity, slot = ("hour", 3600.0) if seed % 2 else ("day", DAY)
    bench.fake.page_groups = rng.choice([3, 8, 1000])
    bench.fake.repeats = seed > 1
    errors = 0
    for _ in range(5):
        for _ in range(rng.randrange(1, 12)):
            at = bench.clock.now() - rng.uniform(0, 8 * DAY)
            service, kind = (
                rng.choice(["Amazon EC2", "Amazon Bedrock"]),
                rng.choice(["Usage", "Usage", "Tax", "Credit"]),
            )
            bench.fake.charged.append(Charged(at, round(rng.uniform(-2, 90), 4), service, kind=kind))
        if rng.random() < 0.5:  # taken back
            bench.fake.charged.pop(rng.randrange(len(bench.fake.charged)))
        await bench.clock.advance(21_600)
        more = True
        while more:
            bench.fake.faults.next.extend(rng.choices(["429", "500", "401", "reset"], k=rng.randrange(2)))
            bench.log.fail_next, bench.log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            connector = bench.build(granularity=granularity)  # a new process: what it knows is on the log and on disk
            runner = PullRunner(connector, "ce", bench.log, bench.clock)
            try:
                for _ in range(rng.randint(1, 4)):
                    more = await runner.step()
            except (TransientError, PermanentError):
                errors, more = errors + 1, True
            await connector.close()
    bench.fake.faults.next.clear()
    bench.log.fail_next = bench.log.fail_after = 0
    await bench.clock.advance(21_600)
    await bench.catch_up(bench.build(granularity=granularity))
    assert errors > 3
    assert bench.told(slot) == pytest.approx(bench.truth(slot), abs=1e-6)
    assert bench.log.dead_letters() == []


async def test_usage_has_its_tags_and_the_rest_its_category(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, 10), Charged(NOW - DAY, 3, kind="Tax"), Charged(NOW - DAY, -1, kind="Odd")]
    await bench.catch_up(bench.build(tags={"org": "acme"}))
    usage, tax, odd = sorted(bench.records(), key=lambda record: -record.effective_cost)
    assert usage.tags == {"org": "acme", "provider": "AWS", "service": "Amazon EC2", "team": "search"}
    assert (usage.charge_category, usage.charge_period_end - usage.charge_period_start) == ("Usage", DAY)
    assert (tax.charge_category, odd.charge_category) == ("Tax", "Adjustment")
    assert tax.tags == {"org": "acme", "provider": "AWS", "service": "Amazon EC2"}


async def test_a_day_that_is_long_over_is_restated_and_not_new(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - 6 * DAY, 10)]
    await bench.catch_up(bench.build())
    await bench.clock.advance(21_600)
    bench.fake.charged += [Charged(NOW - 6 * DAY, 5), Charged(NOW - 6 * DAY, 7, service="S3"), Charged(NOW, 2)]
    await bench.catch_up(bench.build())
    assert {record.effective_cost: record.delta for record in bench.records()} == {
        10: "new_usage",
        5: "restatement",
        7: "late",
        2: "new_usage",
    }


async def test_it_is_asked_no_oftener_than_configured_whatever_restarts(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, 10)]
    for _ in range(3):
        await bench.catch_up(bench.build())
    assert len(bench.fake.calls) == 2
    await bench.clock.advance(21_600)
    await bench.catch_up(bench.build(others=False))
    assert len(bench.fake.calls) == 3


async def test_a_day_costs_no_more_calls_than_agreed(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, 10)]
    for _ in range(6):  # until the evening
        await bench.catch_up(bench.build(max_calls_per_day=5, poll_interval_s=3600))
        await bench.clock.advance(3600)
    assert len(bench.fake.calls) == 5
    await bench.clock.advance(DAY / 4)
    bench.fake.charged.append(Charged(NOW, 4))
    await bench.catch_up(bench.build(max_calls_per_day=5, poll_interval_s=3600))
    assert len(bench.fake.calls) == 7
    assert bench.told(DAY) == pytest.approx(bench.truth(DAY), abs=1e-6)


async def test_calls_that_fail_cost_as_well(bench: Bench) -> None:
    connector = bench.build(max_calls_per_day=3)
    bench.fake.faults.next.extend(["500", "429", "500"])
    for _ in range(3):
        with pytest.raises(TransientError):
            await connector.read(None)
    assert (await connector.read(None)).records == []
    assert len(bench.fake.faults.seen) == 3


async def test_a_budget_too_small_for_one_reading_is_said(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, 10)]
    with pytest.raises(PermanentError, match="max_calls_per_day"):
        await bench.build(max_calls_per_day=1).read(None)


async def test_what_is_not_dollars_needs_a_rate(bench: Bench) -> None:
    bench.fake.charged, bench.fake.unit = [Charged(NOW - DAY, 10)], "EUR"
    with pytest.raises(PermanentError, match="usd_per"):
        await bench.build().read(None)
    await bench.clock.advance(21_600)
    await bench.catch_up(bench.build(usd_per={"EUR": 1.1}))
    (record,) = bench.records()
    assert (round(record.effective_cost, 9), record.billing_currency) == (11.0, "EUR")


@pytest.mark.parametrize("fault", ["429", "500", "reset", "slow"])
async def test_storms_are_transient(bench: Bench, fault: str) -> None:
    bench.fake.faults.next.append(fault)
    with pytest.raises(TransientError) as raised:
        await bench.build(timeout_s=0.3).read(None)
    assert raised.value.retry_after == (7.0 if fault == "429" else None)
    assert SECRET not in str(raised.value)


async def test_a_page_that_is_its_own_next_page_is_no_endless_loop(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY * n, 10) for n in range(5)]
    bench.fake.page_groups, bench.fake.stuck = 1, True
    with pytest.raises(TransientError, match="a page again"):
        await bench.build().read(None)
    assert len(bench.fake.calls) == 2


async def test_an_amount_that_is_none_is_a_dead_letter(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, float("nan")), Charged(NOW - 2 * DAY, 4)]
    await bench.catch_up(bench.build())
    assert [record.effective_cost for record in bench.records()] == [4]
    assert [letter.reason for letter in bench.log.dead_letters()] == ["invalid"]


async def test_check_says_what_is_missing(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY, 10)]
    assert isinstance(bench.build(), Checkable)
    (good,) = await bench.build(max_calls_per_day=9).check()
    assert good.ok
    assert good.detail == "1 groups (estimated), 8 calls left today"
    bench.fake.denied = {"GetCostAndUsage"}
    (refused,) = await bench.build().check()
    assert not refused.ok
    assert "AccessDenied" in refused.detail
    assert refused.permission == "ce:GetCostAndUsage"


async def test_the_secret_is_in_no_cursor_and_cursors_are_short(bench: Bench) -> None:
    bench.fake.charged = [Charged(NOW - DAY * n, 10) for n in range(14)]
    await bench.catch_up(bench.build(granularity="hour"))
    for message in bench.log.of(CURSORS):
        assert SECRET.encode() not in message.value
        assert len(message.value) < 2000
