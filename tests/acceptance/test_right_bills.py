"""What clouds export has its right dollars, once, in a running daemon: odd files, currencies, deliveries, periods."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curb.stream.time import DAY_S, HOUR_S, iso
from tests.acceptance.daemons import Daemon, curb, curb_json
from tests.fakes import azure_cost as azure
from tests.fakes import focus_file as focus
from tests.fakes.bills import write
from tests.ports import free_port

#: Today's midnight, and the first of this month and of the next, UTC.
TODAY = time.time() // DAY_S * DAY_S
MONTH = datetime.fromtimestamp(TODAY, UTC).replace(day=1).timestamp()
NEXT = datetime.fromtimestamp(MONTH + 32 * DAY_S, UTC).replace(day=1).timestamp()
BEFORE = datetime.fromtimestamp(MONTH - DAY_S, UTC).replace(day=1).timestamp()
_AZURE = dict.fromkeys(("euros", "german", "runs"), "azure_cost")
_KINDS = {**_AZURE, "google": "gcp_billing", "cur": "aws_cur"}
_FILES = (
    "rupees", "ahead", "utf16", "latin1", "semicolons", "python-tags", "shifting", "sixty-days", *_KINDS,
)  # fmt: skip
_CONFIG = """
log: {{directory: {directory}/data}}
state_dir: {directory}/state
http: {{port: {port}}}
commit_interval_s: 0.1
connectors:
{connectors}
detector:
  scopes:
    - {{name: bill, group_by: [provider, account, service], sources: [costs]}}
    - {{name: bill-account, group_by: [account], sources: [costs], detect: false, role: total}}
    - name: calls
      group_by: [account, usage_type, principal, product, team]
      sources: [costs]
      detect: false
      role: total
  budgets:
    - {{name: day, scope: bill-account, match: {{account: a60}}, amount_usd: 300, period: day, thresholds: [100]}}
