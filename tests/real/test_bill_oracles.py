"""Bills against programs that others wrote: duckdb's sums, sqlglot's BigQuery, and the validator of FOCUS.

pip install duckdb sqlglot
CURB_TEST_BILLS=DIR            # further real exports, as `KIND-anything.csv`; of each its totals are compared
CURB_TEST_FOCUS_VALIDATOR=PYTHON # of an environment with focus-validator 2 (Python 3.12, pyarrow before 20)
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import importlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from curb.connectors.bills import aws_cur, azure_cost, focus_file, gcp_billing
from curb.connectors.bills.gcp_billing import BigQueryBill
from curb.connectors.connector import Context
from curb.connectors.intake.shares import SharedCost
from curb.detector.settings import DetectorSettings
from curb.report import sheets
from curb.report.charges import Charges
from curb.report.figures import SpendReport
from curb.report.span import span_of
from curb.stream.clock import ManualClock
from curb.stream.log.codec import encode_lines
from curb.stream.log.protocol import Message
from curb.stream.log.topics import COSTS
from curb.stream.records.spend import UNTAGGED, CostRecord
from curb.stream.time import DAY_S
from tests.fakes import aws_cur as cur
from tests.fakes.bills import DATA, Told, prices, write
from tests.fakes.memory_log import MemoryLog
from tests.fakes.report_log import a_log, a_report
from tests.fakes.report_log import charges as charges_of_october
from tests.require import require
from tests.unit.test_report_shared import a_month

BILLS, VALIDATOR = "CURB_TEST_BILLS", "CURB_TEST_FOCUS_VALIDATOR"


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        require(name, f"not installed: pip install {name}")


# --- totals ---------------------------------------------------------------------------------------------------------


class Form(NamedTuple):
    """A kind of export, and the columns that a plain sum needs, each the first of these that there is."""

    config: type[Any]
    date: tuple[str, ...]
    service: tuple[str, ...]
    account: tuple[str, ...]
    usd: tuple[str, ...]
    #: How dates are written where it is not as ISO has them.
    dates: str = "%m/%d/%Y"


FORMS = {
    "focus_file": Form(
        focus_file.Config,
        ("ChargePeriodStart",),
        ("ServiceName",),
        ("SubAccountId", "BillingAccountId"),
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
    ),
}


def exports() -> Iterator[Any]:
    yield pytest.param("focus_file", DATA / "focus_1.0_sample.csv.gz", id="focus")
    yield pytest.param("azure_cost", DATA / "azure_ea_sample.csv.gz", id="azure-enterprise")
    yield pytest.param("aws_cur", DATA / "aws_cur_sample.csv.gz", id="aws")
    directory = os.environ.get(BILLS)
    for path in sorted(Path(directory).iterdir()) if directory else ():
        kind = path.name.partition("-")[0]
        if kind in FORMS and any("currency" in name.lower() for name in rows_in(path)[0]):
            yield pytest.param(kind, path, id=path.stem)


def rows_in(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def named(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The column with one of these names, which may stand in brackets behind a translated one."""
    by_case = {part.strip("() ").lower(): each for each in row for part in (each, each.partition(" (")[2])}
    return next(by_case[name.lower()] for name in names if name.lower() in by_case)


