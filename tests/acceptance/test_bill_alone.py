"""Someone who only has a bill, set up as documented: every dollar of two months counts, and a fleet is found."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest

from curb.stream.time import DAY_S
from tests.acceptance.daemons import Daemon, curb_json
from tests.fakes import bill_months
from tests.fakes import focus_file as focus
from tests.fakes.bills import write
from tests.ports import free_port

_DAYS, _FLEET_DAY = 60, 50
_CONFIG = """
log: {{directory: {root}/data}}
state_dir: {root}/state
http: {{port: {port}}}
connectors:
  - {{kind: focus_file, name: aws-bill, url: "{root}/bill/*.csv"}}
detector:
{detector}
"""
#: What the scopes are, and the scope whose series add up to the bill.
_SETUPS = {
    # No scope is configured: those for bills are added.
    "smallest": ("  budgets: [{name: each-team, scope: team, amount_usd: 2000}]", "bill-account"),
    "own scopes": (
        """
  scopes:
    - {name: bill, group_by: [account, service], sources: [costs]}
    - {name: account, group_by: [account], sources: [costs], detect: false, role: total}
  budgets:
    - {name: account-month, scope: account, amount_usd: 30000}
    - {name: account-day, scope: account, amount_usd: 1500, period: day}
""",
        "account",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("setup", list(_SETUPS))
async def test_every_dollar_of_sixty_days_counts_and_the_fleet_is_one_alert(tmp_path: Path, setup: str) -> None:
    detector, scope = _SETUPS[setup]
    first = (time.time() // DAY_S - _DAYS) * DAY_S
    lines = list(bill_months.bill(first, _DAYS, fleet_day=_FLEET_DAY))
    for month, of in bill_months.by_month(lines).items():
        write(tmp_path / "bill" / f"focus-{month}.csv", focus.csv_text(of), time.time() - 900)
    port, config = free_port(), tmp_path / "curb.yaml"
    config.write_text(_CONFIG.format(root=tmp_path, port=port, detector=detector))
    daemon = Daemon(config, port)
    await daemon.start(ready_s=120)
    try:
        total = math.fsum(line["EffectiveCost"] for line in lines)
        found, rows, status = await _judged(config, scope, total)
    finally:
        await daemon.end()
    assert math.fsum(row["total_usd"] for row in rows) == pytest.approx(total, abs=0.005)
    by_account = {row["tags"]["account"]: row["total_usd"] for row in rows}
    for account in ("a-prod", "a-search", "a-ml"):
        of = math.fsum(line["EffectiveCost"] for line in lines if line["SubAccountId"] == account)
        assert by_account[account] == pytest.approx(of, abs=0.005)
    # Nothing was refused as too old, and nothing else was lost.
    (feed,) = status["feeds"]
    day = feed["last_24_h"]
    assert (day["refused"], day["ignored"], day["lost_percent"]) == ({}, {}, 0)
    assert day["counted"] == day["received"]
    # The fees, the purchases and the corrections are no anomaly; the fleet is one, by its service and account.
    assert {**found["tags"], "account": bill_months.FLEET_ACCOUNT, "service": "Compute"} == found["tags"]
    assert f"${24 * bill_months.FLEET_USD_PER_HOUR:,.0f}"[:4] in found["explanation"]
    # What becomes of the bill is said, and how far it is judged; not what needs usage.
    promised, known = status["notes"]["aws-bill"]
    assert "alerts only, never an action" in promised
    assert "complete up to" in known
    assert status["judged"] == []
    assert ("nothing will count in budget each-team" in status["problems"].get("bills", "")) == (setup == "smallest")


async def _judged(config: Path, scope: str, usd: float) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The one alert that is no budget's, the spend, and the status, once there is one and all dollars are counted."""
    async with asyncio.timeout(150):
        while True:
            found = [each for each in await curb_json("alerts", "-c", str(config)) if each["kind"] != "budget"]
            (status,) = await curb_json("status", "-c", str(config))
            counted_usd = math.fsum(each["last_24_h"]["counted_usd"] for each in status["feeds"])
            if found and counted_usd == pytest.approx(usd, abs=0.005):
                (one,) = found
                return one, await curb_json("spend", "--scope", scope, "-c", str(config)), status
            await asyncio.sleep(0.5)