"""
_AWS_HEAD = (
    "line_item_usage_start_date,line_item_usage_end_date,line_item_line_item_type,line_item_unblended_cost,"
    "line_item_product_code,line_item_usage_account_id,line_item_currency_code,bill_billing_entity,"
    "line_item_usage_type,line_item_iam_principal,product,resource_tags,line_item_resource_id,"
    "split_line_item_split_cost,split_line_item_unused_cost,split_line_item_parent_resource_id"
)


def day(number: float, usd: float, account: str, **changes: Any) -> dict[str, Any]:
    """A line of FOCUS for the day `number` days before today."""
    start = TODAY - number * DAY_S
    line = focus.line(start, usd, SubAccountId=account, **changes)
    return {**line, "ChargePeriodEnd": changes.get("ChargePeriodEnd", iso(start + DAY_S))}


def put(path: Path, content: bytes, age_s: float = 900.0) -> None:
    """A delivery that is so old, whole at once."""
    part = write(path.parent.parent / "parts" / path.name, content, time.time() - age_s)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)


def export(root: Path, period: str, lines: list[str]) -> None:
    """A report of AWS with its manifest."""
    data = root / "data" / f"BILLING_PERIOD={period}" / "cur-00001.csv.gz"
    put(data, gzip.compress("\n".join([_AWS_HEAD, *lines, ""]).encode()))
    place = f"s3://bill/{root.name}/{data.relative_to(root)}"
    manifest = {"executionId": "e1", "dataFiles": [place]}
    put(root / "metadata" / f"BILLING_PERIOD={period}" / "cur-Manifest.json", json.dumps(manifest).encode())


def charged(usd: float, of: str, kind: str = "", who: str = "", product: str = "", **split: Any) -> str:
    """A line of AWS of yesterday; `split` are its team, its machine, its shares and its parent."""
    start = f"{iso(TODAY - DAY_S)},{iso(TODAY - DAY_S + HOUR_S)}"
    seller = "AWS Marketplace" if product else "AWS"
    texts = [json.dumps(each) if each else "" for each in ({"product_name": product} if product else None,)]
    tags = json.dumps({"user:team": split["team"]}) if "team" in split else ""
    quoted = ['"' + each.replace('"', '""') + '"' if each else "" for each in (*texts, tags)]
    shares = [str(split.get(name, "")) for name in ("machine", "share", "unused", "parent")]
    return ",".join([start, "Usage", str(usd), of, "a-cur", "USD", seller, kind, who, *quoted, *shares])


def google() -> list[dict[str, Any]]:
    """A charge with credits, tax, a charge in euros with its own rate, and one whose time is a number."""
    at = datetime.fromtimestamp(TODAY - 2 * DAY_S, UTC)
    usage = {
        "service": {"id": "6F81", "description": "Compute Engine"},
        "sku": {"description": "A3"},
        "usage_start_time": f"{at:%Y-%m-%d %H:%M:%S} UTC",
        "usage_end_time": f"{at:%Y-%m-%d} 01:00:00 UTC",
        "project": {"id": "a-google", "labels": []},
        "labels": [{"key": "team", "value": "ml"}],
        "location": {"region": "us-central1"},
        "cost": 10.0,
        "currency": "USD",
        "currency_conversion_rate": 1.0,
        "credits": [{"name": "CUD", "amount": -4.0, "type": "COMMITTED_USAGE_DISCOUNT"}, {"name": "F", "amount": 1.0}],
        "invoice": {"month": f"{at:%Y%m}"},
        "cost_type": "regular",
    }
    plain: dict[str, Any] = {**usage, "credits": []}
    euros = {"cost": 2.0, "currency": "EUR", "currency_conversion_rate": 0.8}
    number = {"usage_start_time": str(at.timestamp()), "cost": 1}
    return [usage, plain | {"cost": "1.5", "cost_type": "tax"}, plain | euros, plain | number]


def sixty_days() -> list[dict[str, Any]]:
    """A bill by the day, with a fleet that is forgotten from the tenth day before today on."""
    known = [day(n, 400.0 + 7 * (n % 5), "a60") for n in range(1, 61)]
    return known + [day(n, 9000.0, "a61", ServiceName="Fleet") for n in range(1, 11)]


def prepare(root: Path) -> dict[str, float]:
    """Everything that lies there when the daemon starts; dollars by account."""
    a_day = "%m/%d/%Y"
    days = [f"{datetime.fromtimestamp(TODAY - n * DAY_S, UTC):{a_day}}" for n in (3, 2, 1)]
    head = "Date,CostInBillingCurrency,BillingCurrency,MeterCategory,SubscriptionId,ChargeType,Tags,CostInUsd\n"
    rows = zip(days, ("EUR", "GBP", "EUR"), ("118.00", "121.00", "-9.50"), strict=True)
    euros = "".join(f"{at},100.00,{currency},VM,a-euros,Usage,,{usd}\n" for at, currency, usd in rows)
    put(root / "euros" / "x.csv", (head + euros).encode())
    lines = [day(2, 100.0, "a-rupees"), day(1, 7000.0, "a-rupees", BillingCurrency="INR")]
    put(root / "rupees" / "x.csv", focus.csv_text([*lines, *(day(n, 1.0, "a-rupees") for n in range(3, 20))]))
    put(root / "google" / "x.jsonl", "\n".join(map(json.dumps, google())).encode() + b"\n")
    ahead = {"ChargePeriodStart": iso(NEXT), "ChargeFrequency": "Recurring", "ChargeCategory": "Purchase"}
    prepaid = day(0, 1200.0, "a-ahead", **ahead, ChargePeriodEnd=iso(NEXT + 30 * DAY_S))
    monthly = day(0, 90_000.0, "a-ahead", ChargePeriodStart=iso(BEFORE), ChargePeriodEnd=iso(MONTH))
    put(root / "ahead" / "x.csv", focus.csv_text([prepaid, monthly, day(1, 5.0, "a-ahead")]))
    for name, encoding in (("utf16", "utf-16"), ("latin1", "latin-1")):
        text = focus.csv_text([day(n, 2.2, f"a-{name}", ServiceName="Speicher für") for n in (1, 2, 3)]).decode()
        put(root / name / "x.csv", text.encode(encoding))
    plain = [{**day(n, 2.2, "a-semicolons"), "Tags": ""} for n in (1, 2, 3)]
    put(root / "semicolons" / "x.csv", focus.csv_text(plain).replace(b",", b";"))
    put(root / "python-tags" / "x.csv", focus.csv_text([day(1, 3.0, "a-python-tags", Tags="{'team': 'a'}")]))
    names = ("Abonnement-GUID (SubscriptionGuid)", "UsageDateTime (UsageDateTime)", "Kategorie (MeterCategory)")
    header = ",".join([*names, "PreTaxCost (PreTaxCost)", "Tags (Tags)", "Currency"])
    put(root / "german" / "x.csv", f"{header}\na-german,{iso(TODAY - DAY_S)[:10]},VM,0.075,,USD\n".encode())
    pods = [("a", 1.5, 0.5), ("b", 1.0, 1.0)]
    export(
        root / "cur",
        f"{datetime.fromtimestamp(TODAY - DAY_S, UTC):%Y-%m}",
        [
            charged(0.069, "AmazonBedrock", "USE1-Claude4.6Sonnet-input-tokens", "arn:aws:iam::111122223333:user/al"),
            charged(0.99, "AmazonBedrock", "USE1-Claude4.6Opus-output-tokens", "arn:aws:iam::111122223333:user/bob"),
            charged(55.0, "4h6w1x9q2z7a", "MP:USE1_OutputTokenCount-Units", product="Claude (Bedrock Edition)"),
            charged(4.0, "AmazonEC2", machine="i-0abc"),
            *(
                charged(0, "AmazonEKS", team=team, machine=f"pod/{team}", share=share, unused=unused, parent="i-0abc")
                for team, share, unused in pods
            ),
        ],
    )
    put(root / "sixty-days" / "x.csv", focus.csv_text(sixty_days()))
    by_account = {f"a-{name}": 6.6 for name in ("utf16", "latin1", "semicolons")}
    return by_account | {
        "a-euros": 229.5,
        "a-rupees": 117.0,
        "a-google": 10 - 3 + 1.5 + 2.0 / 0.8 + 1,
        "a-ahead": 91_205.0,
        "a-python-tags": 3.0,
        "a-german": 0.075,
        "a-cur": 60.059,
        "a60": sum(400.0 + 7 * (n % 5) for n in range(1, 61)),
        "a61": 90_000.0,
    }


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[tuple[Daemon, dict[str, float]]]:
    """A daemon that reads all of these bills, and what they come to."""
    expected, port, config = prepare(tmp_path), free_port(), tmp_path / "curb.yaml"
    connectors = []
    for name in _FILES:
        more = ", dimensions: [service, account, region, usage_type, principal, product]" if name == "cur" else ""
        url = f"{tmp_path}/{name}{'/*.jsonl' * (name == 'google')}"
        of = f"kind: {_KINDS.get(name, 'focus_file')}, name: {name}, url: '{url}', poll_interval_s: 0.5"
        connectors.append(f"  - {{{of}{more}}}")
    config.write_text(_CONFIG.format(directory=tmp_path, port=port, connectors="\n".join(connectors)))
    daemon = Daemon(config, port)
    await daemon.start(ready_s=120)
    yield daemon, expected
    await daemon.end()


async def spent(daemon: Daemon, expected: dict[str, float], by: str = "account", scope: str = "bill-account") -> None:
    """Wait until these have their dollars."""
    found: dict[str, float] = {}
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        rows = await curb_json("spend", "--scope", scope, "-c", str(daemon.config))
        found = {}
        for row in rows:
            found[row["tags"][by]] = found.get(row["tags"][by], 0.0) + row["total_usd"]
        if {key: found.get(key) for key in expected} == pytest.approx(expected):
            return
        await asyncio.sleep(0.5)
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)


async def alert(daemon: Daemon, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one alert of this kind, once there is one."""
    async with asyncio.timeout(150):
        while True:
            found = [each for each in await curb_json("alerts", "-c", str(daemon.config)) if wanted(each)]
            if found:
                (one,) = found
                return one
            await asyncio.sleep(0.5)


