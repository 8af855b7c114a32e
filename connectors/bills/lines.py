"""Record batches of a bill → lines in columns, by a form that says which columns mean what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curb.connectors.bills.arrow import to_numbers
from curb.connectors.bills.files import canonical
from curb.connectors.bills.sums import Floats, Interner, Ints, Lines
from curb.connectors.bills.tags import BillTags
from curb.stream.errors import PermanentError
from curb.stream.time import DAY_S


def epoch(text: str) -> int:
    """Seconds of an ISO 8601 time, in UTC when it names no zone; 0 for what is none."""
    try:
        moment = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return 0
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


class Texts(Protocol):
    """How a form reads columns of the current batch, by canonical name; absent ones are zeros and empty texts."""

    def has(self, *names: str) -> bool: ...

    def amounts(self, *names: str) -> Floats: ...

    def texts(self, *names: str) -> pa.Array: ...


class BillForm(NamedTuple):
    """One way to write a bill. Column names are canonical (`bill_files.canonical`), the first that is there counts."""

    name: str
    #: Needed columns as they are documented, for the error that names a missing one; "A or B" where one is enough.
    required: tuple[str, ...]
    start: tuple[str, ...]
    #: Empty where every line is of a day.
    end: tuple[str, ...]
    #: Columns that are amounts.
    amounts: tuple[str, ...]
    #: What is told apart → the columns that may hold it.
    texts: Mapping[str, tuple[str, ...]]
    #: Columns with tags as a map or as JSON, best first; flat columns begin with one of their names.
    tags: tuple[str, ...]
    #: Lines' (effective, billed); NaN where a line cannot be read.
    cost: Callable[[Texts], tuple[Floats, Floats]]
    #: The texts of a line → (FOCUS charge category, whether it corrects an invoiced period).
    category: Callable[[Mapping[str, str]], tuple[str, bool]]
    #: A time as it is written → epoch seconds, 0 for what is none.
    moment: Callable[[str], int] = epoch
    #: Of all lines that name no other.
    provider: str = ""


class BillLines:
    """Reads the batches of one delivery: `choose` for each file, then `read` for each of its batches.

    `keys` are the form's texts to tell apart, `tags` is Curb's tag → key in the bill.
    """

    def __init__(self, form: BillForm, keys: Sequence[str], tags: Mapping[str, str]) -> None:
        self._form, self._keys = form, [key for key in form.texts if key in keys]
        self._tags = BillTags(tags, form.tags)
        self.interners = {name: Interner() for name in (*self._keys, *(f"tag:{tag}" for tag in tags))}
        self._at: dict[str, str] = {}
        self._batch: pa.RecordBatch | None = None
        self._moments, self._epochs = Interner(), list[int]()

    @property
    def bad_tags(self) -> list[str]:
        """Different texts of tags that are not JSON, the first few; their lines are counted without tags."""
        return self._tags.bad

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read of those that there are. Raises PermanentError that names what is missing."""
        form, there = self._form, {canonical(name): name for name in reversed(names)}
        missing = [name for name in form.required if not any(canonical(one) in there for one in name.split(" or "))]
        if missing:
            raise PermanentError(
                f"not a {form.name} bill, or an incomplete one: column {', '.join(missing)} is missing"
            )
        texts = [column for key in self._keys for column in form.texts[key] if column in there]
        wanted = dict.fromkeys([*form.start, *form.end, *form.amounts, *texts])
        chosen = [there[name] for name in wanted if name in there]
        chosen += [name for name in self._tags.choose(names) if name not in chosen]
        self._at = {canonical(name): name for name in chosen}
        return chosen

    def read(self, batch: pa.RecordBatch) -> tuple[Lines, NDArray[np.bool_]]:
        """Its lines, and which of its rows they are: those with times and finite amounts."""
        self._batch = batch
        start = self._seconds(self._form.start)
        end = self._seconds(self._form.end) if self._form.end else start + DAY_S
        effective, billed = self._form.cost(self)
        keys = {key: self.interners[key].numbers(self.texts(*self._form.texts[key])) for key in self._keys}
        for tag, values in self._tags.of(batch).items():
            keys[f"tag:{tag}"] = self.interners[f"tag:{tag}"].numbers(values)
        good = np.isfinite(effective) & np.isfinite(billed) & (start > 0) & (end >= start)
        lines = Lines(start, end, effective, billed, keys)
        if not good.all():
            kept = {name: numbers[good] for name, numbers in keys.items()}
            lines = Lines(start[good], end[good], effective[good], billed[good], kept)
        return lines, good

    # --- as Texts, for the form --------------------------------------------------------------------------------------

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self._at for name in names)

    def amounts(self, *names: str) -> Floats:
        """The first of the columns that is there, in which a null is zero. Text that is no number is NaN."""
        column = self._column(names)
        if column is None:
            return np.zeros(len(self._rows()))
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            return _numbers(column.cast(pa.string()))
        return to_numbers(column.cast(pa.float64(), safe=False), 0.0)

    def texts(self, *names: str) -> pa.Array:
        """The first of the columns that is there, as text."""
        column = self._column(names)
        if column is None:
            return pa.nulls(len(self._rows()), pa.string())
        return column if pa.types.is_dictionary(column.type) else column.cast(pa.string())

    def _rows(self) -> pa.RecordBatch:
        if self._batch is None:
            raise RuntimeError("no current batch")
        return self._batch

    def _column(self, names: Sequence[str]) -> pa.Array | None:
        found = next((self._at[name] for name in names if name in self._at), None)
        return None if found is None else self._rows().column(found)

    def _seconds(self, names: Sequence[str]) -> Ints:
        """Epoch seconds; 0 for what is no time."""
        column = self._column(names)
        assert column is not None  # `choose` has seen to it
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            return to_numbers(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()), 0)
        numbers, moments = self._moments.numbers(self.texts(*names)), self._moments.values
        self._epochs += [self._form.moment(text) for text in moments[len(self._epochs) :]]
        return np.array(self._epochs, np.int64)[numbers]


def _numbers(texts: pa.Array) -> Floats:
    """Texts as numbers, 0 for none at all, NaN where one is no number."""
    try:
        return to_numbers(texts.cast(pa.float64()), 0.0)
    except pa.ArrowInvalid:
        return np.array([0.0 if text is None else _number(text) for text in texts.to_pylist()])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
