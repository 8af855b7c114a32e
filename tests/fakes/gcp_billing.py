"""BigQuery's REST API with a billing export in it, as far as Curb asks: two queries, pages, faults on demand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web

from tests.fakes.faults import Faults, Handler

KIND = "gcp_billing"
TABLE = "acme-bill.export.gcp_billing_export_v1_0A1B2C"


class Exported(NamedTuple):
    """One row of the export."""

    at: float
    exported_at: float
    usd: float
    credits: float = 0.0
    service: str = "Vertex AI"
    project: str = "p1"
    team: str = "search"
    month: str = "202506"
    cost_type: str = "regular"


class BigQuery:
    """`page_rows` is how many rows fit on a page; `denied` refuses everything."""

    def __init__(self) -> None:
        self.rows: list[Exported] = []
        self.faults = Faults()
        self.page_rows = 10_000
        self.denied = False
        self.queries: list[dict[str, Any]] = []
        self._results: dict[str, dict[str, Any]] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_as_google_says_it, self.faults.middleware()])
        app.router.add_post("/bigquery/v2/projects/{project}/queries", self._query)
        app.router.add_get("/bigquery/v2/projects/{project}/queries/{job}", self._page_of)
        app.router.add_get("/bigquery/v2/projects/{project}/jobs/{job}", self._job)
        app.router.add_get("/bigquery/v2/projects/{project}/datasets/_results/tables/{job}/data", self._page_of)
        return app

    async def _job(self, request: web.Request) -> web.Response:
        job, project = request.match_info["job"], request.match_info["project"]
        table = {"projectId": project, "datasetId": "_results", "tableId": job}
        return web.json_response(
            {
                "kind": "bigquery#job",
                "jobReference": {"projectId": project, "jobId": job, "location": "EU"},
                "status": {"state": "DONE"},
                "configuration": {"jobType": "QUERY", "query": {"query": "", "destinationTable": table}},
                "statistics": {"query": {"statementType": "SELECT"}},
            }
        )

    async def _query(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.queries.append(asked)
        if self.denied:
            error = {
                "code": 403,
                "message": "Access Denied: no bigquery.jobs.create",
                "errors": [{"reason": "accessDenied"}],
            }
            return web.json_response({"error": error}, status=403)
        given = {each["name"]: each["parameterValue"]["value"] for each in asked["queryParameters"]}
        assert f"`{TABLE}`" in asked["query"]
        columns, rows = self._months(given) if "first" in given else self._sums(given, asked["query"])
        job = f"job{len(self._results)}"
        schema = {"fields": [{"name": name, "type": kind, "mode": "NULLABLE"} for name, kind in columns]}
        self._results[job] = {"schema": schema, "rows": rows}
        return web.json_response(self._page(job, 0))

    async def _page_of(self, request: web.Request) -> web.Response:
        first = request.query.get("pageToken") or request.query.get("startIndex") or "0"
        return web.json_response(self._page(request.match_info["job"], int(first)))

    def _page(self, job: str, first: int) -> dict[str, Any]:
        result = self._results[job]
        rows = result["rows"]
        page: dict[str, Any] = {
            "kind": "bigquery#queryResponse",
            "schema": result["schema"],
            "jobReference": {"projectId": "acme-bill", "jobId": job, "location": "EU"},
            "jobComplete": True,
            "totalRows": str(len(rows)),
            "totalBytesProcessed": "1024",
            "cacheHit": False,
            "rows": [
                {"f": [{"v": None if value is None else str(value)} for value in row]}
                for row in rows[first : first + self.page_rows]
            ],
        }
        if first + self.page_rows < len(rows):
            page["pageToken"] = str(first + self.page_rows)
        return page

    def _months(self, given: dict[str, str]) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
        months = sorted({row.month for row in self.rows if row.month >= given["first"]})
        found = []
        for month in months:
            exported = [row.exported_at for row in self.rows if row.month == month]
            found.append((month, len(exported), int(max(exported))))
        return [("month", "STRING"), ("row_count", "INTEGER"), ("exported_at", "INTEGER")], found

    def _sums(self, given: dict[str, str], sql: str) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
        tag = next(name for name in given if given[name] == "team")
        slot = 3600 if "HOUR)" in sql else 86_400
        sums: dict[tuple[Any, ...], list[float]] = {}
        for row in self.rows:
            if row.month == given["month"]:
                key = row.service, row.project, row.team, row.cost_type, "USD", int(row.at // slot * slot)
                of = sums.setdefault(key, [0.0, 0.0])
                of[0] += row.usd
                of[1] += row.credits
        names = ("service", "account", f"tag{tag.removeprefix('key')}", "cost_type", "currency")
        columns = [(name, "STRING") for name in names]
        columns += [("start", "INTEGER"), ("gross", "FLOAT"), ("credits", "FLOAT")]
        return columns, [(*key, *amounts) for key, amounts in sums.items()]


@web.middleware
async def _as_google_says_it(request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = await handler(request)
    if answer.status != 429:
        return answer
    error = {"code": 429, "message": "Exceeded rate limits", "errors": [{"reason": "rateLimitExceeded"}]}
    return web.json_response({"error": error}, status=429, headers={"Retry-After": "7"})


def row(start: float, cost: float, credits: float = 0.0, **changes: Any) -> dict[str, Any]:
    """One row as it lies in exported files; times as BigQuery writes them."""
    written = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") for at in (start, start + 3600))
    return {
        "billing_account_id": "0A-1B",
        "service": {"id": "6F81", "description": "Vertex AI"},
        "usage_start_time": next(written),
        "usage_end_time": next(written),
        "project": {"id": "p1", "labels": [{"key": "env", "value": "prod"}]},
        "labels": [{"key": "team", "value": "search"}],
        "location": {"region": "europe-west1"},
        "cost": cost,
        "currency": "USD",
        "credits": [{"name": "CUD", "amount": credits}] if credits else [],
        "cost_type": "regular",
        **changes,
    }