@pytest.mark.timeout(600)
async def test_what_clouds_export_has_its_right_dollars_once(started: tuple[Daemon, dict[str, float]]) -> None:
    daemon, expected = started
    await spent(daemon, expected)
    calls = {"USE1-Claude4.6Sonnet-input-tokens": 0.069, "USE1-Claude4.6Opus-output-tokens": 0.99}
    await spent(daemon, calls, "usage_type", "calls")
    await spent(daemon, {"arn:aws:iam::111122223333:user/al": 0.069}, "principal", "calls")
    await spent(daemon, {"Claude (Bedrock Edition)": 55.0}, "product", "calls")
    # Pods have what their machine cost, by their tags.
    await spent(daemon, {"a": 2.0 + 3.0, "b": 2.0}, "team", "calls")
    # A fleet that goes on at the end of the first load; what it cost is known up to two days ago or less.
    fleet = await alert(daemon, lambda each: each["kind"] == "runaway")
    assert fleet["tags"] == {"provider": "AWS", "account": "a61", "service": "Fleet"}
    assert 8 * 9000 <= fleet["actual_usd"] <= 10 * 9000
    assert "$9,000.00 a day" in fleet["explanation"]
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{daemon.url}/v1/forecast?scope=bill-account") as answer:
            rows = {row["tags"]["account"]: row for row in (await answer.json())["rows"]}
    assert rows["a60"]["forecast_usd"] == pytest.approx(414, rel=0.1)  # a day, as its budget
    assert sum(rows["a61"]["past_usd"]) >= 8 * 9000
    # The budget of a day was passed on the last two days that are billed.
    await alert(daemon, lambda each: each["kind"] == "budget" and each["actual_usd"] == pytest.approx(407.0))
    await alert(daemon, lambda each: each["kind"] == "budget" and each["actual_usd"] == pytest.approx(414.0))
    code, out = await curb("connectors", "check", "euros", "-c", str(daemon.config))
    assert (code, "FAIL" in out) == (0, False)


