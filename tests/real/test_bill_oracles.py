"""Bills against programs that others wrote: duckdb's sums, sqlglot's BigQuery, and the validator of FOCUS.

pip install duckdb sqlglot
CURB_TEST_BILLS=DIR            # further real exports, as `bill_exports` says; of each its totals are compared
CURB_TEST_FOCUS_VALIDATOR=PYTHON # of an environment with focus-validator 2 (Python 3.12, pyarrow before 20)
"""

from __future__ import annotations

import asyncio
import importlib
import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from curb.connectors.bills import gcp_billing
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
from tests.fakes.bills import Told, prices
from tests.fakes.memory_log import MemoryLog
from tests.fakes.report_log import a_log, a_report
from tests.fakes.report_log import charges as charges_of_october
from tests.real.bill_exports import FORMS, Form, Row, as_csv, day_of, deliveries, exports, named
from tests.require import require
from tests.unit.test_report_shared import a_month

BILLS, VALIDATOR = "CURB_TEST_BILLS", "CURB_TEST_FOCUS_VALIDATOR"


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        require(name, f"not installed: pip install {name}")


# --- totals ---------------------------------------------------------------------------------------------------------


def _each() -> Iterator[Any]:
    for name, kind, rows in exports(os.environ.get(BILLS)):
        yield pytest.param(kind, rows, id=name)


#: Dollars, effective and billed, by service, account and day.
Sums = dict[tuple[str, str, str], tuple[float, float]]


def sums_of(duckdb: Any, path: Path, row: Row, form: Form) -> Sums:
    """The sums by duckdb."""
    date, service, account, billed = (f'"{named(row, names)}"' for names in form[1:5])
    effective = f'"{column}"' if (column := named(row, form.effective)) else "".join(form.effective) or billed
    day = f"coalesce(try_strptime({date}, '{form.dates}')::date, try_cast({date} as timestamptz)::date)"
    credits = """list_sum(json_extract(credits, '$[*].amount')::decimal(38, 18)[])"""
    off = f"coalesce({credits}, 0)" if "credits" in row else "0"
    sql = (
        f"SELECT coalesce({service}, ''), coalesce({account}, ''), {day}::varchar, "
        f"sum(({effective})::decimal(38, 18) + {off})::double, sum({billed}::decimal(38, 18) + {off})::double "
        f"FROM read_csv(?, all_varchar = true, header = true) WHERE {billed} IS NOT NULL GROUP BY ALL"
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(sql, [str(path)]).fetchall()
    return {(service, account, day): (effective, billed) for service, account, day, effective, billed in found}


async def by_day(records: list[CostRecord]) -> Sums:
    """The same of what is on a log, as `curb report` counts it."""
    if not records:
        return {}
    log = MemoryLog(partitions=1)
    await log.append([Message(COSTS, encode_lines(records), key=b"bill")])
    first = datetime.fromtimestamp(min(each.charge_period_start for each in records), UTC).date()
    last = datetime.fromtimestamp(max(each.charge_period_start for each in records) + DAY_S, UTC).date()
    span = span_of("month", str(first), str(last), records[-1].received_at, ZoneInfo("UTC"))
    charges = await Charges(span, ("service", "account"), DetectorSettings(), lines=True).read(log)
    assert charges.lines is not None
    found: Sums = {}
    for key, sums in charges.lines.items():
        where = tuple("" if each == UNTAGGED else each for each in (key.service, key.account))
        at = where[0], where[1], str(key.day)
        effective, billed = found.get(at, (0.0, 0.0))
        found[at] = effective + sums.effective.usd, billed + sums.billed.usd
    return found


class Follower:
    """Reads deliveries of one export, in a new process each time; what it told is by id, as the log keeps it."""

    def __init__(self, state: Path, config: Any) -> None:
        self._state, self._config = state, config
        self._cursor: str | None = None
        self.records: dict[str, CostRecord] = {}

    async def read(self, now: float) -> None:
        """All there is."""
        told = Told(self._state, self._config, now=now)
        told.cursor = self._cursor
        self._keep(await told.read())
        self._cursor = told.cursor

    async def die(self, now: float) -> None:
        """Read a page that comes to the log, and its cursor does not."""
        told = Told(self._state, self._config, now=now)
        self._keep((await told.bill.read(self._cursor)).records)
        await told.bill.close()

    def _keep(self, records: Sequence[object]) -> None:
        found = {each.id: each for each in records if isinstance(each, CostRecord) and each.delta != "mark"}
        assert all(self.records.get(id, record) == record for id, record in found.items())
        self.records |= found


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "rows"), list(_each()))
async def test_totals_are_those_of_duckdb(tmp_path: Path, kind: str, rows: list[Row]) -> None:
    """Per service, account and day, after a snapshot each day, a restatement of all that came, and restarts."""
    duckdb, form = library("duckdb"), FORMS[kind]
    date, usd = named(rows[0], form.date), named(rows[0], form.billed)
    assert date is not None
    assert usd is not None
    whole = tmp_path / "whole.csv"
    whole.write_bytes(as_csv(rows))
    truth = sums_of(duckdb, whole, rows[0], form)
    of_currency = [name for name in rows[0] if "currency" in name.lower() and "cost" not in name.lower()]
    currencies = {row[name] for row in rows for name in of_currency if row[name].isalpha()}
    rates = dict.fromkeys(currencies - {"USD"}, 1)
    given = {"kind": kind, "name": "bill", "url": str(tmp_path / "bill"), "usd_per": rates}
    config = form.config.model_validate(given | ({"months": 36} if "months" in form.config.model_fields else {}))
    days = sorted({day_of(row[date], form)[:10] for row in rows if row[date]})
    follower, deliver = Follower(tmp_path / "state", config), deliveries(kind, tmp_path / "bill")
    for number, last in enumerate([*days, days[-1]]):
        now = datetime.fromisoformat(last).replace(tzinfo=UTC).timestamp() + DAY_S + DAY_S * (number == len(days))
        seen = [row for row in rows if row[date] and day_of(row[date], form)[:10] <= last]
        if number < len(days):  # what came before is restated by a tenth until the last delivery
            seen = [row if last in day_of(row[date], form) else {**row, usd: _restated(row[usd])} for row in seen]
        deliver(seen, now)
        if number == len(days) // 2:
            await follower.die(now + 3600)
        await follower.read(now + 3600)
    found = await by_day(list(follower.records.values()))
    for key in found.keys() | truth.keys():
        assert found.get(key, (0.0, 0.0)) == pytest.approx(truth.get(key, (0.0, 0.0)), abs=1e-6), key
    effective, billed = (math.fsum(sums[at] for sums in found.values()) for at in (0, 1))
    print(f"{len(rows)} lines, {len(truth)} sums, {effective:.2f} effective, {billed:.2f} billed")  # shown by -rP


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
