"""One id for one call, whoever reports it: the id of the provider's answer, not of the report."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

#: Ids from this length on are random and unique everywhere: "chatcmpl-" and 29 characters, "msg_" and 24, UUIDs.
#: Gateways and applications name the provider of the same answer differently, so it stays out of those.
_UNIQUE_CHARS = 20
#: Ids that count ("chatcmpl-417" of Ollama repeats after 999 calls) name no call.
_COUNTED = re.compile(r"(?:[^0-9]*[-_])?[0-9]{0,7}")
#: Longer ids, such as those LiteLLM encrypts (457 characters), are replaced by their hash.
_MAX_CHARS = 128
#: A part of a provider's name → the name that all its spellings get.
_FAMILIES = {
    "azure": "azure",
    "az.ai": "azure",
    "bedrock": "aws",
    "vertex": "google",
    "gemini": "google",
    "google": "google",
    "anthropic": "anthropic",
    "mistral": "mistral",
    "xai": "x_ai",
}


def call_id(provider: str | None, response_id: str | None) -> str | None:
    """The record id of a call that `provider` answered with `response_id`; None where that id is not unique.

    The same for a gateway's log, an application's spans and a second instrumentation beside the first.
    """
    own = _unwrapped((response_id or "").strip())
    if not own.isprintable() or _COUNTED.fullmatch(own):
        return None
    if len(own) > _MAX_CHARS:
        return f"call/{hashlib.sha256(own.encode('utf-8', 'replace')).hexdigest()}"
    return f"call/{own}" if len(own) >= _UNIQUE_CHARS else f"call/{_family(provider or '')}/{own}"


def _unwrapped(response_id: str) -> str:
    """LiteLLM wraps ids of the Responses API as base64 of "litellm:…;response_id:resp_abc"; the rest stay as given."""
    if not response_id.startswith("resp_"):
        return response_id
    try:
        inner = base64.b64decode(response_id.removeprefix("resp_"), validate=True).decode()
    except (binascii.Error, ValueError):
        return response_id
    return inner.rpartition("response_id:")[2] if inner.startswith("litellm:") else response_id


def _family(provider: str) -> str:
    name = provider.strip().lower()[:64]
    return next((family for part, family in _FAMILIES.items() if part in name), name)
