"""Cells of a bill as numbers and as times, in the spellings that vendors and their locales use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curb.connectors.bills.cells.arrow import to_numbers
from curb.connectors.bills.sums import Floats, Ints

#: Signs around an amount that carry no value: currencies, spaces of every width, apostrophes between thousands.
_AROUND = re.compile(r"[\s\u00a0\u202f'\u2019$€£¥₹]|\b[A-Z]{3}\b")
_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")
_DATE = re.compile(
    r"\s*(\d{1,4})([/.-])(\d{1,2})\2(\d{4}|\d{1,2})"
    r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*([AaPp][Mm])?)?\s*(?:Z|UTC)?"
)
_NAMED = ("%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%d %b %Y", "%B %d, %Y", "%d %B %Y")
#: Epoch seconds are below, milliseconds, microseconds and nanoseconds above, each by a factor of 1,000.
_MOST_SECONDS = 1e11
_NUMERIC = re.compile(r"\d{9,}(\.\d*)?")


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(texts: pa.Array) -> Floats:
    """Texts as numbers: 0 for none at all, NaN for what is none. `1,5` and `1.234,50` are read, and `1,234.50`."""
    try:
        return to_numbers(texts.cast(pa.float64()), 0.0)
    except pa.ArrowInvalid:
        values = [None if text is None else _AROUND.sub("", text) for text in texts.to_pylist()]
    comma = _decimal_comma([value for value in values if value])
    return np.array([0.0 if value is None else _number(value, comma=comma) for value in values])


def _decimal_comma(values: Sequence[str]) -> bool:
    """Whether a lone comma before three digits is a decimal one: others show it, and no point does."""
    plain = [value for value in values if not _GROUPS.fullmatch(value)]
    commas = sum(value.rfind(",") > value.rfind(".") for value in plain)
    return commas > sum(value.rfind(".") > value.rfind(",") for value in plain)


def _number(value: str, *, comma: bool) -> float:
    if value.startswith("(") and value.endswith(")"):
        value = "-" + value[1:-1]
    if value.endswith("-"):
        value = "-" + value[:-1]
    value = value.replace("\u2212", "-")
    point = "," if comma else "."
    if "," in value and "." in value:
        point = max(",.", key=value.rfind)
    elif not _GROUPS.fullmatch(value):
        point = "," if "," in value else "."
    elif value.count(",") + value.count(".") > 1:
        point = ""  # several groups: none of them is a fraction
    text = "".join("." if each == point else each for each in value if each == point or each not in ",.")
    try:
        return float(text)
    except ValueError:
        return float("nan")


# --- times ------------------------------------------------------------------------------------------------------------


def epoch(text: str) -> int:
    """Seconds of an ISO 8601 time, in UTC when it names no zone, or of an epoch; 0 for what is none."""
    text = text.strip()
    if _NUMERIC.fullmatch(text):
        return int(_seconds(np.array([float(text)]))[0])
    try:
        moment = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


class Moments:
    """Texts of times → epoch seconds, 0 for what is none.

    Whether 10/2/26 is in October or in February is decided by the first dates that come: the reading under which more
    of them exist and lie closer together; the month first when both do. `month_first` decides it beforehand.
    """

    def __init__(self, *, month_first: bool | None = None) -> None:
        self._month_first = month_first

    def seconds(self, texts: Sequence[str]) -> list[int]:
        """The times of texts, in their order."""
        found = [epoch(text) if "/" not in text else 0 for text in texts]
        rest = [at for at, known in enumerate(found) if not known and texts[at].strip()]
        matches = {at: match for at in rest if (match := _DATE.fullmatch(texts[at])) is not None}
        if matches and self._month_first is None:
            self._month_first = _month_first(list(matches.values()))
        for at in rest:
            match = matches.get(at)
            found[at] = _named(texts[at]) if match is None else _moment(match, month_first=bool(self._month_first))
        return found


def _month_first(matches: Sequence[re.Match[str]]) -> bool:
    if matches[0][2] == ".":
        return False

    def judged(*, month_first: bool) -> tuple[int, int]:
        times = [at for match in matches if (at := _moment(match, month_first=month_first))]
        return len(times), min(times, default=0) - max(times, default=0)

    return judged(month_first=True) >= judged(month_first=False)


def _moment(match: re.Match[str], *, month_first: bool) -> int:
    first, sign, second, third, hour, minute, second_of_minute, half = match.groups()
    if len(first) > 2:
        year, month, day = int(first), int(second), int(third)
    elif month_first and sign != ".":
        year, month, day = int(third), int(first), int(second)
    else:
        year, month, day = int(third), int(second), int(first)
    hours = int(hour or 0)
    if half:
        hours = hours % 12 + (12 if half.lower() == "pm" else 0)
    try:
        found = datetime(
            year if year > 99 else 2000 + year, month, day, hours, int(minute or 0), int(second_of_minute or 0), 0, UTC
        )
    except ValueError:
        return 0
    return int(found.timestamp())


def _named(text: str) -> int:
    for form in _NAMED:
        try:
            return int(datetime.strptime(text.strip(), form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    return 0


def numeric_seconds(column: pa.Array) -> Ints:
    """Times in numbers: epochs in seconds or finer, or days written 20261002; 0 for null."""
    return _seconds(to_numbers(column.cast(pa.float64(), safe=False), 0.0))


def _seconds(given: Floats) -> Ints:
    days = (given >= 19_000_101) & (given <= 21_001_231)
    size = np.floor(np.maximum(np.log10(np.maximum(np.abs(given), 1.0) / _MOST_SECONDS), -3.0) / 3.0) + 1.0
    seconds = (given / 1000.0 ** np.maximum(size, 0.0)).astype(np.int64)
    for at in np.flatnonzero(days):
        seconds[at] = epoch(str(int(given[at])))
    return seconds


# --- texts ------------------------------------------------------------------------------------------------------------


def as_text(column: pa.Array) -> pa.Array:
    """A column of any type as text; dictionaries stay as they are."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column if _is_text(kind.value_type) else as_text(column.dictionary_decode())
    if pa.types.is_nested(kind):
        return pa.array([None if each is None else str(each) for each in column.to_pylist()], pa.string())
    if pa.types.is_floating(kind):  # ids that a spreadsheet made numbers
        whole = column.cast(pa.float64())
        if pc.all(pc.equal(pc.floor(whole), whole)).as_py() is not False:
            column = whole.cast(pa.int64(), safe=False)
    return column.cast(pa.string())


def there(column: pa.Array) -> NDArray[np.bool_]:
    """Where a column has a value."""
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    valid = column.is_valid()
    bits = np.unpackbits(np.frombuffer(valid.buffers()[1], np.uint8), bitorder="little")
    found: NDArray[np.bool_] = bits[valid.offset : valid.offset + len(valid)].astype(np.bool_)
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def amounts(column: pa.Array) -> Floats:
    """A column of amounts of any type; 0 for null, NaN for what is no number."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return amounts(column.dictionary_decode())
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        # As it was written: 1.1 in 32 bits is 1.10000002 in 64.
        return numbers(column.cast(pa.float32()).cast(pa.string()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return to_numbers(column.cast(pa.float64(), safe=False), 0.0)
    return numbers(as_text(column))
