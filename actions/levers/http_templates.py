"""Addresses and JSON bodies with `{tag.team}` and `{rpm}` in them; what is filled in is data, never syntax."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from yarl import URL

from curb.stream.errors import PermanentError

_PLACEHOLDER = re.compile(r"\{(tag\.[^{}]+|[a-z_][a-z0-9_]*)\}")
TAG = "tag."


def placeholders(template: Any) -> set[str]:
    """The names in braces in a text, or in the values of a JSON document."""
    if isinstance(template, str):
        return set(_PLACEHOLDER.findall(template))
    parts = template.values() if isinstance(template, dict) else template if isinstance(template, list | tuple) else ()
    return {name for part in parts for name in placeholders(part)}


def fill_url(template: str, values: Mapping[str, Any]) -> URL:
    """Every value becomes one quoted piece of the address. PermanentError for a value that cannot be that."""

    def piece(match: re.Match[str]) -> str:
        text = _text(values[match[1]])
        if text in ("", ".", ".."):
            raise PermanentError(f"the value of {match[1]} cannot stand in an address: {text!r}")
        return quote(text, safe="")

    return URL(_PLACEHOLDER.sub(piece, template), encoded=True)


def fill_body(template: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a JSON document; a text that is one placeholder and nothing else takes the value with its type."""
    if isinstance(template, dict):
        return {key: fill_body(value, values) for key, value in template.items()}
    if isinstance(template, list | tuple):
        return [fill_body(value, values) for value in template]
    if not isinstance(template, str):
        return template
    whole = _PLACEHOLDER.fullmatch(template)
    if whole:
        return values[whole[1]]
    return _PLACEHOLDER.sub(lambda match: _text(values[match[1]]), template)


def origin(template: str) -> str:
    """Scheme, host and port of an address. ValueError when it has none or they are not fixed."""
    head = re.match(r"https?://[^/?#{}\s@]+(?=[/?#]|$)", template)
    if head is None:
        raise ValueError(f"{template!r} must begin with a fixed http(s)://host and hold placeholders only after it")
    if not re.fullmatch(r"[!-~]+", _PLACEHOLDER.sub("", template)):
        raise ValueError(f"{template!r} must be percent-encoded where it is not plain ASCII")
    return str(URL(head[0]).origin())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
