"""What finance gets adds up to what was sent: the log of a daemon that took some thousand calls and a bill in euros, by
team, as CSV and as FOCUS, in time zones whose months begin at other moments."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest
import yaml
from typer.testing import CliRunner

from curb.cli.main import app
from curb.stream.records.spend import UNTAGGED
from curb.stream.time import DAY_S, HOUR_S, period_around
from tests.acceptance.daemons import Daemon, curb_json
from tests.fakes.focus_file import csv_text, line
from tests.ports import free_port

TOKEN = "ingest-token"
CENT = Decimal("0.01")
#: The first moment of the last full month, and of this one, UTC.
START, END = period_around(period_around(time.time(), "month", ZoneInfo("UTC"))[0] - 1, "month", ZoneInfo("UTC"))
MIDDLE = datetime.fromtimestamp((START + END) / 2, UTC)
#: Ahead of UTC by half an hour more than whole hours, behind it, and without summer time.
ZONES = ("Asia/Kolkata", "America/Los_Angeles", "UTC")
TEAMS = ("search", "support", "ads", "growth", "")
EUR = Decimal("1.09")
#: When (epoch seconds), whose, and dollars.
Charge = tuple[float, str, Decimal]


def calls() -> tuple[list[dict[str, Any]], list[Charge]]:
    """Calls of two months, most of them near the edge of a month in one of the zones, some of nobody or of a shared
    cluster, some sent twice; and each charge once."""
    rng = random.Random(17)
    newest = min(END + DAY_S, time.time() - 60)
    lines, charges = [], []
    for number in range(4000):
        edge = rng.choice((START, END)) + rng.uniform(-15, 15) * HOUR_S
        at = min(edge if number % 2 else rng.uniform(START - DAY_S, newest), newest)
        team, usd = rng.choice(TEAMS), Decimal(rng.randrange(1, 3_000_000)).scaleb(-6)
        tags = {"api_key": f"key-{number % 40}"}
        if number % 20 == 0:
            tags["namespace"], team = "shared", ""
        elif team:
            tags["team"] = team
        lines.append({"id": f"call-{number}", "charge_period_start": at, "effective_cost": float(usd), "tags": tags})
        charges.append((at, tags.get("namespace", team), usd))
    return lines + lines[::37], charges


def bill() -> tuple[bytes, list[Charge]]:
    """Hours of a bill in euros around the edges of the month, with a credit."""
    lines, charges = [], []
    for number in range(60):
        at = (START if number % 2 else END) - 20 * HOUR_S + number // 2 * HOUR_S
        euros = Decimal(number * 7 + 3).scaleb(-2) * (-1 if number == 9 else 1)
        team = ("search", "ads")[number % 4 // 2]
        more = {"BillingCurrency": "EUR", "Tags": json.dumps({"team": team})}
        lines.append(line(at, float(euros), **more))
        charges.append((at, team, euros * EUR))
    return csv_text(lines), charges


def expected(charges: list[Charge], zone: str) -> dict[str, Decimal]:
    """Dollars of the month by team, with what the shared cluster cost by what each team spent itself."""
    month = period_around((START + END) / 2, "month", ZoneInfo(zone))
    found: dict[str, Decimal] = defaultdict(Decimal)
    for at, team, usd in charges:
        if month[0] <= at < month[1]:
            found[team] += usd
    shared = found.pop("shared", Decimal(0))
    own = sum(usd for team, usd in found.items() if team)
    return {team or UNTAGGED: usd + (shared * usd / own if team else 0) for team, usd in found.items()}


@pytest.fixture
async def log(tmp_path: Path) -> tuple[Path, list[Charge], list[Charge]]:
    """The configuration of a daemon that was sent everything and has stopped; what was estimated, and what billed."""
    port, (text, billed), (lines, estimated) = free_port(), bill(), calls()
    (tmp_path / "bill.csv").write_bytes(text)
    os.utime(tmp_path / "bill.csv", (END, END))
    settings = {
        "log": {"kind": "embedded", "directory": str(tmp_path / "log")},
        "http": {"port": port},
        "commit_interval_s": 0.1,
        "connectors": [
            {"kind": "usage_jsonl", "name": "meter", "token": TOKEN},
            {"kind": "focus_file", "name": "vendor", "url": str(tmp_path / "bill.csv"), "usd_per": {"EUR": float(EUR)}},
        ],
        "detector": {"max_age_days": 90},
        "attribution": {"shared_costs": [{"name": "cluster", "match": {"namespace": "shared"}, "tags": ["team"]}]},
    }
    config = tmp_path / "curb.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    daemon = Daemon(config, port)
    await daemon.start(ready_s=120)
    try:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            for at in range(0, len(lines), 500):
                body = "".join(json.dumps(each) + "\n" for each in lines[at : at + 500])
                async with http.post(f"{daemon.url}/v1/ingest/meter", data=body) as answer:
                    assert answer.status == 200, await answer.text()
        async with asyncio.timeout(120):
            while await billed_lines(config) < len(billed):
                pass  # the bill is read in a lane of its own
        assert await daemon.stop() == 0
    finally:
        await daemon.end()
    return config, estimated, billed


async def billed_lines(config: Path) -> int:
    """Records of the bill on the log."""
    (vendor,) = (row for row in await curb_json("connectors", "list", "-c", str(config)) if row["name"] == "vendor")
    return int(vendor["records"])


async def report(config: Path, form: str, *arguments: str) -> str:
    """What `curb report` writes."""
    out = config.with_name(f"report.{form}")
    asked = ["report", "-c", str(config), "--format", form, "--out", str(out), *arguments]
    result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    assert result.exit_code == 0, result.output
    return out.read_bytes().decode()


def by_team(rows: Iterable[tuple[str, str]]) -> dict[str, Decimal]:
    """Dollars of each team, to the cent."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for team, usd in rows:
        found[team] += Decimal(usd)
    return {team: usd.quantize(CENT) for team, usd in found.items()}


