"""AWS Data Exports: writes deliveries of a Cost and Usage Report into a folder, in every layout and form."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KIND = "aws_cur"
#: CUR 2.0 name → name in a legacy CSV report.
LEGACY = {
    "line_item_usage_start_date": "lineItem/UsageStartDate",
    "line_item_usage_end_date": "lineItem/UsageEndDate",
    "line_item_usage_account_id": "lineItem/UsageAccountId",
    "line_item_product_code": "lineItem/ProductCode",
    "line_item_line_item_type": "lineItem/LineItemType",
    "line_item_currency_code": "lineItem/CurrencyCode",
    "line_item_unblended_cost": "lineItem/UnblendedCost",
    "reservation_effective_cost": "reservation/EffectiveCost",
    "savings_plan_savings_plan_effective_cost": "savingsPlan/SavingsPlanEffectiveCost",
}


DATES = ("line_item_usage_start_date", "line_item_usage_end_date")


def line(start: float, usd: float, **changes: Any) -> dict[str, Any]:
    """One line of CUR 2.0; times are epoch seconds."""
    return {
        "line_item_usage_start_date": start,
        "line_item_usage_end_date": start + 3600,
        "line_item_usage_account_id": "111122223333",
        "line_item_product_code": "AmazonEC2",
        "line_item_line_item_type": "Usage",
        "line_item_currency_code": "USD",
        "line_item_unblended_cost": usd,
        "reservation_effective_cost": None,
        "savings_plan_savings_plan_effective_cost": None,
        "resource_tags": {"user_team": "search"},
        **changes,
    }


class Export:
    """One export in `root`. `layout`: "overwrite", "new" (one folder per delivery) or "legacy" (with assemblies)."""

    def __init__(self, root: Path, layout: str = "new", form: str = "parquet", url: str = "s3://bill") -> None:
        self.root, self.layout, self.form, self.url = root, layout, form, url
        self.deliveries = 0

    def deliver(self, lines: list[dict[str, Any]], period: str = "2025-06", at: float | None = None) -> Path:
        """Write the period's data and then its manifest; the manifest's path. `at` is when (epoch seconds)."""
        self.deliveries += 1
        name = f"2025-delivery-{self.deliveries}"
        data, manifest = self.places(period, name)
        file = data / f"cur-00001.{'snappy.parquet' if self.form == 'parquet' else 'csv.gz'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(parquet(lines) if self.form == "parquet" else csv_gz(lines, legacy=self.layout == "legacy"))
        key = f"{self.root.name}/{file.relative_to(self.root)}"
        content: dict[str, Any] = (
            {"assemblyId": name, "reportKeys": [key]}
            if self.layout == "legacy"
            else {"executionId": name, "dataFiles": [f"{self.url}/{key}"]}
        )
        manifest.write_text(json.dumps(content))
        for path in (file, manifest):
            if at is not None:
                os.utime(path, (at, at))
        return manifest

    def places(self, period: str, name: str) -> tuple[Path, Path]:
        """Folder of the data, and the manifest."""
        if self.layout == "legacy":
            year, month = int(period[:4]), int(period[5:])
            days = f"{year}{month:02d}01-{year + month // 12}{month % 12 + 1:02d}01"
            return self.root / days / name, self.root / days / "cur-Manifest.json"
        folder = f"BILLING_PERIOD={period}" + ("" if self.layout == "overwrite" else f"/{name}")
        return self.root / "data" / folder, self.root / "metadata" / folder / "cur-Manifest.json"


def parquet(lines: list[dict[str, Any]]) -> bytes:
    """The lines as Data Exports write them: times as timestamps, tags as a map."""
    names = list(lines[0])
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [each[name] for each in lines]
        if name in DATES:
            columns[name] = pa.array([int(value * 1000) for value in values], pa.timestamp("ms"))
        elif name in ("resource_tags", "product"):
            columns[name] = pa.array([list(value.items()) for value in values], pa.map_(pa.string(), pa.string()))
        else:
            number = name.endswith("cost") or any(isinstance(value, float) for value in values)
            columns[name] = pa.array(values, pa.float64() if number else pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def csv_gz(lines: list[dict[str, Any]], *, legacy: bool) -> bytes:
    """The lines as CSV: tags as JSON, or in legacy reports a column each."""
    text = io.StringIO()
    rows = [_flat(each, legacy) for each in lines]
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return gzip.compress(text.getvalue().encode())


def _flat(line: dict[str, Any], legacy: bool) -> dict[str, Any]:
    row = {name: rfc3339(value) if name in DATES else value for name, value in line.items()}
    tags: Any = row.pop("resource_tags")
    if not legacy:
        maps = {"resource_tags": tags} | ({"product": row.pop("product")} if "product" in row else {})
        return row | {name: each if isinstance(each, str) else json.dumps(each) for name, each in maps.items()}
    tagged = {f"resourceTags/user:{key.removeprefix('user_')}": value for key, value in tags.items()}
    return {LEGACY[name]: value for name, value in row.items()} | tagged


def rfc3339(at: float) -> str:
    """Epoch seconds as "2025-06-01T00:00:00.000Z"."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
