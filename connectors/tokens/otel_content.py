"""The messages of a span, for loop prints: read only where `loops` is on, and dropped at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from curb.connectors.decode import Rejected, decode
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.tokens.otlp import Value
from curb.stream.records.loops import LoopPrint

#: Attributes that hold all messages as JSON: today's conventions, then the Vercel AI SDK.
_JSON = ("gen_ai.input.messages", "ai.prompt.messages")
#: An attribute a message and field: OpenLLMetry, then OpenInference.
_FLAT = re.compile(r"(?:gen_ai\.prompt\.(\d{1,4})\.|llm\.input_messages\.(\d{1,4})\.message\.)(role|content)")
_SESSIONS = ("gen_ai.conversation.id", "session.id")
_LIST = msgspec.json.Decoder(list[Any])


def print_of(found: Mapping[str, Value], seconds: float, loops: Fingerprints) -> LoopPrint | None:
    """The print of a call from the attributes of its span; None where no messages are in them."""
    messages = _messages(found)
    if not messages:
        return None
    session = next((str(found[name]) for name in _SESSIONS if found.get(name)), "")
    return loops.of(messages, session=session, seconds=seconds)


def _messages(found: Mapping[str, Value]) -> list[Any]:
    for name in _JSON:
        text = found.get(name)
        if isinstance(text, str) and text:
            read = decode(_LIST, text.encode("utf-8", "replace"))
            if not isinstance(read, Rejected):
                return read
    flat: dict[int, dict[str, Value]] = {}
    for name, value in found.items():
        if place := _FLAT.fullmatch(name):
            flat.setdefault(int(place[1] or place[2]), {})[place[3]] = value
    return [flat[at] for at in sorted(flat)]
