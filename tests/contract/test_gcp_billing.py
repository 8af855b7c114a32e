"""What `"gcp_billing"` promises: the log adds up to the export, gross and credits apart, whatever fails in between."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from curb.connectors.bills import gcp_billing
from curb.connectors.connector import Checkable, Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import CostRecord
from tests.fakes.gcp_billing import TABLE, BigQuery, Exported, row
from tests.fakes.memory_log import MemoryLog

NOW, DAY = 1_750_000_000.0, 86_400.0
PRICES = PriceBook.load()


class Bench:
    """The fake with its clock and Curb's log."""

    def __init__(self, fake: BigQuery, url: str, http: aiohttp.ClientSession, state_dir: Path) -> None:
        self.fake, self.url, self._http, self.state_dir = fake, url, http, state_dir
        self.clock, self.log = ManualClock(NOW), MemoryLog()
        self._built = list[Connector]()

    def build(self, **settings: Any) -> Connector:
        place = {"url": settings.pop("url")} if "url" in settings else {"table": TABLE, "endpoint_url": self.url}
        config = gcp_billing.Config.model_validate({"kind": "gcp_billing", "name": "gcp", **place, **settings})
        self._built.append(config.build(Context(self.clock, self._http, PRICES, self.state_dir)).connector)
        return self._built[-1]

    async def close(self) -> None:
        for connector in self._built:
            await connector.close()

    async def catch_up(self, connector: Connector) -> None:
        runner = PullRunner(connector, "gcp", self.log, self.clock)
        while await runner.step():
            pass

    def records(self) -> list[CostRecord]:
        first = {record.id: record for record in reversed(self.log.records(COSTS))}
        return [record for record in first.values() if isinstance(record, CostRecord)]

    def told(self) -> dict[tuple[str, float, str], float]:
        sums: dict[tuple[str, float, str], float] = {}
        for record in self.records():
            place = record.tags["team"], record.charge_period_start, record.charge_category
            sums[place] = sums.get(place, 0.0) + record.effective_cost
        return {place: usd for place, usd in sums.items() if abs(usd) > 1e-9}

    def truth(self) -> dict[tuple[str, float, str], float]:
        sums: dict[tuple[str, float, str], float] = {}
        for each in self.fake.rows:
            kind = {"regular": "Usage", "tax": "Tax"}[each.cost_type]
            for category, usd in ((kind, each.usd), ("Credit", each.credits)):
                place = each.team, each.at // 3600 * 3600, category
                sums[place] = sums.get(place, 0.0) + usd
        return {place: usd for place, usd in sums.items() if abs(usd) > 1e-9}


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    fake = BigQuery()
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        bench = Bench(fake, str(server.make_url("/")).rstrip("/"), http, tmp_path / "state")
        yield bench
        await bench.close()


