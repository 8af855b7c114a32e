"""Fingerprints of calls: what of a prompt says that calls repeat, without the prompt.

Every hash is an HMAC under a key that is made at random when the process starts, replaced every `key_hours`, and held
in memory alone: it is neither configured nor written anywhere. So nobody can test a guess against a hash on the log,
also who has the log, and hashes of before and after a new key never match.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from pydantic import Field

from curb.stream.clock import Clock
from curb.stream.records.loops import LoopPrint
from curb.stream.settings import Settings
from curb.stream.time import HOUR_S

#: Messages at the end of a conversation that are looked at: work per call is bounded.
_LAST_MESSAGES = 64
#: Calls of tools that make a sequence, and words that are hashed together for the sketch.
_SEQUENCE, _SHINGLE = 3, 3
#: Fewer words give no sketch: a single word would turn it over. More than these, from both ends, are not looked at.
_LEAST_WORDS, _MOST_WORDS = 8, 128
#: Characters of a message whose words are looked at, from both ends.
_MOST_CHARS = 8_000
#: What gateways and instrumentations put in the place of content that they do not give away.
_WITHHELD = frozenset({"redacted-by-litellm", "redacted", "[redacted]", "<redacted>", "__redacted__", "***"})
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "mcp_call"})
_RESULTS = frozenset({"tool_result", "tool_call_response", "function_call_output"})
#: How the answer of a tool that failed starts, where nothing marks it as failed.
_FAILURES = ("error", "exception", "traceback", "failed", "fatal")


class LoopSettings(Settings):
    """Loop fingerprints: keyed hashes of prompts, by which calls that repeat are seen. Off: nothing is hashed."""

    enabled: bool = Field(
        default=False,
        description="Whether connectors that see prompts (`litellm`, spans of `otel_genai`, `content` of `usage_jsonl`)"
        " hash them before they drop them.",
    )
    key_hours: float = Field(
        default=1.0,
        gt=0,
        le=24,
        description="Hours after which the key of the hashes, which is held in memory alone, is replaced.",
    )


class _Message(NamedTuple):
    """One message of a conversation."""

    role: str
    text: str
    #: Tools it calls: names, and names with arguments.
    tools: tuple[str, ...]
    calls: tuple[str, ...]
    #: Whether a tool that answers here failed; None where none answers.
    failed: bool | None


class Fingerprints:
    """Makes the print of each call; holds the key."""

    def __init__(self, settings: LoopSettings, clock: Clock, secret: Callable[[int], bytes] = os.urandom) -> None:
        """`secret` gives so many random bytes."""
        self._period_s, self._clock, self._secret = settings.key_hours * HOUR_S, clock, secret
        self._key, self._until = b"", 0.0

    def of(self, messages: Any, *, session: str = "", seconds: float = 0.0) -> LoopPrint | None:
        """The print of a call with these messages, in the form of OpenAI, Anthropic or OTel GenAI as decoded JSON.

        `session` is the source's name of the conversation, `seconds` how long the call took. None where there is
        nothing to hash, or the source withholds it.
        """
        given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        if not isinstance(given, Sequence) or not given:
            return None
        try:
            head, tail = _read(given[:2]), _read(given[-_LAST_MESSAGES:])
        except RecursionError:
            return None
        if not tail or _is_withheld(tail[-1]):
            return None
        now = self._clock.now()
        if now >= self._until:
            self._key, self._until = self._secret(32), now + self._period_s
        last = tail[-1]
        # What a tool answered is the same only if it was asked the same.
        calls = [call for each in tail for call in each.calls][-_SEQUENCE:] if last.failed is not None else []
        asked = calls[-1:]
        return LoopPrint(
            session=self._hash("session", session) if session else 0,
            prefix=self._hash("prefix", *(part for each in head for part in (each.role, each.text, *each.calls))),
            last=self._hash("last", last.role, last.text, *last.calls, *asked),
            tools=self._hash("tools", *calls) if calls else 0,
            sketch=self._sketch(last.text, *asked),
            messages=len(given),
            failed=_failed_in_a_row(tail),
            seconds=seconds if 0 <= seconds < 1e6 else 0.0,
        )

    def _hash(self, *parts: str) -> int:
        """63 bits; parts are set apart by their lengths, so that no two lists of parts are one text."""
        raw = [part.encode("utf-8", "surrogatepass") for part in parts]
        content = b"".join(len(part).to_bytes(8, "big") + part for part in raw)
        return int.from_bytes(hmac.digest(self._key, content, "sha256")[:8], "big") >> 1

    def _sketch(self, text: str, *asked: str) -> int:
        """A simhash (Charikar 2002) of runs of words, each hashed under the key; far apart where `asked` differs."""
        if len(text) > 2 * _MOST_CHARS:
            text = f"{text[:_MOST_CHARS]} {text[-_MOST_CHARS:]}"
        words = text.split()
        if len(words) < _LEAST_WORDS:
            return 0
        if len(words) > _MOST_WORDS:
            words = words[: _MOST_WORDS // 2] + words[-_MOST_WORDS // 2 :]
        runs = {tuple(words[at : at + _SHINGLE]) for at in range(len(words) - _SHINGLE + 1)}
        hashes = np.array([self._hash("words", *run) for run in runs], np.uint64)
        bits = np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)
        packed = np.packbits(2 * bits.sum(axis=0, dtype=np.int64) > len(runs))
        return int.from_bytes(packed.tobytes(), "big") ^ (self._hash("asked", *asked) if asked else 0)


def _is_withheld(last: _Message) -> bool:
    text = last.text.strip().lower()
    # Tools may answer nothing; nobody asks nothing.
    return text in _WITHHELD or (not text and not last.calls and last.failed is None)


def _read(given: Sequence[Any]) -> list[_Message]:
    return [_message(each) for each in given if isinstance(each, Mapping)]


def _message(given: Mapping[str, Any]) -> _Message:
    role, content = str(given.get("role") or given.get("type") or ""), given.get("content", given.get("parts"))
    texts, calls, failed = list[str](), list[tuple[str, str]](), None
    own = [given] if given.get("type") in _CALLS | _RESULTS else []  # items of the Responses API
    for part in own or (content if isinstance(content, list) else [content]):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and kind in _CALLS:
            calls.append(_call(part))
        elif isinstance(part, Mapping) and kind in _RESULTS:
            text = _text(next((part[name] for name in ("content", "result", "response", "output") if name in part), ""))
            failed = bool(failed) or part.get("is_error") is True or _says_failed(text)
            texts.append(text)
        else:
            texts.append(_text(part))
    listed = given.get("tool_calls")
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, Mapping):
            function = each.get("function")
            calls.append(_call(function if isinstance(function, Mapping) else each))
    text = "\n".join(texts)
    if role in ("tool", "function") and failed is None:
        failed = _says_failed(text)
    return _Message(
        role, text, tuple(name for name, _ in calls), tuple(f"{name} {args}" for name, args in calls), failed
    )


def _call(given: Mapping[str, Any]) -> tuple[str, str]:
    return _text(given.get("name")), _text(given.get("arguments", given.get("input")))


def _text(given: Any) -> str:
    """The text of a part; what has none is its JSON, so that different pictures are different."""
    if isinstance(given, str):
        return given
    if given is None:
        return ""
    if isinstance(given, list):
        return "\n".join(map(_text, given))
    if isinstance(given, Mapping):
        own = given.get("text", given.get("content"))
        if isinstance(own, str):
            return own
    return msgspec.json.encode(given).decode()


def _says_failed(text: str) -> bool:
    start = text[:200].lstrip(" \t\r\n\"'[{<(").lower()
    if start.startswith(_FAILURES):
        value = start.partition(":")[2].lstrip(" \"'")
        return not value.startswith(("null", "none", "false", "0", "[]", "{}"))
    return False


def _failed_in_a_row(tail: Sequence[_Message]) -> int:
    """Steps at the end in which the same tools were called and failed."""
    steps, waiting, tools = 0, False, None
    for each in reversed(tail):
        if each.failed is not None:
            if not each.failed:
                break
            waiting = True
        elif each.tools:
            if not waiting or (tools is not None and each.tools != tools):
                break
            steps, waiting, tools = steps + 1, False, each.tools
        elif each.role == "user":
            break
    return steps
