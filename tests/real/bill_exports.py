"""Real exports for the comparison of totals: those shipped here, and those of others in a directory you name.

CURB_TEST_BILLS=DIR with copies (or clones) of public repositories, or exports of your own; nothing of it is shipped:

    opencost/opencost           pkg/cloud/azure/resources/billingexports/**/*.csv   cost details of Azure
    microsoft/finops-toolkit    src/powershell/Tests/**/*.csv                       cost details of Azure
    hystax/optscale             rest_api/live_demo.tar.xz                           lines of a CUR, Azure and Google

The columns of a CSV file say which export it is. Of a file in Git LFS a clone may hold a pointer only; it is left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from curb.connectors.bills import aws_cur, azure_cost, focus_file, gcp_billing
from tests.fakes import aws_cur as cur
from tests.fakes.bills import rows_of, write

Row = Mapping[str, str]
#: Moment that the times in OptScale's demo count back from.
_DEMO = datetime(2024, 9, 18, tzinfo=UTC)
#: What AWS documents as the amortised cost of a line.
_AMORTISED = """CASE "lineItem/LineItemType"
    WHEN 'SavingsPlanCoveredUsage' THEN "savingsPlan/SavingsPlanEffectiveCost"::decimal(38, 18)
    WHEN 'SavingsPlanRecurringFee' THEN "savingsPlan/TotalCommitmentToDate"::decimal(38, 18)
        - "savingsPlan/UsedCommitment"::decimal(38, 18)
    WHEN 'SavingsPlanNegation' THEN 0::decimal(38, 18)
    WHEN 'SavingsPlanUpfrontFee' THEN 0::decimal(38, 18)
    WHEN 'DiscountedUsage' THEN "reservation/EffectiveCost"::decimal(38, 18)
    WHEN 'RIFee' THEN "reservation/UnusedRecurringFee"::decimal(38, 18)
        + "reservation/UnusedAmortizedUpfrontFeeForBillingPeriod"::decimal(38, 18)
    ELSE "lineItem/UnblendedCost"::decimal(38, 18) END"""


class Form(NamedTuple):
    """A kind of export, and the columns that a plain sum needs, each the first of these that there is."""

    config: type[Any]
    date: tuple[str, ...]
    service: tuple[str, ...]
    account: tuple[str, ...]
    #: What is billed, and restated by the test.
    billed: tuple[str, ...]
    #: What it costs over its term, as SQL or a column; the same where empty.
    effective: tuple[str, ...] = ()
    #: How dates are written where it is not as ISO has them.
    dates: str = "%m/%d/%Y"


FORMS = {
    "focus_file": Form(
        focus_file.Config,
        ("ChargePeriodStart",),
        ("ServiceName",),
        ("SubAccountId", "BillingAccountId"),
        ("BilledCost",),
        ("EffectiveCost",),
    ),
    "azure_cost": Form(
        azure_cost.Config,
        ("Date", "UsageDateTime"),
        ("MeterCategory",),
        ("SubscriptionId", "SubscriptionGuid"),
        ("CostInBillingCurrency", "Cost", "PreTaxCost"),
    ),
    "aws_cur": Form(
        aws_cur.Config,
        ("lineItem/UsageStartDate",),
        ("lineItem/ProductCode",),
        ("lineItem/UsageAccountId",),
        ("lineItem/UnblendedCost",),
        (_AMORTISED,),
    ),
    "gcp_billing": Form(
        gcp_billing.Config,
        ("usage_start_time",),
        ("service_description",),
        ("project_id",),
        ("cost",),
        (),
    ),
}


def named(row: Row, names: tuple[str, ...]) -> str | None:
    """The column with one of these names, which may stand in brackets behind a translated one."""
    by_case = {part.strip("() ").lower(): each for each in row for part in (each, each.partition(" (")[2])}
    return next((by_case[name.lower()] for name in names if name.lower() in by_case), None)


def day_of(text: str, form: Form) -> str:
    """A date as ISO has it."""
    try:
        return datetime.strptime(text, form.dates).date().isoformat()
    except ValueError:
        return text.replace(" ", "T")[:19].rstrip("Z")


def exports(directory: str | None) -> Iterator[tuple[str, str, list[Row]]]:
    """Name, kind and lines of each export there is."""
    yield "focus", "focus_file", list(rows_of("focus_1.0_sample.csv.gz"))
    yield "azure-enterprise", "azure_cost", list(rows_of("azure_ea_sample.csv.gz"))
    yield "aws", "aws_cur", list(rows_of("aws_cur_sample.csv.gz"))
    yield "optscale-days", "focus_file", [_as_focus(row) for row in rows_of("optscale_billing_daily.csv.gz")]
    for path in sorted(Path(directory).rglob("*")) if directory else ():
        if path.name in ("live_demo.tar.xz", "live_demo.json"):
            yield from _of_optscale(path)
        elif path.name.endswith((".csv", ".csv.gz")):
            rows = _rows_in(path)
            kind = _kind_of(rows)
            if kind:
                yield f"{path.parent.name}-{path.name}", kind, rows


def _rows_in(path: Path) -> list[Row]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig", "replace")
    rows: list[Row] = [*csv.DictReader(io.StringIO(text, newline=""))]
    # Tests of OpenCost left the currency out of some files; no cloud does.
    bare = rows and not named(rows[0], ("BillingCurrency", "BillingCurrencyCode", "Currency"))
    return [{**row, "BillingCurrency": "USD"} for row in rows] if bare and _kind_of(rows) == "azure_cost" else rows


def _kind_of(rows: list[Row]) -> str:
    """The kind of export that has these columns; empty for none, and for what has no line with a date."""
    for kind, form in FORMS.items():
        columns = [named(rows[0], names) for names in form[1:5]] if rows else []
        if columns and all(columns) and any(row[columns[0] or ""] for row in rows):
            return kind
    return ""


def _as_focus(row: Row) -> Row:
    end = datetime.fromisoformat(row["date"]) + timedelta(days=1)
    return {
        "ChargePeriodStart": row["date"],
        "ChargePeriodEnd": end.date().isoformat(),
        "ServiceName": row["service"],
        "SubAccountId": row["account"],
        "RegionId": row["region"],
        "ResourceId": row["resource"],
        "ProviderName": row["cloud"],
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "BilledCost": row["cost_usd"],
        "EffectiveCost": row["cost_usd"],
        "ListCost": row["cost_usd"],
    }


def _of_optscale(path: Path) -> Iterator[tuple[str, str, list[Row]]]:
    """What its demo keeps of bills as the clouds wrote it, one export for each cloud."""
    content = path.read_bytes()
    if path.suffix == ".xz":
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(content))) as archive:
            member = archive.extractfile(archive.getmembers()[-1])
            assert member is not None
            content = member.read()
    kept = json.loads(content)["raw_expenses"]
    aws = [row for row in kept if "lineItem/UnblendedCost" in row]
    yield "optscale-aws", "aws_cur", [{key: str(row[key]) for key in row if "/" in key} for row in aws]
    yield "optscale-azure", "azure_cost", [_azure(row) for row in kept if "meter_details" in row]
    yield "optscale-google", "gcp_billing", [_google(row) for row in kept if "original_cost" in row]


def _azure(row: Mapping[str, Any]) -> Row:
    return {
        "Date": str(row.get("date") or row["usage_start_time"])[:10],
        "SubscriptionId": row["subscription_id"],
        "MeterCategory": row["meter_details"]["meter_category"],
        "ChargeType": row.get("charge_type", "Usage"),
        "BillingCurrency": row.get("billing_currency", "USD"),
        "Cost": repr(row["cost"]),
        "ResourceId": row["resource_id"],
    }


def _google(row: Mapping[str, Any]) -> Row:
    """A row of the export as CSV has it, with its credits as JSON."""
    start, end = (_DEMO - timedelta(seconds=row[name]) for name in ("start_date_offset", "end_date_offset"))
    return {
        "usage_start_time": f"{start:%Y-%m-%d %H:%M:%S} UTC",
        "usage_end_time": f"{end:%Y-%m-%d %H:%M:%S} UTC",
        "service_description": row["service"],
        "sku_description": row["sku"],
        "project_id": row["cloud_account_id"],
        "cost_type": row["cost_type"],
        "cost": repr(row["original_cost"]),
        "credits": json.dumps(row["credits"]),
        "currency": row["currency"],
    }


# --- as they are delivered ------------------------------------------------------------------------------------------


def as_csv(rows: list[Row]) -> bytes:
    """The lines, with a column for whatever one of them has."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def deliveries(kind: str, root: Path) -> Callable[[list[Row], float], None]:
    """Writes each delivery over the one before, those of AWS by billing period, each with its manifest."""
    export = cur.Export(root, "legacy", "csv.gz")

    def deliver(rows: list[Row], at: float) -> None:
        if kind != "aws_cur":
            write(root / "bill.csv", as_csv(rows), at)
            return
        for period, lines in groupby(sorted(rows, key=_month_of), key=_month_of):
            manifest = export.deliver([cur.line(at, 1.0)], period, at)
            data = manifest.parent / f"2025-delivery-{export.deliveries}" / "cur-00001.csv.gz"
            write(data, gzip.compress(as_csv(list(lines))), at)

    return deliver


def _month_of(row: Row) -> str:
    return row["bill/BillingPeriodStartDate"][:7]
