"""`curb reconcile`: estimated and billed dollars per pair of sources, and the expected bill."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb import wiring
from curb.cli import common as asking
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.log.topics import RECONCILED
from curb.stream.money import usd
from curb.stream.records.reconciliation import Reconciliation
from curb.views.reconciliation import reconciliation_rows


def reconcile(
    config: ConfigOption = DEFAULT_CONFIG,
    days: Annotated[
        bool, typer.Option("--days", help="Every compared day instead of the newest days together.")
    ] = False,
    json_lines: JsonOption = False,
) -> None:
    """Compare estimated and billed dollars per pair of sources: capture ratio, its bounds, expected bill.

    Reads the log, with the daemon up or down.
    """
    loaded = asking.load_figures(config)
    found = asking.ask(_read(loaded, days=days))
    shown = reconciliation_rows(found, loaded.reconcile)
    if json_lines:
        for row in shown:
            print(msgspec.json.encode(row).decode())
        return
    console = Console()
    if not shown:
        missing = "" if loaded.reconcile.pairs else ": no pair is configured (reconcile.pairs)"
        console.print(f"nothing is reconciled yet{missing}")
        return
    console.print(_table(shown))
    if not days and any("expected_bill_usd" in row for row in shown):
        console.print("  not billed yet: estimates since then, times the ratio, with its bounds")


async def _read(config: CurbConfig, *, days: bool) -> list[Reconciliation]:
    async with wiring.open_log(config, WallClock()) as log:
        table = await log.table(RECONCILED)
    wanted = [value for key, value in sorted(table.items()) if (b"/" in key) == days]
    return [msgspec.json.decode(value, type=Reconciliation) for value in wanted]


def _table(shown: list[dict[str, Any]]) -> Table:
    table = Table(title="Estimated and billed", title_justify="left", header_style="bold")
    for name in ("pair", "days (UTC)", "$ estimated", "$ billed", "ratio", "90 % bounds", "$ not billed yet", "$ bill"):
        table.add_column(name, justify="left" if name in ("pair", "days (UTC)") else "right")
    for row in shown:
        ratio, low, high = row.get("ratio"), row.get("ratio_low"), row.get("ratio_high")
        bill = row.get("expected_bill_usd")
        table.add_row(
            Text(row["pair"]),
            f"{row['from'][:10]} + {row['days']}",
            usd(row["estimated_usd"]),
            usd(row["billed_usd"]),
            "-" if ratio is None else f"{ratio:.3f}",
            "-" if low is None or high is None else f"{low:.3f} to {high:.3f}",
            usd(row.get("open_usd", 0.0)),
            "" if bill is None else _between(row),
        )
    return table


def _between(row: dict[str, Any]) -> str:
    low, high = row["expected_bill_low_usd"], row["expected_bill_high_usd"]
    return f"{usd(row['expected_bill_usd'])} ({usd(low)} to {usd(high)})"