def as_csv(rows: list[dict[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def deliveries(kind: str, root: Path) -> Callable[[bytes, float], None]:
    """Writes each delivery over the one before, those of AWS with their manifest."""
    export = cur.Export(root, "legacy", "csv.gz")

    def deliver(content: bytes, at: float) -> None:
        if kind != "aws_cur":
            write(root / "bill.csv", content, at)
            return
        manifest = export.deliver([cur.line(at, 1.0)], "2023-11", at)
        data = manifest.parent / f"2025-delivery-{export.deliveries}" / "cur-00001.csv.gz"
        write(data, gzip.compress(content), at)

    return deliver


def sums_of(duckdb: Any, path: Path, row: Mapping[str, str], form: Form) -> dict[tuple[str, str, str], float]:
    """Dollars by service, account and day, by duckdb."""
    date, service, account, usd = (f'"{named(row, names)}"' for names in form[1:5])
    day = f"coalesce(try_strptime({date}, '{form.dates}')::date, try_cast({date} as timestamptz)::date)"
    sql = (
        f"SELECT coalesce({service}, ''), coalesce({account}, ''), {day}::varchar, "
        f"sum({usd}::decimal(38, 18))::double FROM read_csv(?, all_varchar = true, header = true) "
        f"WHERE {usd} IS NOT NULL GROUP BY ALL"
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(sql, [str(path)]).fetchall()
    return {(service, account, day): usd for service, account, day, usd in found}


async def by_day(records: list[CostRecord]) -> dict[tuple[str, str, str], float]:
    """The same of what is on a log, as `curb report` counts it."""
    log = MemoryLog(partitions=1)
    await log.append([Message(COSTS, encode_lines(records), key=b"bill")])
    first = datetime.fromtimestamp(min(each.charge_period_start for each in records), UTC).date()
    last = datetime.fromtimestamp(max(each.charge_period_start for each in records) + DAY_S, UTC).date()
    span = span_of("month", str(first), str(last), records[-1].received_at, ZoneInfo("UTC"))
    charges = await Charges(span, ("service", "account"), DetectorSettings(), lines=True).read(log)
    assert charges.lines is not None
    found: dict[tuple[str, str, str], float] = {}
    for key, sums in charges.lines.items():
        where = tuple("" if each == UNTAGGED else each for each in (key.service, key.account))
        at = where[0], where[1], str(key.day)
        found[at] = found.get(at, 0.0) + sums.effective.usd
    return found


@pytest.mark.parametrize(("kind", "path"), list(exports()))
async def test_totals_are_those_of_duckdb(tmp_path: Path, kind: str, path: Path) -> None:
    """Per service, account and day, after a snapshot each day, a restatement of all that came, and restarts."""
    duckdb, form, rows = library("duckdb"), FORMS[kind], rows_in(path)
    date, usd = named(rows[0], form.date), named(rows[0], form.usd)
    whole = tmp_path / "whole.csv"
    whole.write_bytes(as_csv(rows))
    truth = sums_of(duckdb, whole, rows[0], form)
    of_currency = [name for name in rows[0] if "currency" in name.lower() and "cost" not in name.lower()]
    currencies = {row[name] for row in rows for name in of_currency if row[name]}
    given = {
        "kind": kind,
        "name": "bill",
        "url": str(tmp_path / "bill"),
        "usd_per": dict.fromkeys(currencies - {"USD"}, 1),
    }
    config = form.config.model_validate(given)
    days = sorted({row[date] for row in rows if row[date]}, key=lambda text: _iso(text, form))
    records: list[CostRecord] = []
    told, deliver = Told(tmp_path / "state", config), deliveries(kind, tmp_path / "bill")
    for number, last in enumerate([*days, days[-1]]):
        now = datetime.fromisoformat(_iso(last, form)).replace(tzinfo=UTC).timestamp() + DAY_S
        now += DAY_S * (number == len(days))
        seen = [row for row in rows if row[date] and _iso(row[date], form) <= _iso(last, form)]
        if number < len(days):  # what came before is restated by a tenth until the last delivery
            seen = [{**row, usd: _restated(row[usd])} if row[date] != last else row for row in seen]
        deliver(as_csv(seen), now)
        again = Told(tmp_path / "state", config, now=now + 3600)  # as after a restart
        again.cursor = told.cursor
        told = again
        records += [msg for msg in await told.read() if msg.delta != "mark"]
    found = await by_day(records)
    assert found.keys() >= {key for key, usd in truth.items() if abs(usd) >= 0.005}
    for key in found.keys() | truth.keys():
        assert found.get(key, 0.0) == pytest.approx(truth.get(key, 0.0), abs=1e-6), key


def _iso(text: str, form: Form) -> str:
    try:
        return datetime.strptime(text, form.dates).date().isoformat()
    except ValueError:
        return text.replace(" ", "T")[:19].rstrip("Z")


def _restated(usd: str) -> str:
    return f"{float(usd) * 1.1:.12f}" if usd else usd


# --- SQL ------------------------------------------------------------------------------------------------------------


class Asked:
    """Keeps the queries that a bill makes."""

    def __init__(self) -> None:
        self.sql: list[str] = []

    def rows(self, sql: str, parameters: Mapping[str, str]) -> list[Mapping[str, Any]]:
        self.sql.append(sql)
        assert all(f"@{name}" in sql for name in parameters)
        month = {"month": "202610", "row_count": 1, "exported_at": 1_790_900_000}
        return [month] if "row_count" in sql else []

    def close(self) -> None:
        return None


@pytest.mark.parametrize("granularity", ["hour", "day"])
@pytest.mark.parametrize(
    "dimensions", [["service"], ["service", "account", "region", "resource", "usage_type", "model"]]
)
async def test_sqlglot_reads_what_bigquery_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granularity: str, dimensions: list[str]
) -> None:
    sqlglot, asked = library("sqlglot"), Asked()
    monkeypatch.setattr("curb.connectors.bills.gcp_billing.BigQueryApi", lambda *_: asked)
    config = gcp_billing.Config.model_validate(
        {
            "kind": "gcp_billing",
            "name": "gcp",
            "table": "my-project.billing.gcp_billing_export_v1_0123AB",
            "granularity": granularity,
            "dimensions": dimensions,
            "tag_keys": {"team": "team", "env": "k8s-label/env"},
        }
    )
    http: Any = None
    bill = BigQueryBill(config, Context(ManualClock(1_790_950_000), http, prices(), tmp_path))
    await bill.read(None)
    await bill.close()
    assert len(asked.sql) == 2
    for sql in asked.sql:
        (statement,) = sqlglot.parse(sql, read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)
        tables = {table.sql(dialect="bigquery") for table in statement.find_all(sqlglot.exp.Table)}
        assert any("gcp_billing_export_v1_0123AB" in table for table in tables)
        assert isinstance(statement, sqlglot.exp.Select)
        # Of each column that is not summed the sums are made.
        grouped = statement.args["group"].expressions
        assert len(grouped) == sum(not each.find(sqlglot.exp.AggFunc) for each in statement.selects)


# --- FOCUS ----------------------------------------------------------------------------------------------------------


def test_the_validator_finds_no_more_than_what_is_documented(tmp_path: Path) -> None:
    """Charges have no invoice: of the rules that apply that one alone fails, with fees, taxes and shared costs too."""
    python = os.environ.get(VALIDATOR) or require("focus-validator", f"set {VALIDATOR} to a Python that has it")
    shared = (SharedCost(name="fees", match={"charge_kind": "fee"}, tags=("customer", "feature", "model")),)
    report, charges = asyncio.run(_both(shared))
    data = tmp_path / "focus.csv"
    data.write_text(sheets.focus_csv(report, charges), newline="")
    # It reads files of its own by paths from where it is installed.
    where = "import focus_validator as f, pathlib; print(pathlib.Path(f.__file__).parent.parent)"
    home = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    program = [str(Path(python).parent / "focus-validator"), "--block-download", "--data-file", str(data)]
    options = ["--validate-version", "1.2", "--output-type", "console", "--focus-dataset", "CostAndUsage"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=300, check=False, cwd=home)
    failed = set(re.findall(r"(\S+): FAIL", done.stdout))
    assert failed == {"InvoiceId-C-005-C"}, done.stdout[-2000:] + done.stderr[-2000:]


async def _both(shared: tuple[SharedCost, ...]) -> tuple[SpendReport, Charges]:
    return await a_report(await a_log([*charges_of_october(), *a_month()]), money="both", shared=shared)
