"""The reference page of the HTTP API, made from its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curb.serve.openapi import OPERATIONS, Operation, document

_TITLES = {
    "process": "The process",
    "reading": "Reading",
    "acting": "Acting",
    "knowledge": "Knowledge of people",
    "pushing": "Pushing",
    "pages": "Pages",
}
_TOKENS = {
    "": "Open to everybody.",
    "api": "With a token of `http.token` or `http.tokens`; where there is none, reading only, from this machine.",
    "connector": "With the `token` of the connector.",
    "slack": "Signed by Slack.",
    "session": "With the cookie of a sign-in whose token may `operate`, and the form token of the page.",
}
_INTRODUCTION = """The daemon serves this document for machines at `/openapi.json` (OpenAPI 3.1).

- Errors of `/v1` are problem details (RFC 9457, `application/problem+json`) with `title`, `status` and `detail`.
- Filters that are unknown, or values that cannot be meant, are 400.
- Times are seconds since the epoch, or ISO 8601 in UTC where they are text. Money is US dollars.
- An answer to a POST or DELETE is 202: what was asked is on the log, and takes effect with what comes after it.
- Fields may be added to answers; none is renamed or removed.
"""


def page(note: str) -> str:
    """The whole page, with the note that it is generated."""
    found = document()
    parts = ["# HTTP API\n", note, _INTRODUCTION]
    for tag in dict.fromkeys(each.tag for each in OPERATIONS):
        mine = [each for each in OPERATIONS if each.tag == tag]
        parts.append(f"## {_TITLES[tag]}\n")
        for token in dict.fromkeys(each.token for each in mine):
            parts += [f"{_TOKENS[token]}\n", _table(_rows([each for each in mine if each.token == token], found))]
    parts.append("## Schemas\n")
    for name, schema in sorted(found["components"]["schemas"].items()):
        parts += [f"### {name}\n", *_fields(schema)]
    return "\n".join(parts)


def _rows(operations: list[Operation], found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "Call", "What", "Filters", "Body", "Answer", "Errors"
    for one in operations:
        described = found["paths"][one.path][one.method.lower()]
        responses = described["responses"]
        answer = responses[str(one.status)]["content"][one.media].get("schema")
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        yield (
            f"`{one.method} {one.path}`",
            one.summary,
            ", ".join(f"`{each.name}`: {_type(each.schema)}" for each in one.filters) or "–",
            _type(body) if body else "–",
            f"{one.status}: {_type(answer) if answer else one.media}",
            ", ".join(sorted(set(responses) - {str(one.status)})) or "–",
        )


def _fields(schema: dict[str, Any]) -> Iterator[str]:
    if "description" in schema:
        yield " ".join(schema["description"].split()) + "\n"
    required = schema.get("required", [])
    rows = [
        (f"`{name}`", _type(each), "yes" if name in required else "–")
        for name, each in schema.get("properties", {}).items()
    ]
    if rows:
        yield _table(iter([("Field", "Type", "Always there"), *rows]))


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"] if value != "") or "text"
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items') or {})}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "null": "null", "object": "map"}
    return words.get(kind, str(kind))


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * (lines[0].count(" | ") + 1))
    return "\n".join(lines) + "\n"
