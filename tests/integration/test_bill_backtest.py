"""`curb backtest` on a bill: deliveries in folders, through the connector, the lane and the budgets."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curb.cli.main import app

START = datetime(2026, 6, 1, tzinfo=UTC)
COLUMNS = [
    "BilledCost", "EffectiveCost", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory",
    "ChargePeriodStart", "ChargePeriodEnd", "ProviderName", "RegionId", "ServiceName", "SubAccountId",
]  # fmt: skip
CONFIG = """
connectors:
  - {kind: focus_file, name: bill, url: "somewhere/else/*.csv"}
detector:
  scopes:
    - {name: bill, group_by: [provider, account, service], sources: [costs]}
    - {name: origin, group_by: [provider, account, service, region], sources: [costs], detect: false, role: origin}
    - {name: account, group_by: [account], sources: [costs], detect: false, role: total}
  budgets:
    - {name: a-day, scope: account, amount_usd: 1000, period: day, thresholds: [100]}
"""


def line(day: datetime, service: str, account: str, usd: float) -> dict[str, Any]:
    month = day.replace(day=1)
    return dict(
        zip(
            COLUMNS,
            [
                usd, usd, "USD", month.isoformat(), (month + timedelta(days=32)).replace(day=1).isoformat(), "Usage",
                day.isoformat(), (day + timedelta(days=1)).isoformat(), "AWS", "eu-west-1", service, account,
            ],
            strict=True,
        )
    )  # fmt: skip


def deliver(directory: Path, days: int, fleet_day: int) -> None:
    """Each morning the month so far, by the day."""
    for last in range(1, days + 1):
        at = START + timedelta(days=last, hours=6)
        folder = directory / at.strftime("%Y-%m-%dT%H-%M-%SZ")
        folder.mkdir(parents=True)
        with (folder / "june.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for number in range(last):
                day = START + timedelta(days=number)
                writer.writerow(line(day, "Compute", "a1", 400 + 7 * (number % 5)))
                writer.writerow(line(day, "Storage", "a2", 60 + number % 3))
                if number >= fleet_day:
                    writer.writerow(line(day, "Compute", "a3", 9000))


def backtest(directory: Path, config: str, tmp_path: Path) -> tuple[int, str, list[dict[str, Any]]]:
    path, out = tmp_path / "curb.yaml", tmp_path / "alerts.jsonl"
    path.write_text(config)
    answer = CliRunner().invoke(app, ["backtest", str(directory), "-c", str(path), "--out", str(out)])
    alerts = [json.loads(each) for each in out.read_text().splitlines()] if out.exists() else []
    return answer.exit_code, answer.output, alerts


@pytest.mark.timeout(300)
def test_a_fleet_is_found_with_the_delivery_that_shows_its_first_day(tmp_path: Path) -> None:
    deliver(tmp_path / "bill", 20, fleet_day=14)
    code, output, alerts = backtest(tmp_path / "bill", CONFIG, tmp_path)
    assert code == 0, output
    (fleet,) = [each for each in alerts if each["kind"] == "runaway"]
    assert fleet["tags"] == {"provider": "AWS", "account": "a3", "service": "Compute", "region": "eu-west-1"}
    assert fleet["tier"] == "page"
    assert fleet["fired_at"] < "2026-06-18"
    budgets = [each for each in alerts if each["kind"] == "budget"]
    # Every day of the fleet is over, and each is said once, though all are read the day after.
    assert len(budgets) == 6
    assert {round(each["actual_usd"]) for each in budgets} == {9000}


def test_deliveries_without_a_bill_in_the_configuration_are_refused(tmp_path: Path) -> None:
    deliver(tmp_path / "bill", 2, fleet_day=9)
    code, output, _ = backtest(tmp_path / "bill", "detector: {}\n", tmp_path)
    assert code == 2
    assert "exactly one connector that reads a bill" in output
