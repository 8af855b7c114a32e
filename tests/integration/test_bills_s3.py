"""Bills in S3, on moto's server: an export that grows, is restated and delivered half, and what is not allowed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import boto3
import pytest
from moto.server import ThreadedMotoServer

from curb.connectors.bills import aws_cur, focus_file
from curb.connectors.connector import Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.topics import COSTS
from tests.fakes import aws_cur as cur
from tests.fakes import focus_file as focus
from tests.fakes.memory_log import MemoryLog

HOUR = 3600.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="bill")
    yield client
    for each in client.list_objects_v2(Bucket="bill").get("Contents", []):
        client.delete_object(Bucket="bill", Key=each["Key"])


def upload(s3: Any, export: cur.Export) -> None:
    """Everything of the export, data first, as AWS does."""
    files = [file for file in export.root.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.name.endswith("Manifest.json")):
        s3.put_object(Bucket="bill", Key=str(file.relative_to(export.root.parent)), Body=file.read_bytes())


def storage(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}


def context(state: Path) -> Context:
    return Context(WallClock(), cast(aiohttp.ClientSession, None), PriceBook.load(), state)


def month() -> tuple[str, float]:
    """This month and its begin."""
    now = WallClock().now()
    period = cur.rfc3339(now)[:7]
    begin = now // 86_400 * 86_400
    while cur.rfc3339(begin - 86_400)[:7] == period:
        begin -= 86_400
    return period, begin


@pytest.mark.parametrize("layout", ["overwrite", "new", "legacy"])
async def test_an_export_is_followed_through_crashes(tmp_path: Path, s3: Any, endpoint: str, layout: str) -> None:
    period, begin = month()
    rng, log = random.Random(layout), MemoryLog()
    export = cur.Export(tmp_path / "cur", layout)
    config = aws_cur.Config.model_validate(
        {"kind": "aws_cur", "name": "aws", "url": "s3://bill/cur", "storage": storage(endpoint)}
    )
    lines: list[dict[str, Any]] = []
    for delivery in range(4):
        for line in lines:  # some of what was told before is restated
            if rng.random() < 0.3:
                line["line_item_unblended_cost"] = round(rng.uniform(0, 50), 4)
        lines += [cur.line(begin - 86_400 + n * HOUR, round(rng.uniform(0, 9), 4)) for n in range(delivery * 5, 20)]
        export.deliver(lines, period)
        upload(s3, export)
        shutil.rmtree(tmp_path / "cur")
        more = True
        while more:
            bill = config.build(context(tmp_path / "state")).connector  # a new process each time
            runner = PullRunner(bill, "aws", log, WallClock())
            log.fail_next, log.fail_after = rng.choice([(0, 0), (1, 0), (0, 1)])
            try:
                more = await runner.step()
            except TransientError:
                more = True
            await bill.close()
    told = {record.id: record.effective_cost for record in log.records(COSTS)}
    assert sum(told.values()) == pytest.approx(sum(line["line_item_unblended_cost"] for line in lines), abs=1e-9)
    assert log.dead_letters() == []


async def test_focus_parquet_and_csv_from_s3(tmp_path: Path, s3: Any, endpoint: str) -> None:
    _, begin = month()
    lines = [focus.line(begin, 1.5), focus.line(begin, 2.0, ChargeCategory="Tax")]
    s3.put_object(Bucket="bill", Key="focus/a.parquet", Body=focus.parquet(lines))
    others = [focus.line(begin, 3.0), focus.line(begin, 4.0, ChargeCategory="Tax")]
    s3.put_object(Bucket="bill", Key="focus/b.csv", Body=focus.csv_text(others))
    s3.put_object(Bucket="bill", Key="focus/readme.txt", Body=b"no bill")
    config = focus_file.Config.model_validate(
        {"kind": "focus_file", "name": "focus", "url": "s3://bill/focus/*", "storage": storage(endpoint)}
    )
    bill = config.build(context(tmp_path)).connector
    log = MemoryLog()
    runner = PullRunner(bill, "focus", log, WallClock())
    while await runner.step():
        pass
    assert sorted(record.effective_cost for record in log.records(COSTS)) == [1.5, 2.0, 3.0, 4.0]
    assert [check.ok for check in await bill.check()] == [True, True]
    await bill.close()


async def test_a_bucket_that_is_not_there_is_told(tmp_path: Path, endpoint: str) -> None:
    config = focus_file.Config.model_validate(
        {"kind": "focus_file", "name": "focus", "url": "s3://nobody/focus", "storage": storage(endpoint)}
    )
    bill = config.build(context(tmp_path)).connector
    with pytest.raises((PermanentError, TransientError), match="nobody"):
        await bill.read(None)
    (check,) = await bill.check()
    assert (check.ok, check.permission) == (False, "s3:ListBucket")
    await bill.close()


async def test_an_endpoint_that_is_down_is_transient(tmp_path: Path) -> None:
    config = focus_file.Config.model_validate(
        {"kind": "focus_file", "name": "focus", "url": "s3://b/x", "storage": storage("http://127.0.0.1:9")}
    )
    bill = config.build(context(tmp_path)).connector
    with pytest.raises(TransientError):
        await bill.read(None)
    await bill.close()
