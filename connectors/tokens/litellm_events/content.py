"""The messages of a call that LiteLLM posts, for loop prints: read only where `loops` is on, and dropped at once."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from curb.connectors.decode import Rejected, decode
from curb.connectors.fingerprint import Fingerprints
from curb.stream.records.loops import LoopPrint

#: Types of calls that ask a model something; embeddings, rankings and pictures of equal inputs are no loop.
_ASKS = re.compile(r"a?(?:text_)?completion|a?responses|anthropic_messages|a?generate_content(?:_stream)?")


class _Content(msgspec.Struct):
    """The part of StandardLoggingPayload that prints are made of. Its `trace_id` is made up where callers set none."""

    startTime: Any = None
    endTime: Any = None
    call_type: Any = None
    messages: Any = None


_CONTENT = msgspec.json.Decoder(_Content)


def print_of(raw: bytes, loops: Fingerprints) -> LoopPrint | None:
    """The print of an event; None where it has no messages, or is no question."""
    content = decode(_CONTENT, raw)
    if isinstance(content, Rejected) or not isinstance(content.call_type or "completion", str):
        return None
    if content.call_type and not _ASKS.fullmatch(content.call_type):
        return None
    messages = content.messages
    if isinstance(messages, dict):  # some versions wrap them
        messages = messages.get("messages")
    times = content.startTime, content.endTime
    seconds = times[1] - times[0] if all(isinstance(each, int | float) for each in times) else 0.0
    return loops.of(messages, seconds=seconds)