async def test_the_month_by_team_is_what_was_sent_in_every_time_zone(
    log: tuple[Path, list[Charge], list[Charge]],
) -> None:
    config, estimated, billed = log
    for zone in ZONES:
        given = yaml.safe_load(config.read_text(encoding="utf-8"))
        given["detector"]["time_zone"] = zone
        in_zone = config.with_name("zone.yaml")
        in_zone.write_text(yaml.safe_dump(given), encoding="utf-8")
        days = ("--from", f"{MIDDLE:%Y-%m}-01")
        for money in ("estimated", "both"):
            asked = (*days, "--by", "team", "--money", money)
            wanted = Counter(expected(estimated, zone))
            if money == "both":
                wanted.update(expected(billed, zone))
            total = sum(wanted.values(), Decimal(0)).quantize(CENT)
            cents = {team: usd.quantize(CENT) for team, usd in wanted.items()}
            groups = list(csv.DictReader(io.StringIO(await report(in_zone, "csv", *asked), newline="")))
            assert by_team((row["team"], row["spend_usd"]) for row in groups) == cents, (zone, money)
            lines = list(csv.DictReader(io.StringIO(await report(in_zone, "focus", *asked), newline="")))
            teams = ((json.loads(row["Tags"]).get("team", UNTAGGED), row["EffectiveCost"]) for row in lines)
            assert by_team(teams) == cents, (zone, money)
            assert sum(Decimal(row["EffectiveCost"]) for row in lines).quantize(CENT) == total
            said = json.loads(await report(in_zone, "json", *asked))
            assert Decimal(said["total"]["spend_usd"]).quantize(CENT) == total
            assert len({row["ChargePeriodStart"] for row in lines}) == len(said["days"]) - sum(
                not day["spend_usd"] for day in said["days"]
            )
    await months_add_up(config, estimated)


async def months_add_up(config: Path, estimated: list[Charge]) -> None:
    """To what the log holds: no charge falls between two months, or is in both."""
    sent = sum((usd for _, _, usd in estimated), Decimal(0))
    rows = await curb_json("spend", "--by", "team", "-c", str(config))
    assert Decimal(math.fsum(row["total_usd"] for row in rows)).quantize(CENT) == sent.quantize(CENT)
    months = []
    for shift in (-20, 0, 20):
        first = (MIDDLE + timedelta(days=shift)).strftime("%Y-%m-01")
        text = await report(config, "csv", "--from", first, "--by", "team,api_key")
        months += [Decimal(row["spend_usd"]) for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert sum(months).quantize(CENT) == sent.quantize(CENT)
