"""Google Cloud's bill: the billing export in BigQuery, or files that were exported from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from curb.connectors.bills.bigquery_api import BigQueryApi
from curb.connectors.bills.bill import Bill, BillSettings, FoundDeliveries
from curb.connectors.bills.cells.ai_meters import AiMeter, ai_meter
from curb.connectors.bills.cells.rates import CurrencyRates
from curb.connectors.bills.charges import Charge, Dimensions, LineKind, Snapshot
from curb.connectors.bills.deliveries import by_folder
from curb.connectors.bills.focus import FOCUS
from curb.connectors.bills.focus_rows import SUFFIXES, FocusRows
from curb.connectors.bills.gcp_rows import CREDIT, PROVIDER, form_of, kind_of
from curb.connectors.bills.restate import Restater, SnapshotConnector
from curb.connectors.connector import Batch, Check, Context, Pull
from curb.connectors.decode import Letters, Rejected
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import DAY_S, HOUR_S

PERMISSION = "roles/bigquery.jobUser on the project, roles/bigquery.dataViewer on the dataset"
_GIB = 1024**3


class Config(BillSettings):
    """Give `table`, or `url` of files."""

    kind: Literal["gcp_billing"]
    table: str = Field(
        default="",
        pattern=r"^([a-z0-9.:-]+\.[A-Za-z0-9_]+\.[A-Za-z0-9_-]+)?$",
        description="The export: PROJECT.DATASET.gcp_billing_export_v1_ID, or the detailed one.",
    )
    url: str = Field(default="", description="Files instead: gs://, a path, or any fsspec scheme; `*` allowed.")
    period_pattern: str | None = Field(
        None, description="As in focus_file: which files are deliveries of the same billing period."
    )
    project: str = Field(default="", description="Project that pays for the queries; default: the credentials' own.")
    credentials: SecretStr = Field(
        default=SecretStr(""), description="JSON key of a service account; default: what the environment has."
    )
    endpoint_url: str = Field(default="", description="Another address of BigQuery, such as an emulator.")
    months: int = Field(2, ge=1, le=36, description="Invoice months that are read: this one and those before it.")
    max_gib: float = Field(50, ge=0, description="A query that would scan more is not made; 0: no limit.")
    timeout_s: float = Field(60.0, gt=0, le=100, description="Longest wait for one query.")

    @model_validator(mode="after")
    def _one_place(self) -> Config:
        if bool(self.table) == bool(self.url):
            raise ValueError("give either `table` or `url`")
        return self

    def build(self, context: Context) -> Pull:
        if self.table:
            return Pull(BigQueryBill(self, context), self.poll_interval_s)
        files = FocusRows(self.url, self.storage, form_of)

        def find(_reading: str) -> FoundDeliveries:
            return by_folder(files, SUFFIXES, self.period_pattern, context.clock)

        rolling = self.period_pattern is None
        return Pull(Bill(self.name, self, context, files, find, (FOCUS,), rolling=rolling), self.poll_interval_s)


class BigQueryBill(SnapshotConnector):
    """Pull connector. Rows are only ever added, also for usage of weeks ago: an invoice month that got rows is summed
    again, and the changes of its sums are reported."""

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config.name, config.lag_h, context)
        self._config = config
        credentials = config.credentials.get_secret_value()
        project = config.project or config.table.split(".", maxsplit=1)[0]
        self._api = BigQueryApi(
            project, credentials, config.endpoint_url, config.timeout_s, int(config.max_gib * _GIB), context.clock
        )
        self._rates = CurrencyRates(config.usd_per)
        since = config.since
        self._since = 0.0 if since is None else datetime(since.year, since.month, since.day, tzinfo=UTC).timestamp()

    def _release(self) -> None:
        self._api.close()

    def _next(self, restater: Restater, cursor: str | None) -> Batch:
        letters = Letters(self._config.name, self._clock.now())
        for month, version, exported_at in self._months():
            if restater.version(month) != version:
                charges = list(self._charges(month, letters))
                restater.take(charges, Snapshot(month, version, exported_at))
                break
        batch = restater.resume(cursor) or restater.idle(cursor)
        return batch._replace(dead=letters.messages())

    def _check(self) -> list[Check]:
        what = f"query {self._config.table}"
        try:
            months = [month for month, *_ in self._months()]
        except (TransientError, PermanentError) as error:
            return [Check(what, False, str(error), PERMISSION)]
        return [Check(what, True, f"invoice months: {', '.join(months) or 'none yet'}", PERMISSION)]

    def _months(self) -> list[tuple[str, str, float]]:
        """Invoice month, what changes when rows are added, and when the newest was exported (epoch seconds).

        Rows are counted by when they were exported, over the whole month: a row that was exported late, or became
        visible late, changes the count.
        """
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        year, month = divmod(now.year * 12 + now.month - self._config.months, 12)
        sql = (
            "SELECT invoice.month AS month, COUNT(*) AS row_count, UNIX_SECONDS(MAX(export_time)) AS exported_at "
            f"FROM `{self._config.table}` "
            "WHERE export_time >= TIMESTAMP_SUB(TIMESTAMP(@since), INTERVAL 2 DAY) AND invoice.month >= @first "
            "GROUP BY month ORDER BY month"
        )
        rows = self._api.rows(sql, {"since": f"{year:04d}-{month + 1:02d}-01", "first": f"{year:04d}{month + 1:02d}"})
        return [
            (str(row["month"]), f"{row['row_count']}@{row['exported_at']}", float(row["exported_at"])) for row in rows
        ]

    def _charges(self, month: str, letters: Letters) -> Iterator[Charge]:
        sql, parameters, config = *self._query(month), self._config
        for number, row in enumerate(self._api.rows(sql, parameters)):
            try:
                start, amounts = int(row["start"]), [float(row[name] or 0.0) for name in ("gross", "credits")]
            except (TypeError, ValueError):
                amounts = [math.nan]
            if not all(map(math.isfinite, amounts)):
                rejected = Rejected("invalid", "start or an amount is no number")
                letters.add(rejected, location=f"{config.table} {month} #{number}", content=b"")
                continue
            if start < self._since:
                continue
            usd = self._usd(row, start)
            if usd is None:
                why = f"amounts in {row['currency']} without a rate: set usd_per for {row['currency']}"
                letters.add(Rejected("invalid", why), location=f"{config.table} {month} #{number}", content=b"")
                continue
            kinds = kind_of(row["cost_type"] or "regular", commitment=bool(row.get("commitment"))), CREDIT
            for kind, amount in zip(kinds, amounts, strict=True):
                if amount:
                    cost = amount * usd
                    yield Charge(start, self._slot_s, cost, cost, self._dimensions(row, kind))

    def _query(self, month: str) -> tuple[str, dict[str, str]]:
        """Sums by hour or day and by what is told apart; gross and credits kept apart."""
        config = self._config
        columns = {"service": "service.description", "account": "project.id", "region": "location.region"}
        columns |= {"resource": "resource.global_name", "usage_type": "sku.description"}
        wanted = (*config.dimensions, *(("usage_type",) if config.reads_models else ()))
        asked: dict[str, str] = {name: columns[name] for name in wanted if name in columns}
        parameters = {"month": month, "since": f"{month[:4]}-{month[4:]}-01"}
        for number, key in enumerate(config.tag_keys.values()):
            parameters[f"key{number}"] = key
            asked[f"tag{number}"] = (
                f"IFNULL((SELECT value FROM UNNEST(labels) WHERE key = @key{number} LIMIT 1), "
                f"(SELECT value FROM UNNEST(project.labels) WHERE key = @key{number} LIMIT 1))"
            )
        part = "HOUR" if config.granularity == "hour" else "DAY"
        asked |= {"cost_type": "cost_type", "currency": "currency"}
        asked["rate"] = "currency_conversion_rate"
        asked["commitment"] = "STARTS_WITH(sku.description, 'Commitment')"
        asked["start"] = f"UNIX_SECONDS(TIMESTAMP_TRUNC(usage_start_time, {part}))"
        names = ", ".join(asked)
        # Named in a query within, so that no name can be taken for a column of the export.
        sql = (
            f"SELECT {names}, SUM(gross) AS gross, SUM(credits) AS credits FROM ("
            f"SELECT {', '.join(f'{what} AS {name}' for name, what in asked.items())}, cost AS gross, "
            "IFNULL((SELECT SUM(credit.amount) FROM UNNEST(credits) AS credit), 0) AS credits "
            f"FROM `{config.table}` WHERE invoice.month = @month "
            "AND export_time >= TIMESTAMP_SUB(TIMESTAMP(@since), INTERVAL 2 DAY)"
            f") GROUP BY {names}"
        )
        return sql, parameters

    def _dimensions(self, row: Mapping[str, Any], kind: LineKind) -> Dimensions:
        config = self._config
        meter = ai_meter(str(row.get("usage_type") or "")) if config.reads_models else AiMeter()
        named: dict[str, Any] = {name: {**row, **meter._asdict()}.get(name) for name in config.dimensions}
        named |= {tag: row.get(f"tag{number}") for number, tag in enumerate(config.tag_keys)}
        tags = {**config.tags, "provider": PROVIDER, **{tag: str(value) for tag, value in named.items() if value}}
        return Dimensions(
            service_name=str(row.get("service") or ""),
            sub_account_id=str(row.get("account") or ""),
            resource_id=str(row.get("resource") or ""),
            provider_name=PROVIDER,
            region_id=str(row.get("region") or ""),
            usage_type=str(row.get("usage_type") or "") if "usage_type" in config.dimensions else "",
            charge_kind=kind.kind,
            charge_category=kind.category,
            billing_currency=str(row["currency"] or "USD"),
            tags=tuple(sorted(tags.items())),
        )

    def _usd(self, row: Mapping[str, Any], start: float) -> float | None:
        """Dollars per unit: what Google converted at, else the configured rate; None without either."""
        currency, per_dollar = str(row["currency"] or "USD").upper(), row.get("rate")
        if currency != "USD" and per_dollar and math.isfinite(float(per_dollar)) and float(per_dollar) > 0:
            return 1.0 / float(per_dollar)
        return self._rates.at(currency, start)

    @property
    def _slot_s(self) -> int:
        return HOUR_S if self._config.granularity == "hour" else DAY_S
