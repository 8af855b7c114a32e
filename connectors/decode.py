"""Bytes of one event → a struct, or the reason why not; tolerant of what JSON forbids but encoders emit."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import NamedTuple, TypeVar

import msgspec

from curb.stream.log.protocol import Message
from curb.stream.records.dead_letters import Reason, dead_letter

T = TypeVar("T")
_QUOTED = re.compile(r"'[^']*'")
#: What content of the right types may still raise where it is converted: a number out of range, a text that is no
#: UTF-8, a comparison of text with a number. Caught for each event, so that its neighbours survive.
UNFORESEEN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
#: Letters written one by one for one batch; a file that is no event file at all gets one more per reason.
MAX_LETTERS = 1000


class Rejected(NamedTuple):
    """Why an event could not be read. `detail` names fields and types, never content."""

    reason: Reason
    detail: str


def unforeseen(error: Exception) -> Rejected:
    """Why an event is refused whose conversion raised one of UNFORESEEN; the text of the error may be content."""
    reason: Reason = "invalid"
    if isinstance(error, ArithmeticError):
        reason = "not_finite"
    elif isinstance(error, TypeError | AttributeError):
        reason = "wrong_type"
    return Rejected(reason, f"a value that cannot be converted ({type(error).__name__})")


class Letters:
    """The dead letters of one batch. Past MAX_LETTERS the rest is counted and recorded once per reason."""

    def __init__(self, source: str, at: float) -> None:
        self._source, self._at = source, at
        self._written: list[Message] = []
        self._more: Counter[Reason] = Counter()
        self._last_location = ""

    def add(self, rejected: Rejected, *, location: str, content: bytes) -> None:
        """Refuse `content`, read at `location`."""
        if len(self._written) >= MAX_LETTERS:
            self._more[rejected.reason] += 1
            self._last_location = location
            return
        letter = dead_letter(
            self._source, rejected.reason, rejected.detail, location=location, content=content, at=self._at
        )
        self._written.append(letter)

    def messages(self) -> list[Message]:
        """What to append; call it once, at the end of the batch."""
        for reason, count in self._more.items():
            detail = f"{count} more in the same batch"
            location = f"up to {self._last_location}"
            letter = dead_letter(self._source, reason, detail, location=location, content=b"", at=self._at, count=count)
            self._written.append(letter)
        self._more.clear()
        return self._written


def decode(decoder: msgspec.json.Decoder[T], raw: bytes) -> T | Rejected:
    """One event. Fields the struct does not have are skipped without becoming Python objects.

    NaN, Infinity and lone surrogates are not JSON, yet common encoders emit them; they are let through here and judged
    by `connectors.validate` where they matter, so that one in an ignored field loses nothing.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        return wrong_shape(error)
    except UnicodeDecodeError as error:
        return Rejected("not_utf8", f"invalid UTF-8 at byte {error.start}")
    except RecursionError:
        return Rejected("not_json", "nested too deeply")
    except (msgspec.DecodeError, ValueError) as error:
        return _decode_tolerant(decoder, raw, error)


def _decode_tolerant(decoder: msgspec.json.Decoder[T], raw: bytes, strict_error: Exception) -> T | Rejected:
    try:
        plain = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Rejected("not_utf8", f"invalid UTF-8 at byte {error.start}")
    except RecursionError:
        return Rejected("not_json", "nested too deeply")
    except ValueError:
        return Rejected("not_json", without_content(strict_error))
    try:
        converted: T = msgspec.convert(plain, decoder.type)
        return converted
    except msgspec.ValidationError as error:
        return wrong_shape(error)
    except OverflowError:
        return Rejected("not_finite", "a number is out of range")
    except UNFORESEEN as error:
        return unforeseen(error)


def mend(raw: bytes) -> bytes | None:
    """JSON without what JSON forbids and some encoders emit: NaN and the like become text, lone surrogates "?".

    So one such value in a page of rows spoils its own row only. None for what is no JSON in any reading.
    """
    try:
        plain = json.loads(raw.decode("utf-8"), parse_constant=str, parse_float=_finite)
        return json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return None


def _finite(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def wrong_shape(error: msgspec.ValidationError) -> Rejected:
    """Why something of the wrong shape is refused."""
    text = str(error)
    if "missing required field" in text:
        return Rejected("missing_field", text)
    if "out of range" in text:
        return Rejected("not_finite", text)
    return Rejected("wrong_type", without_content(error))


def without_content(error: Exception) -> str:
    """The error's text without quoted values, which may be content."""
    return _QUOTED.sub("'…'", str(error))
