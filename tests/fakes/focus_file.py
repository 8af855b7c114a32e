"""A provider that exports FOCUS, as CSV or Parquet, under the column names of any version."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.aws_cur import rfc3339

KIND = "focus_file"


def line(start: float, usd: float, **changes: Any) -> dict[str, Any]:
    """One line of FOCUS 1.2; `start` is epoch seconds."""
    return {
        "ChargePeriodStart": rfc3339(start),
        "ChargePeriodEnd": rfc3339(start + 3600),
        "BilledCost": usd,
        "EffectiveCost": usd,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeFrequency": "Usage-Based",
        "ServiceName": "Compute",
        "ProviderName": "AWS",
        "SubAccountId": "a1",
        "Tags": json.dumps({"team": "search"}),
        **changes,
    }


def csv_text(lines: list[dict[str, Any]]) -> bytes:
    """As CSV; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()


def parquet(lines: list[dict[str, Any]]) -> bytes:
    """As Parquet, texts and numbers."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines), sink)
    return sink.getvalue()
