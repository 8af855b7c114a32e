"""The API as an OpenAPI 3.1 document: every route of the port with its filters, bodies, answers and errors."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, NamedTuple

import msgspec

from curb.serve import answers
from curb.serve.pages.sessions import COOKIE
from curb.stream.records import spend as records
from curb.stream.records.spend import Alert, LedgerEntry
from curb.views import knowledge_input as inputs
from curb.views.explanation import Explanation

_REF = "#/components/schemas/{name}"
_JSON = "application/json"
_PROBLEM = "application/problem+json"


class Filter(NamedTuple):
    """A parameter of the query."""

    name: str
    schema: dict[str, Any]
    meaning: str


class Operation(NamedTuple):
    """One method of one route. `answer` is a type, None where it is no JSON; `token` is who may call it."""

    method: str
    path: str
    tag: str
    summary: str
    answer: Any = None
    body: Any = None
    filters: tuple[Filter, ...] = ()
    status: int = 200
    errors: tuple[int, ...] = ()
    token: str = "api"
    media: str = _JSON

    @property
    def checks_filters(self) -> bool:
        """Whether an unknown filter is refused: of the API, but not of what others push."""
        return self.path.startswith("/v1/") and self.token == "api"

    @property
    def name(self) -> str:
        """Unique in the document: `get_v1_alerts_alert_id`."""
        words = self.path.replace("{", "").replace("}", "").replace("-", "_").replace(".", "_").strip("/")
        return f"{self.method.lower()}_{words.replace('/', '_') or 'dashboard'}"


LIMIT = Filter(
    "limit", {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 200}, "How many at most; the first ones."
)
STATUS = Filter("status", {"type": "string", "enum": ["firing", "resolved"]}, "Only alerts that stand like this.")


def _scope(default: str) -> Filter:
    return Filter("scope", {"type": "string", "default": default}, "A configured scope.")


def _knowledge(path: str, what: str, asked: Any, record: Any, *, ends: bool) -> tuple[Operation, ...]:
    """The operations of one kind of knowledge."""
    found = [
        Operation("GET", f"/v1/{path}", "knowledge", f"List {what}.", list[record], errors=(503,)),
        Operation(
            "POST",
            f"/v1/{path}",
            "knowledge",
            f"Add to {what}.",
            answers.AcceptedAnswer,
            asked,
            status=202,
            errors=(408, 413, 415, 503),
        ),
    ]
    if ends:
        found.append(
            Operation(
                "DELETE",
                f"/v1/{path}/{{id}}",
                "knowledge",
                f"End one of {what}.",
                answers.AcceptedAnswer,
                status=202,
                errors=(404, 503),
            )
        )
    return tuple(found)


#: Path, content and errors.
_PAGES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("/", "The dashboard.", ()),
    ("/alerts", "Alerts, newest first.", (400,)),
    ("/alerts/{alert_id}", "The page of an incident, with its buttons.", (404,)),
    ("/exposure", "What every key could burn in an hour.", (400,)),
    ("/models", "What a request, 1,000 tokens and a run cost over time.", (400,)),
    ("/models/one", "The page of one model or owner.", (404,)),
    ("/models/runs", "The runs of one job.", (404,)),
    ("/series", "The explorer of series.", (400,)),
    ("/series/one", "The page of one series.", (400, 404)),
    ("/actions", "Actions and leases.", (400,)),
    ("/actions/{action_id}", "The history of an action.", (404,)),
    ("/config", "The configuration in force, without secrets.", ()),
)

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/healthz", "process", "Whether the daemon goes on; 503 where not.", answers.HealthAnswer, token=""
    ),
    Operation(
        "GET", "/readyz", "process", "Whether the log was read once; 503 until then.", answers.ReadyAnswer, token=""
    ),
    Operation("GET", "/metrics", "process", "Metrics in Prometheus' text format.", token="", media="text/plain"),
    Operation("GET", "/openapi.json", "process", "This document.", dict[str, Any], token=""),
    Operation("GET", "/v1/status", "reading", "Freshness, top spenders, budgets, leases.", answers.StatusAnswer),
    Operation("GET", "/v1/alerts", "reading", "Alerts, newest first.", list[Alert], filters=(STATUS, LIMIT)),
    Operation(
        "GET", "/v1/alerts/{alert_id}", "reading", "An alert and its actions.", answers.AlertAnswer, errors=(404,)
    ),
    Operation("GET", "/v1/alerts/{alert_id}/explain", "reading", "Why an alert fired.", Explanation, errors=(404, 503)),
    Operation("GET", "/v1/actions", "reading", "The newest entry of each action.", list[LedgerEntry], filters=(LIMIT,)),
    Operation(
        "GET", "/v1/actions/{action_id}", "reading", "Every entry of an action.", list[LedgerEntry], errors=(404,)
    ),
    Operation(
        "GET",
        "/v1/spend",
        "reading",
        "The series of a scope that burn most.",
        answers.SpendAnswer,
        filters=(_scope("key"), LIMIT),
    ),
    Operation(
        "GET",
        "/v1/budgets",
        "reading",
        "Where every budget stands.",
        answers.BudgetsAnswer,
        filters=(
            Filter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": 10_000},
                "Rows of each budget, those with the largest share spent; without it, all.",
            ),
        ),
    ),
    Operation(
        "GET",
        "/v1/forecast",
        "reading",
        "Forecasts of the series of a scope.",
        answers.ForecastAnswer,
        filters=(_scope("team"), LIMIT),
    ),
    Operation("GET", "/v1/connectors", "reading", "The sources and their health.", answers.ConnectorsAnswer),
    Operation("GET", "/v1/unit-costs", "reading", "Dollars per unit.", answers.UnitCostsAnswer),
    Operation("GET", "/v1/reconciliation", "reading", "Estimates and bills.", answers.ReconciliationAnswer),
    Operation(
        "POST",
        "/v1/commands",
        "acting",
        "Halt, resume, undo, leave, extend, approve, deny, snooze or propose.",
        answers.AcceptedAnswer,
        answers.CommandInput,
        status=202,
        errors=(408, 413, 415, 503),
    ),
    Operation(
        "POST",
        "/v1/proposals",
        "acting",
        "Propose an action for approval; nothing is done without one. A token that may `propose` is enough.",
        answers.AcceptedAnswer,
        answers.ProposalInput,
        status=202,
        errors=(404, 408, 409, 413, 415, 503),
    ),
    *_knowledge("plans", "planned work", inputs.PlanInput, records.PlannedActivity, ends=True),
    *_knowledge("silences", "silences", inputs.SilenceInput, records.Silence, ends=True),
    *_knowledge("budget-increases", "increases of budgets", inputs.IncreaseInput, records.BudgetIncrease, ends=True),
    *_knowledge("annotations", "annotations", inputs.AnnotationInput, records.Annotation, ends=False),
    *_knowledge("feedback", "feedback on alerts", inputs.FeedbackInput, records.Feedback, ends=False),
    Operation(
        "POST",
        "/v1/ingest/{name}",
        "pushing",
        "Push usage to a connector, in its own format; 207 where a part is refused.",
        answers.IngestAnswer,
        dict[str, Any],
        errors=(404, 408, 413, 415, 503),
        token="connector",
    ),
    Operation(
        "POST",
        "/v1/ingest/{name}/{path}",
        "pushing",
        "The same at a path that the sender's protocol has, such as v1/traces.",
        dict[str, Any],
        dict[str, Any],
        errors=(404, 408, 413, 415, 503),
        token="connector",
    ),
    Operation(
        "POST", "/v1/slack/{name}", "pushing", "Slack's signed requests.", errors=(404,), token="slack", media="*/*"
    ),
    *(Operation("GET", path, "pages", what, errors=errors, media="text/html") for path, what, errors in _PAGES),
    Operation(
        "GET",
        "/alerts/{alert_id}/chart.png",
        "pages",
        "The chart of an alert.",
        errors=(404, 503),
        media="image/png",
    ),
    Operation(
        "GET",
        "/events",
        "pages",
        "What changed, as server-sent events: the ids of alerts and actions. 503 when too many are open.",
        errors=(503,),
        media="text/event-stream",
    ),
    Operation(
        "POST",
        "/press",
        "pages",
        "A button of a page; sends the browser back to it.",
        status=303,
        errors=(400, 404, 408, 409, 413, 415, 503),
        token="session",
        media="text/html",
    ),
    Operation("GET", "/sign-in", "pages", "The form to sign in.", token="", media="text/html"),
    Operation(
        "POST",
        "/sign-in",
        "pages",
        "Exchange a token for a cookie.",
        status=303,
        errors=(400, 403, 408, 413, 415),
        token="",
        media="text/html",
    ),
    Operation(
        "POST",
        "/sign-out",
        "pages",
        "End a sign-in.",
        status=303,
        errors=(400, 403, 408, 413, 415),
        token="",
        media="text/html",
    ),
    Operation("GET", "/page.css", "pages", "The style of the pages.", token="", media="text/css"),
    Operation("GET", "/page.js", "pages", "The script of the pages.", token="", media="text/javascript"),
    Operation("GET", "/page.svg", "pages", "The icon of the pages.", token="", media="image/svg+xml"),
)


def document(scopes: Sequence[str] = ()) -> dict[str, Any]:
    """The whole document; plain data. With the configured scopes, filters by scope name them."""
    types = [each for one in OPERATIONS for each in (one.answer, one.body) if each is not None]
    schemas, components = msgspec.json.schema_components([*types, answers.Problem], ref_template=_REF)
    found = dict(zip((id(each) for each in types), schemas, strict=False))
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, found, scopes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Curb",
            "version": version("curbd"),
            "description": "Spend as it streams in, alerts, budgets and actions. Times are seconds since the epoch or "
            "ISO 8601 in UTC; money is US dollars.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(each.tag for each in OPERATIONS)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "api": {"type": "http", "scheme": "bearer", "description": "`http.token`, or one of `http.tokens`."},
                "connector": {"type": "http", "scheme": "bearer", "description": "The `token` of the connector."},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "slack": {"type": "apiKey", "in": "header", "name": "X-Slack-Signature"},
            },
        },
    }


def _operation(one: Operation, schemas: dict[int, Any], scopes: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": one.name, "tags": [one.tag], "summary": one.summary}
    parameters = [
        {"name": part[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
        for part in one.path.split("/")
        if part.startswith("{")
    ]
    for each in one.filters:
        schema = each.schema | ({"enum": [*scopes]} if each.name == "scope" and scopes else {})
        parameters.append(
            {"name": each.name, "in": "query", "required": False, "schema": schema, "description": each.meaning}
        )
    if parameters:
        found["parameters"] = parameters
    if one.body is not None:
        found["requestBody"] = {"required": True, "content": {_JSON: {"schema": schemas[id(one.body)]}}}
    answer = {"schema": schemas[id(one.answer)]} if one.answer is not None else {}
    responses = {str(one.status): {"description": HTTPStatus(one.status).phrase, "content": {one.media: answer}}}
    if one.path == "/readyz":
        responses["503"] = {"description": "Not ready", "content": {_JSON: answer}}
    if one.token == "connector":
        responses["207"] = {"description": "A part was refused", "content": {_JSON: {"schema": {"type": "object"}}}}
    refused = {*one.errors, *({401} if one.token else ()), *({403, 421} if one.token in ("api", "session") else ())}
    refused |= {429} if one.path != "/healthz" and one.token != "slack" else set()
    refused |= {400} if one.checks_filters or one.token == "connector" else set()
    reference = {"$ref": _REF.format(name="Problem")}
    for status in sorted(refused):
        media = _PROBLEM if one.path.startswith("/v1/") else _JSON
        content = {media: {"schema": reference}} if one.path.startswith("/v1/") else {}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **({"content": content} if content else {})}
    found["responses"] = responses
    if one.token:
        found["security"] = [{one.token: []}, *([{}] if one.token == "api" and one.method == "GET" else [])]
    return found
