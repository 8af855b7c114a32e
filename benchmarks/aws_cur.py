"""How fast and how small a month of a Cost and Usage Report is taken: rows per CPU second, against a plain read.

Writes a synthetic month in Parquet into a temporary folder, reads its columns with nothing but pyarrow, takes it as
the connector does, delivers it again with 1 % of its rows changed, and prints each in turn.

    python -m benchmarks.aws_cur [ROWS] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curb.connectors.bills.aws_cur import Config, deliveries
from curb.connectors.bills.bill import Bill
from curb.connectors.bills.cells.rates import CurrencyRates
from curb.connectors.bills.cur import CUR
from curb.connectors.bills.files import BillFiles, Storage
from curb.connectors.bills.guard import LineCounts
from curb.connectors.bills.lines import BillLines
from curb.connectors.bills.restate import Restater
from curb.connectors.connector import Context
from curb.connectors.decode import Letters
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import ManualClock

MONTH = 1_790_812_800  # 2026-10-01
NOW = MONTH + 32 * 86_400
PART_ROWS, GROUP_ROWS = 1_000_000, 250_000
SERVICES = [f"Amazon{name}" for name in ("EC2", "S3", "RDS", "SageMaker", "Bedrock", "EKS", "DynamoDB", "Lambda")]
TYPES = ["Usage", "DiscountedUsage", "SavingsPlanCoveredUsage", "SavingsPlanNegation", "Tax", "Credit", "RIFee", "Fee"]


def part(rows: int, seed: int, changed: float) -> pa.Table:
    """One file of the month; `changed` is the share of its rows that cost 10 % more."""
    rng, restated = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    start = (MONTH + rng.integers(0, 31 * 24, rows) * 3600) * 1000
    usd = np.round(rng.lognormal(-4, 2, rows), 10)
    usd[restated.random(rows) < changed] *= 1.1

    resource = rng.integers(0, 20_000, rows)
    account = resource % 30

    def texts(values: list[str], of: np.ndarray | None = None, weights: list[float] | None = None) -> pa.Array:
        """Resources belong to one account, service and team for good; what is not `of` something is drawn."""
        numbers = rng.choice(len(values), rows, p=weights) if of is None else of % len(values)
        return pa.DictionaryArray.from_arrays(numbers.astype(np.int32), values).cast(pa.string())

    offsets = np.arange(0, 3 * rows + 1, 3, dtype=np.int32)
    keys = pa.DictionaryArray.from_arrays(
        np.tile(np.arange(3, dtype=np.int32), rows), ["user_team", "user_env", "aws_created_by"]
    )
    values = pa.DictionaryArray.from_arrays(
        np.stack([account, resource % 2, resource % 7], 1).ravel().astype(np.int32), [f"value-{n}" for n in range(40)]
    )
    return pa.table(
        {
            "identity_line_item_id": pa.array(rng.integers(0, 2**62, rows)).cast(pa.string()),
            "line_item_usage_start_date": pa.array(start, pa.timestamp("ms")),
            "line_item_usage_end_date": pa.array(start + 3_600_000, pa.timestamp("ms")),
            "line_item_usage_account_id": texts([f"{n:012d}" for n in range(30)], account),
            "line_item_product_code": texts(SERVICES, resource // 30),
            "line_item_line_item_type": texts(TYPES, None, [0.7, 0.1, 0.1, 0.05, 0.02, 0.01, 0.01, 0.01]),
            "line_item_usage_type": texts([f"USW2-Type-{n}" for n in range(500)]),
            "line_item_resource_id": texts([f"i-{n:017x}" for n in range(20_000)], resource),
            "line_item_currency_code": texts(["USD"]),
            "line_item_unblended_cost": usd,
            "reservation_effective_cost": usd * 0.6,
            "savings_plan_savings_plan_effective_cost": usd * 0.7,
            "resource_tags": pa.MapArray.from_arrays(offsets, keys.cast(pa.string()), values.cast(pa.string())),
        }
    )


def deliver(root: Path, rows: int, version: str, changed: float = 0.0) -> None:
    """Write the whole month as a new assembly, then its manifest."""
    folder = root / "data" / "BILLING_PERIOD=2026-10" / version
    folder.mkdir(parents=True)
    names = []
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        path = folder / f"cur-{number:05d}.snappy.parquet"
        pq.write_table(part(min(PART_ROWS, rows - first), number, changed), path, row_group_size=GROUP_ROWS)
        names.append(f"s3://bucket/prefix/{root.name}/{path.relative_to(root)}")
    manifest = root / "metadata" / "BILLING_PERIOD=2026-10" / version / "cur-Manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"executionId": version, "dataFiles": names}))


def plain_read(root: Path) -> int:
    """Rows, read with nothing but pyarrow: the same columns of the same files."""
    files, rows = BillFiles(str(root), Storage.model_validate({})), 0
    lines = BillLines(CUR, list(CUR.texts), {"team": "team", "env": "env"}, CurrencyRates({}))
    for file in files.list():
        if file.path.endswith(".parquet"):
            names = lines.choose(pq.read_schema(file.path).names)
            with pq.ParquetFile(file.path) as opened:
                for batch in opened.iter_batches(65_536, columns=names, use_threads=False):
                    rows += len(batch)
    return rows


async def take(bill: Bill, cursor: str | None) -> tuple[int, float, str | None]:
    """Records and dollars told until nothing is new, and the cursor."""
    records, usd, more = 0, 0.0, True
    while more:
        batch = await bill.read(cursor)
        records, usd = records + len(batch.records), usd + sum(record.effective_cost for record in batch.records)
        cursor, more = batch.cursor, batch.more
    return records, usd, cursor


def seconds() -> Iterator[float]:
    """CPU seconds since the last time it was asked."""
    last = time.process_time()
    while True:
        now = time.process_time()
        yield now - last
        last = now


def run(root: Path, state: Path, rows: int) -> None:
    """One round: plain read, first delivery, the same again with 1 % changed."""
    given = {"kind": "aws_cur", "name": "bench", "url": str(root), "tag_keys": {"team": "team", "env": "env"}}
    config = Config.model_validate(given)
    context = Context(ManualClock(NOW), cast(aiohttp.ClientSession, None), PriceBook.load(), state)
    bill = config.build(context).connector
    spent = seconds()
    next(spent)
    assert plain_read(root) == rows
    plain = next(spent)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keys = sum(
        1
        for _ in bill.charges(
            deliveries(BillFiles(str(root), Storage.model_validate({})), 12, context.clock)[0][0],
            Letters("", 0),
            LineCounts(),
        )
    )
    parsed = next(spent)
    told, usd, cursor = asyncio.run(take(bill, None))
    taken = next(spent)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"plain read {rows / plain:,.0f} rows/s | parsed {rows / parsed:,.0f} rows/s, ratio {plain / parsed:.2f} | "
        f"parsed, compared and told {rows / taken:,.0f} rows/s | {keys:,} keys, {told:,} records, ${usd:,.2f} | "
        f"peak {peak_kib / 1024:.0f} MiB (before: {before_kib / 1024:.0f})"
    )
    print(f"cursor {len(cursor or '')} bytes, state {sum(f.stat().st_size for f in state.iterdir()) / 2**20:.1f} MiB")
    deliver(root, rows, "v2", changed=0.01)
    next(spent)
    changed, _, cursor = asyncio.run(take(bill, cursor))
    print(f"again with 1 % of rows changed: {changed:,} deltas, {rows / next(spent):,.0f} rows/s")
    asyncio.run(bill.close())
    store = Restater(state / "bench.sqlite", "bench", context.clock)
    print(f"total now ${store.total('2026-10')[0]:,.2f}, lag taken for {store.lag_s / 3600:.0f} h")
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory) / "cur"
            # Made in a process of its own, so that what it takes is not counted as what reading takes.
            child = os.fork()
            if child == 0:
                deliver(root, arguments.rows, "v1")
                os._exit(0)
            os.waitpid(child, 0)
            run(root, Path(directory) / "state", arguments.rows)


if __name__ == "__main__":
    main()
