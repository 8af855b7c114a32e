"""Errors of the API in one form, problem details of RFC 9457, and filters that are checked before a handler runs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from curb.serve.openapi import OPERATIONS, Operation

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MEDIA = "application/problem+json"
_API = "/v1/"
#: They belong to the body that is replaced.
_OF_BODY = {hdrs.CONTENT_TYPE.lower(), hdrs.CONTENT_LENGTH.lower()}
_BY_ROUTE = {(each.method, each.path): each for each in OPERATIONS}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that says what went wrong."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,  # where it was before there were problem details
    }
    return web.json_response(body, status=status, headers=headers, content_type=_MEDIA)


@web.middleware
async def as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error of the API the form of a problem."""
    if not request.path.startswith(_API):
        return await handler(request)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem(error.status, error.text or error.reason, _headers(error))
    if response.status < 400 or response.content_type != "application/json" or not isinstance(response, web.Response):
        return response
    text = _error_in(response)
    return response if text is None else problem(response.status, text, _headers(response))


def checked_filters(scopes: Collection[str]) -> Middleware:
    """A middleware that answers 400 to a filter of the API that is unknown or cannot be meant; `scopes` are known."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        operation = _BY_ROUTE.get((request.method, resource.canonical)) if resource is not None else None
        if operation is not None and operation.checks_filters:
            wrong = _wrong_filter(operation, request, scopes)
            if wrong:
                return problem(400, wrong)
        return await handler(request)

    return check


def _wrong_filter(operation: Operation, request: web.Request, scopes: Collection[str]) -> str:
    known = {each.name: each for each in operation.filters}
    for name, value in request.query.items():
        if name not in known:
            names = ", ".join(known) or "none"
            return f"there is no filter {name!r}; there are: {names}"
        if len(request.query.getall(name)) > 1:
            return f"{name} is given twice"
        schema = known[name].schema
        if "enum" in schema and value not in schema["enum"]:
            return f"{name} is one of {', '.join(schema['enum'])}"
        if schema["type"] == "integer" and not _is_between(value, schema["minimum"], schema["maximum"]):
            return f"{name} is a whole number from {schema['minimum']} to {schema['maximum']}"
        if name == "scope" and value not in scopes:
            return f"there is no scope {value!r}; there are: {', '.join(scopes)}"
    return ""


def _is_between(text: str, least: int, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most


def _error_in(response: web.Response) -> str | None:
    """The text of an answer that is an error and nothing else."""
    try:
        body = json.loads(response.text or "")
    except ValueError:
        return None
    if not isinstance(body, dict) or set(body) != {"error"}:
        return None
    return str(body["error"])


def _headers(response: web.Response | web.HTTPException) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.lower() not in _OF_BODY}