@pytest.mark.timeout(600)
async def test_deliveries_that_would_count_wrong_are_refused_and_said(
    started: tuple[Daemon, dict[str, float]], tmp_path: Path
) -> None:
    daemon, _ = started
    shifting = tmp_path / "shifting" / "x.csv"
    good = [day(n, 100.0, "a-shifting") for n in range(1, 11)]
    put(shifting, focus.csv_text(good), 800)
    period = f"{datetime.fromtimestamp(BEFORE, UTC):%Y%m%d}-{datetime.fromtimestamp(MONTH - DAY_S, UTC):%Y%m%d}"
    runs, lines = azure.Export(tmp_path / "runs"), [azure.line(BEFORE + n * DAY_S, 10.0 * (n + 1)) for n in range(3)]
    lines = [{**each, "SubscriptionId": "a-runs"} for each in lines]
    runs.deliver(lines[:2], period, time.time() - 800)
    await spent(daemon, {"a-shifting": 1000.0, "a-runs": 30.0})

    # Dates in words that nobody knows, and days of the month again in another folder.
    odd = [{**each, "ChargePeriodStart": "soon", "ChargePeriodEnd": "soon"} for each in good]
    put(shifting, focus.csv_text([*odd, odd[0]]), 700)
    later = f"{datetime.fromtimestamp(BEFORE + DAY_S, UTC):%Y%m%d}-{datetime.fromtimestamp(MONTH, UTC):%Y%m%d}"
    runs.deliver(lines[:2], later, time.time() - 700)
    refused = await alert(daemon, lambda each: each["kind"] == "feed" and "lines cannot be read" in each["explanation"])
    assert str(shifting) in refused["explanation"]
    twice = await alert(daemon, lambda each: each["kind"] == "feed" and "count them twice" in each["explanation"])
    assert later in twice["explanation"]

    # A row that was cut costs one row; a run that is whole again goes on.
    put(shifting, focus.csv_text([*good, day(11, 100.0, "a-shifting")]) + b"12,USD\n", 600)
    runs.deliver(lines, period, time.time() - 600)
    await spent(daemon, {"a-shifting": 1100.0, "a-runs": 60.0})
    # A header alone is no bill of nothing.
    put(shifting, focus.csv_text(good).split(b"\n")[0] + b"\n", 500)
    await alert(daemon, lambda each: each["kind"] == "feed" and "holds no charge" in each["explanation"])
    await spent(daemon, {"a-shifting": 1100.0, "a-runs": 60.0})

    # Two exports side by side are refused before anything of them counts.
    for name in ("first", "second"):
        export(tmp_path / "both" / name, f"{datetime.fromtimestamp(TODAY - DAY_S, UTC):%Y-%m}", [charged(4.0, "EC2")])
    config = tmp_path / "both.yaml"
    config.write_text(f"connectors:\n  - {{kind: aws_cur, name: both, url: {tmp_path}/both}}\n")
    code, out = await curb("connectors", "check", "both", "-c", str(config))
    assert code == 1
    assert "holds more than one export, give the folder of one: first, second" in " ".join(out.split())
