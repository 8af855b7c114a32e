"""Record batches of a bill → lines in columns, by a form that says which columns mean what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curb.connectors.bills.cells.arrow import to_numbers
from curb.connectors.bills.cells.rates import CurrencyRates
from curb.connectors.bills.cells.tags import BillTags
from curb.connectors.bills.cells.values import Moments, amounts, as_text, numeric_seconds, there
from curb.connectors.bills.charges import LineKind
from curb.connectors.bills.files import canonical, spellings
from curb.connectors.bills.guard import Unusable
from curb.connectors.bills.split import SplitCosts
from curb.connectors.bills.sums import Floats, Interner, Ints, Lines, Settled, Totals
from curb.connectors.decode import Rejected
from curb.stream.money import usd as money
from curb.stream.time import DAY_S

#: The name of the text of a line that says in which group it is settled.
GROUP = "group"
#: Dollars of one line at most. By hand: no line of a bill has as many; an identifier in the place of an amount has.
_LARGEST_USD = 1e8


class Texts(Protocol):
    """How a form reads columns of the current batch, by canonical name; absent ones are zeros and empty texts."""

    @property
    def rows(self) -> int: ...

    def has(self, *names: str) -> bool: ...

    def given(self, name: str) -> NDArray[np.bool_]: ...

    def amounts(self, *names: str) -> Floats: ...

    def texts(self, *names: str) -> pa.Array: ...


def _settle_nothing(_totals: Totals, _has: Callable[..., bool]) -> Settled:
    return {}


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
    #: The texts of a line → what it is.
    category: Callable[[Mapping[str, str]], LineKind]
    #: Dollars per unit of the line's currency as the line itself says, NaN where it does not.
    usd: Callable[[Texts], Floats]
    #: Lines → for each its place in names of groups, empty for none, that `settle` decides on when all are known.
    group: Callable[[Texts], tuple[NDArray[np.int32], list[str]]] | None = None
    #: What groups amount to, and which columns are there → the factors of their dollars.
    settle: Callable[[Totals, Callable[..., bool]], Settled] = _settle_nothing
    #: Whether 10/2/2026 is in October; None: learned from the dates.
    month_first: bool | None = None
    #: Of all lines that name no other.
    provider: str = ""
    #: Dimension → its key in the maps of `tags`, where it has no column of its own.
    nested: Mapping[str, str] = {}
    #: Whether lines may share out the cost of others (split cost allocation).
    splits: bool = False


def ratio(lines: Texts, *pairs: tuple[str, str]) -> Floats:
    """The second amount of the first pair that is there over the first amount; NaN where one of them is zero."""
    found = np.full(lines.rows, np.nan)
    for of, to in pairs:
        if lines.has(of, to):
            below, above = lines.amounts(of), lines.amounts(to)
            fits = np.isnan(found) & (below != 0) & (above != 0)
            found[fits] = above[fits] / below[fits]
    return found


class BillLines:
    """Reads the batches of one delivery: `choose` for each file, then `read` for each of its batches.

    `keys` are the form's texts to tell apart, `tags` is Curb's tag → key in the bill. `columns` is a documented column
    → how this bill calls it. `split` are the shares of the delivery, where it has some.
    """

    def __init__(
        self,
        form: BillForm,
        keys: Sequence[str],
        tags: Mapping[str, str],
        rates: CurrencyRates,
        columns: Mapping[str, str] | None = None,
        split: SplitCosts | None = None,
    ) -> None:
        self._form, self._keys, self._rates = form, [key for key in form.texts if key in keys], rates
        self._split = split
        self._tags = BillTags(tags, form.tags)
        self._renamed = {canonical(theirs): canonical(ours) for ours, theirs in (columns or {}).items()}
        groups = () if form.group is None else (GROUP,)
        self.interners = {name: Interner() for name in (*self._keys, *(f"tag:{tag}" for tag in tags), *groups)}
        self._at: dict[str, str] = {}
        #: Columns of any file so far.
        self._seen: set[str] = set()
        self._batch: pa.RecordBatch | None = None
        self._times, self._moments, self._epochs = Moments(month_first=form.month_first), Interner(), list[int]()
        self._known = {*form.start, *form.end, *form.amounts, *form.tags}.union(*form.texts.values())

    @property
    def bad_tags(self) -> list[str]:
        """Different texts of tags that are not JSON, the first few; their lines are counted without tags."""
        return self._tags.bad

    def choose(self, names: Sequence[str]) -> list[str]:
        """The columns to read of those that there are. Raises Unusable that names what is missing."""
        form = self._form
        there = {self._called(name): name for name in reversed(names)}
        missing = [name for name in form.required if not any(canonical(one) in there for one in name.split(" or "))]
        if missing:
            raise Unusable(
                f"not a {form.name} bill, or an incomplete one: column {', '.join(missing)} is missing; there are "
                f"{_some(names)}. Where they only have other names, set `columns`"
            )
        texts = [column for key in self._keys for column in form.texts[key] if column in there]
        wanted = dict.fromkeys([*form.start, *form.end, *form.amounts, *texts])
        self._at = {name: there[name] for name in wanted if name in there}
        self._seen |= self._at.keys()
        chosen = list(self._at.values())
        chosen += self._tags.choose(names, self._called)
        if self._split is not None:
            chosen += self._split.choose(names)
        return list(dict.fromkeys(chosen))

    def settle(self, totals: Totals) -> Settled:
        """The factors of the groups' dollars, when all lines were read."""
        return self._form.settle(totals, lambda *names: all(name in self._seen for name in names))

    def _called(self, name: str) -> str:
        """The canonical name of a column: as configured, else the spelling that the form knows."""
        spelled = spellings(name)
        renamed = next((self._renamed[each] for each in spelled if each in self._renamed), None)
        return renamed or next((each for each in spelled if each in self._known), spelled[0])

    def read(self, batch: pa.RecordBatch) -> tuple[Lines, list[tuple[int, Rejected]]]:
        """Its lines in dollars, and the rows that are none: without times, or with an amount that is no number."""
        self._batch = batch
        start = self._seconds(self._form.start)
        end = self._seconds(self._form.end) if self._form.end else start + DAY_S
        effective, billed = self._form.cost(self)
        if self._split is not None:
            effective = self._split.applied(batch, effective)
        keys = {key: self.interners[key].numbers(self.texts(*self._form.texts[key])) for key in self._keys}
        for tag, values in self._tags.of(batch).items():
            keys[f"tag:{tag}"] = self.interners[f"tag:{tag}"].numbers(values)
        if self._form.group is not None:
            places, names = self._form.group(self)
            keys[GROUP] = np.array([self.interners[GROUP].number(name) for name in names], np.int32)[places]
        usd = self._usd(keys, start, (effective == 0) & (billed == 0))
        sound = np.isfinite(effective) & np.isfinite(billed) & (start > 0) & (end >= start)
        lines = Lines(start, end, effective * usd, billed * usd, keys)
        small = (abs(lines.effective) <= _LARGEST_USD) & (abs(lines.billed) <= _LARGEST_USD)
        good = sound & np.isfinite(usd) & small
        if good.all():
            return lines, []
        kept = {name: numbers[good] for name, numbers in keys.items()}
        lines = Lines(start[good], end[good], lines.effective[good], lines.billed[good], kept)
        return lines, [(at, self._why(at, keys, start, sound, usd)) for at in np.flatnonzero(~good).tolist()]

    def _usd(self, keys: Mapping[str, NDArray[np.int32]], start: Ints, nothing: NDArray[np.bool_]) -> Floats:
        """Dollars per unit: 1 for dollars, what the line says, else the configured rate; NaN without any."""
        currencies = self.interners["currency"].values
        dollars = np.array([each.upper() in ("", "USD") for each in currencies] or [True])[keys["currency"]]
        usd = np.where(dollars | nothing, 1.0, np.nan)
        if not np.isnan(usd).any():
            return usd
        usd = np.where(np.isnan(usd), self._form.usd(self), usd)
        return np.where(np.isnan(usd), self._rates.of(currencies, keys["currency"], start), usd)

    def _why(
        self, row: int, keys: Mapping[str, NDArray[np.int32]], start: Ints, sound: NDArray[np.bool_], usd: Floats
    ) -> Rejected:
        if start[row] <= 0:
            return Rejected("invalid", "a line without a time that can be read")
        if not sound[row]:
            return Rejected("invalid", "a line that ends before it begins, or with an amount that is no number")
        if np.isfinite(usd[row]):
            return Rejected("invalid", f"a line of more than {money(_LARGEST_USD)}")
        currency = self.interners["currency"].values[int(keys["currency"][row])][:8]
        return Rejected("invalid", f"a line in {currency} without dollars of its own: set usd_per for {currency}")

    # --- as Texts, for the form --------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        return len(self._rows())

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self._at for name in names)

    def amounts(self, *names: str) -> Floats:
        """The first of the columns that is there, in which a null is zero. Text that is no number is NaN."""
        column = self._column(names)
        return np.zeros(self.rows) if column is None else amounts(column)

    def given(self, name: str) -> NDArray[np.bool_]:
        """Where a column has a value."""
        column = self._column((name,))
        return np.zeros(self.rows, np.bool_) if column is None else there(column)

    def texts(self, *names: str) -> pa.Array:
        """The first of the columns that is there, as text."""
        column = self._column(names)
        return pa.nulls(self.rows, pa.string()) if column is None else as_text(column)

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
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return numeric_seconds(column)
        numbers, moments = self._moments.numbers(self.texts(*names)), self._moments.values
        self._epochs += self._times.seconds(moments[len(self._epochs) :])
        return np.array(self._epochs, np.int64)[numbers]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:12])
    return (shown or "no columns") + (f" and {len(names) - 12} more" if len(names) > 12 else "")
