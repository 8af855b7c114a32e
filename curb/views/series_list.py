"""Series by scope, tags and words, in pages: what an explorer needs of many thousands of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from curb.detector.shard import Shard
from curb.detector.state.registry import SeriesStatus

#: By what series are sorted, the most first.
SeriesOrder = Literal["burn", "over", "today", "total"]
ORDERS: tuple[SeriesOrder, ...] = get_args(SeriesOrder)


class SeriesWanted(NamedTuple):
    """Which series: of a scope, with these tags, with `words` somewhere in their values."""

    scope: str
    tags: Mapping[str, str] = MappingProxyType({})
    words: str = ""
    order: SeriesOrder = "burn"
    #: A tag: the series with the same value of it are one row. "" for a row a series.
    by: str = ""


class SeriesCursor(NamedTuple):
    """Where a page ended: the value it is sorted by, dollars in all, and the place of the series among all."""

    value: float
    total_usd: float
    place: int

    @classmethod
    def read(cls, text: str) -> SeriesCursor | None:
        """What `str` wrote; None for anything else."""
        try:
            value, total, place = text.split("_")
            return cls(float.fromhex(value), float.fromhex(total), int(place))
        except (ValueError, OverflowError):
            return None

    def __str__(self) -> str:
        return f"{self.value.hex()}_{self.total_usd.hex()}_{self.place}"


class SeriesSums(NamedTuple):
    """All series that were found, together."""

    series: int
    usd_per_hour: float
    expected_usd_per_hour: float
    today_usd: float
    total_usd: float


class SeriesFound(NamedTuple):
    """A page of series, the sums of all pages, and where the next one begins."""

    rows: list[SeriesStatus]
    sums: SeriesSums
    next: SeriesCursor | None


class _Rows(NamedTuple):
    """Rows to be sorted: their tags by number, and their figures."""

    tags: Sequence[dict[str, str]]
    rate: NDArray[np.float64]
    expected: NDArray[np.float64]
    today: NDArray[np.float64]
    total: NDArray[np.float64]

    def grouped(self, by: str, above: Mapping[str, str]) -> _Rows:
        """The sums of the rows with the same value of a tag; rows without it are left out."""
        having = np.array([i for i, tags in enumerate(self.tags) if by in tags], np.intp)
        number: dict[str, int] = {}
        which = np.array([number.setdefault(self.tags[i][by], len(number)) for i in having.tolist()], np.intp)
        sums = (np.bincount(which, each[having], len(number)).astype(np.float64) for each in self[1:])
        return _Rows([{**above, by: name} for name in number], *sums)


def find_series(
    shards: Iterable[Shard], wanted: SeriesWanted, *, limit: int, after: SeriesCursor | None = None
) -> SeriesFound:
    """The page of at most `limit` series behind `after`. Rates move between two pages: a series may move with them."""
    found = _found(shards, wanted)
    if wanted.by:
        found = found.grouped(wanted.by, wanted.tags)
    sums = SeriesSums(len(found.tags), *(float(each.sum()) for each in found[1:]))
    value = {"burn": found.rate, "over": found.rate - found.expected, "today": found.today, "total": found.total}
    ranked = np.rec.fromarrays([-value[wanted.order], -found.total, np.arange(len(found.tags))])
    order = np.lexsort((-found.total, -value[wanted.order]))  # stable: the same place by place
    begin = 0
    if after is not None:
        behind = np.array((-after.value, -after.total_usd, after.place), ranked.dtype)
        begin = int(np.searchsorted(ranked[order], behind, side="right"))
    shown = order[begin : begin + limit].tolist()
    rows = [SeriesStatus(wanted.scope, found.tags[i], *(float(each[i]) for each in found[1:])) for i in shown]
    last = shown[-1] if len(order) > begin + limit else None
    cursor = None if last is None else SeriesCursor(float(value[wanted.order][last]), float(found.total[last]), last)
    return SeriesFound(rows, sums, cursor)


def _found(shards: Iterable[Shard], wanted: SeriesWanted) -> _Rows:
    """All series that are wanted, of all shards."""
    tags: list[dict[str, str]] = []
    columns: list[list[NDArray[np.float64]]] = [[np.zeros(0)], [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]]
    for shard in shards:
        money = shard.money()
        places = _matching(money.scopes, money.tags, wanted)
        tags += [money.tags[i] for i in places.tolist()]
        figures = (money.usd_per_hour, money.expected_usd_per_hour, money.today_usd, money.total_usd)
        for column, each in zip(columns, figures, strict=True):
            column.append(each[places])
    rate, expected, today, total = map(np.concatenate, columns)
    return _Rows(tags, rate, expected, today, total)


def _matching(scopes: Sequence[str], tags: Sequence[dict[str, str]], wanted: SeriesWanted) -> NDArray[np.intp]:
    places = np.flatnonzero(np.array(scopes, dtype=object) == wanted.scope) if scopes else np.zeros(0, np.intp)
    if wanted.tags:
        items = wanted.tags.items()
        places = np.array([i for i in places.tolist() if items <= tags[i].items()], np.intp)
    for word in wanted.words.casefold().split():
        places = np.array([i for i in places.tolist() if word in " ".join(tags[i].values()).casefold()], np.intp)
    return places
