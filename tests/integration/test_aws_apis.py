"""CloudWatch and Cost Explorer on moto's server: another implementation of AWS than the fakes, asked through a role."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import boto3
import pytest
from moto.server import ThreadedMotoServer

from curb.connectors.bills import aws_cost_explorer
from curb.connectors.connector import Connector, Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.connectors.tokens import cloudwatch
from curb.stream.clock import WallClock
from curb.stream.log.topics import COSTS, USAGE
from tests.fakes.memory_log import MemoryLog

PRICES = PriceBook.load()
NOVA = "amazon.nova-pro-v1:0"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def aws(endpoint: str) -> dict[str, Any]:
    role = {"role_arn": "arn:aws:iam::123456789012:role/curb", "sts_endpoint_url": endpoint}
    keys = {"access_key_id": "key", "secret_access_key": "secret"}
    return {"endpoint_url": endpoint, "region": "us-east-1", **role, **keys}


async def read_all(connector: Connector, log: MemoryLog) -> None:
    runner = PullRunner(connector, "aws", log, WallClock())
    while await runner.step():
        pass
    await connector.close()


def context(tmp_path: Path) -> Context:
    return Context(WallClock(), cast(aiohttp.ClientSession, None), PRICES, tmp_path)


def seed(url: str, body: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST")) as answer:
        assert answer.status == 201


async def test_bedrock_tokens_from_cloudwatch(endpoint: str, tmp_path: Path) -> None:
    client = boto3.client(
        "cloudwatch", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    at = datetime.fromtimestamp(WallClock().now() - 900, UTC)
    for metric, value in (("InputTokenCount", 1000.0), ("OutputTokenCount", 100.0), ("Invocations", 2.0)):
        datum = {"MetricName": metric, "Value": value, "Timestamp": at}
        datum["Dimensions"] = [{"Name": "ModelId", "Value": NOVA}]
        client.put_metric_data(Namespace="AWS/Bedrock", MetricData=[datum])
    data = {"kind": "cloudwatch", "name": "aws", "aws": aws(endpoint), "first_hours": 1}
    config = cloudwatch.Config.model_validate({**data, "queries": [{"name": "bedrock", "preset": "bedrock"}]})
    log = MemoryLog()
    await read_all(config.build(context(tmp_path)).connector, log)
    (record,) = log.records(USAGE)
    assert (record.input_tokens, record.output_tokens, record.requests) == (1000, 100, 2)
    assert record.effective_cost == PRICES.price(NOVA, input_tokens=1000, output_tokens=100)


async def test_costs_from_cost_explorer(endpoint: str, tmp_path: Path) -> None:
    today = datetime.fromtimestamp(WallClock().now(), UTC).strftime("%Y-%m-%d")
    metric = {"Amount": "12.5", "Unit": "USD"}
    group = {"Keys": ["Amazon EC2", "team$ads"], "Metrics": {"AmortizedCost": metric, "UnblendedCost": metric}}
    day = {"TimePeriod": {"Start": today, "End": today}, "Total": {}, "Groups": [group], "Estimated": True}
    body = json.dumps({"results": [{"ResultsByTime": [day], "GroupDefinitions": [], "DimensionValueAttributes": []}]})
    seed(f"{endpoint}/moto-api/static/ce/cost-and-usage-results", body)
    data = {"kind": "aws_cost_explorer", "name": "aws", "aws": aws(endpoint), "others": False}
    log = MemoryLog()
    await read_all(aws_cost_explorer.Config.model_validate(data).build(context(tmp_path)).connector, log)
    (record,) = log.records(COSTS)
    assert (record.effective_cost, record.tags["team"]) == (12.5, "ads")
