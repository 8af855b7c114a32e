"""The text of an HAProxy map file: one value read, changed, or taken out, every other byte left as it is."""

from __future__ import annotations

import re

from curb.stream.errors import PermanentError

_LINE = re.compile(r"[ \t]*(?P<key>[^\s#]\S*)(?:[ \t]+(?P<value>.*?))?[ \t\r]*(?:\n|$)")


def value_in(text: str, key: str) -> str | None:
    """The value of a key; None without one. PermanentError when it is there several times."""
    found = _find(text, key)
    return None if found is None else found["value"] or ""


def with_value(text: str, key: str, value: str | None) -> str:
    """The text with that value of the key; a new one stands first, None takes its line out."""
    found = _find(text, key)
    if found is None:
        return text if value is None else f"{key} {value}\n{text}"
    if value is None:
        return text[: found.start()] + text[found.end() :]
    return text[: found.start("value")] + value + text[found.end("value") :]


def _find(text: str, key: str) -> re.Match[str] | None:
    at, found = 0, []
    for line in text.splitlines(keepends=True):
        match = _LINE.match(text, at)
        if match and match["key"] == key:
            found.append(match)
        at += len(line)
    if len(found) > 1:
        raise PermanentError(f"the map file has {len(found)} lines of one key")
    return found[0] if found else None