@pytest.mark.parametrize("seed", range(3))
async def test_faults_and_restarts_lose_and_double_nothing(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    bench.fake.page_rows = rng.choice([7, 20, 1000])
    errors = 0
    for _ in range(4):
        now = bench.clock.now()
        for _ in range(rng.randrange(1, 9)):
            # Rows come for usage of days ago, and some say that they were exported before others that were seen.
            at, exported_at = now - rng.uniform(0, 9 * DAY), now - rng.uniform(0, 7200)
            usd, credits = round(rng.uniform(-3, 80), 4), rng.choice([0.0, 0.0, -1.25])
            team, kind = rng.choice("abc"), rng.choice(["regular", "regular", "tax"])
            bench.fake.rows.append(Exported(at, exported_at, usd, credits, team=team, cost_type=kind))
        await bench.clock.advance(3600)
        more = True
        while more:
            bench.fake.faults.next.extend(rng.choices(["429", "500", "401", "reset"], k=rng.randrange(2)))
            bench.log.fail_next, bench.log.fail_after = rng.choice([(0, 0), (0, 0), (1, 0), (0, 1)])
            connector = bench.build()  # a new process: what it knows is on the log and on disk
            runner = PullRunner(connector, "gcp", bench.log, bench.clock)
            try:
                for _ in range(rng.randint(1, 4)):
                    more = await runner.step()
            except (TransientError, PermanentError):
                errors, more = errors + 1, True
            await connector.close()
    bench.fake.faults.next.clear()
    bench.log.fail_next = bench.log.fail_after = 0
    await bench.catch_up(bench.build())
    assert errors > 1
    assert bench.told() == pytest.approx(bench.truth(), abs=1e-6)
    assert bench.log.dead_letters() == []


async def test_gross_and_credits_are_kept_apart(bench: Bench) -> None:
    bench.fake.rows = [Exported(NOW - DAY, NOW, 10.0, -4.0)]
    await bench.catch_up(bench.build(tags={"org": "acme"}))
    credit, usage = sorted(bench.records(), key=lambda record: record.effective_cost)
    assert (usage.effective_cost, usage.charge_category) == (10.0, "Usage")
    assert (credit.effective_cost, credit.charge_category) == (-4.0, "Credit")
    tags = {"service": "Vertex AI", "account": "p1", "team": "search", "org": "acme", "provider": "Google Cloud"}
    assert usage.tags == credit.tags == tags


async def test_without_new_rows_only_the_months_are_asked_for(bench: Bench) -> None:
    bench.fake.rows = [Exported(NOW - DAY, NOW, 10.0)]
    await bench.catch_up(bench.build())
    before = len(bench.fake.queries)
    await bench.catch_up(bench.build())
    assert len(bench.fake.queries) == before + 1
    assert all(int(query["maximumBytesBilled"]) == 50 * 1024**3 for query in bench.fake.queries)


@pytest.mark.parametrize("fault", ["429", "500", "reset", "slow"])
async def test_storms_are_transient(bench: Bench, fault: str) -> None:
    connector = bench.build(timeout_s=0.5)
    bench.fake.faults.next.append(fault)
    with pytest.raises(TransientError) as raised:
        await connector.read(None)
    assert raised.value.retry_after == (7.0 if fault == "429" else None)
    assert len(bench.fake.faults.seen) == 1
    await connector.close()


async def test_check_says_what_is_missing(bench: Bench) -> None:
    bench.fake.rows = [Exported(NOW - DAY, NOW, 10.0)]
    connector = bench.build()
    assert isinstance(connector, Checkable)
    (good,) = await connector.check()
    assert (good.ok, good.detail) == (True, "invoice months: 202506")
    bench.fake.denied = True
    (refused,) = await connector.check()
    assert not refused.ok
    assert "bigquery.jobs.create" in refused.detail
    assert "dataViewer" in refused.permission


async def test_a_key_that_is_none_is_said_without_showing_it(bench: Bench) -> None:
    with pytest.raises(PermanentError, match="service account") as raised:
        await bench.build(credentials="not-json-but-secret").read(None)
    assert "but-secret" not in str(raised.value)


ROWS = [row(NOW - 7200, 10.5, -4.25), row(NOW - 3600, 0.25), row(NOW - 3600, 2.0, cost_type="tax")]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        flat = [
            {key: json.dumps(each[key]) if isinstance(each[key], list | dict) else each[key] for key in each}
            for each in rows
        ]
        pyarrow.csv.write_csv(pa.Table.from_pylist(flat), path)
    else:
        content = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    os.utime(path, (NOW - 60, NOW - 60))
    return path


@pytest.mark.parametrize("name", ["june.parquet", "june.csv", "june.jsonl", "june.jsonl.gz"])
async def test_exported_files_say_the_same(bench: Bench, tmp_path: Path, name: str) -> None:
    write(tmp_path / "bill" / name, ROWS)
    await bench.catch_up(bench.build(url=str(tmp_path / "bill"), dimensions=["service", "account", "region"]))
    sums: dict[str, float] = {}
    for record in bench.records():
        sums[record.charge_category] = sums.get(record.charge_category, 0.0) + record.effective_cost
        assert (
            record.tags.items() >= {"team": "search", "env": "prod", "region": "europe-west1", "account": "p1"}.items()
        )
    assert sums == {"Usage": 10.75, "Credit": -4.25, "Tax": 2.0}
    assert bench.log.dead_letters() == []


async def test_rows_that_cannot_be_read_are_dead_letters(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path / "bill" / "june.jsonl", [*ROWS, row(NOW, 1.0, credits=[{"name": "x"}]), row(NOW, "much")])  # type: ignore[arg-type]
    await bench.catch_up(bench.build(url=str(tmp_path / "bill")))
    assert sum(record.effective_cost for record in bench.records()) == pytest.approx(10.75 - 4.25 + 2 + 1)
    assert [letter.reason for letter in bench.log.dead_letters()] == ["invalid", "invalid"]


async def test_files_that_are_no_export_or_cut_off_are_said(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path / "bill" / "june.jsonl", [{"usage_start_time": "x", "cost": 1}])
    with pytest.raises(PermanentError, match="usage_end_time, currency is missing"):
        await bench.build(url=str(path)).read(None)
    path.write_text(json.dumps(ROWS[0])[:-5])
    os.utime(path, (NOW - 50, NOW - 50))
    refused = await bench.build(url=str(path)).read(None)
    assert refused.records == []
    assert "1 of 1 lines cannot be read: a line that is no JSON object" in refused.alerts[0].explanation
    # Cut off in the middle of a line, it costs that line; a line at the begin is none less than one at the end.
    lines = [json.dumps(each) for each in ROWS]
    path.write_text("\n".join(["{", *lines, lines[0][:-5]]))
    os.utime(path, (NOW - 40, NOW - 40))
    await bench.catch_up(bench.build(url=str(path)))
    assert sum(record.effective_cost for record in bench.records()) == pytest.approx(10.75 - 4.25 + 2)


def test_one_place_is_needed() -> None:
    with pytest.raises(ValidationError, match="either `table` or `url`"):
        gcp_billing.Config.model_validate({"kind": "gcp_billing", "name": "gcp"})
    with pytest.raises(ValidationError, match="table"):
        gcp_billing.Config.model_validate({"kind": "gcp_billing", "name": "gcp", "table": "a.b.c` --"})
