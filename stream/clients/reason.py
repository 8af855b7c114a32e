"""What an answer that refuses says for people, and whether a 404 is about the thing that was asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

#: Characters of a reason. By hand: a sentence or two.
_LONGEST = 240
#: Where servers put the sentence, the most telling first.
_NAMES = ("message", "error_description", "detail", "msg", "error", "errors", "title", "reason")
#: What looks like a key, such as those of OpenAI, LiteLLM and AWS, whoever repeats it.
_KEYS = re.compile(r"\b(?:sk|pk|rk|AKIA|ASIA|xox[abp])[-A-Za-z0-9_]{8,}")
_LEAST_SECRET = 6
#: What servers and proxies say of an address that they do not know, in lower case.
_NO_ROUTE = ("no route", "invalid url", "cannot get", "cannot post", "page not found", "no such route", "unknown path")
_BARE = frozenset({"", "not found", "not_found", "notfound", "404", "no message available"})


def reason_in(body: bytes, secrets: Iterable[str] = ()) -> str:
    """One line without the secrets, or "" for what is no JSON or says nothing."""
    try:
        text = _sentence(msgspec.json.decode(body), depth=3)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, "…")
    text = _KEYS.sub("…", text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def names_the_thing(body: bytes) -> bool:
    """Whether a 404 says that the thing is not there, and not that the address is not.

    A page, plain text and the words of web frameworks for an unknown address say nothing about the thing.
    """
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    if not isinstance(found, dict) or not found:
        return False
    said = _sentence(found, depth=3).lower().strip(" .!")
    is_flat = not any(isinstance(value, dict | list) for value in found.values())
    return not (is_flat and said in _BARE) and not any(words in said for words in _NO_ROUTE)


def is_page(body: bytes) -> bool:
    """Whether it is a web page: of a proxy, or of a log-in."""
    return body.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<head", b"<body"))


def _sentence(value: Any, depth: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((text for each in value[:3] if (text := _sentence(each, depth - 1))), "") if depth else ""
    if not isinstance(value, dict) or not depth:
        return ""
    return next((text for name in _NAMES if (text := _sentence(value.get(name), depth - 1))), "")
