"""Series in pages: filtered, searched, grouped and sorted; every series on exactly one page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curb.detector.state.registry import SeriesMoney
from curb.views.series_list import ORDERS, SeriesCursor, SeriesFound, SeriesWanted, find_series


class Shard:
    """Series of two scopes with figures that follow from their number."""

    def __init__(self, count: int, first: int = 0) -> None:
        numbers = range(first, first + count)
        self.tags = [{"team": f"t{i % 3}", "api_key": f"Key-{i}"} for i in numbers]
        self.scopes = ["key"] * count
        self.tags.append({"team": "t0"})
        self.scopes.append("team")
        self.rate = np.array([float(i % 7) for i in numbers] + [99.0])

    def money(self) -> SeriesMoney:
        total = np.arange(len(self.rate), dtype=np.float64)
        return SeriesMoney(self.scopes, self.tags, total, total, self.rate, self.rate / 2, total / 10)


def found(wanted: SeriesWanted, *shards: Any, limit: int = 1000, after: SeriesCursor | None = None) -> SeriesFound:
    return find_series(shards, wanted, limit=limit, after=after)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("by", ["", "api_key"])
def test_pages_together_are_the_whole_list(order: Any, by: str) -> None:
    shards = (Shard(40), Shard(25, first=40))
    wanted = SeriesWanted("key", order=order, by=by)
    whole = found(wanted, *shards)
    pages: list[Any] = []
    after = None
    while True:
        one = found(wanted, *shards, limit=7, after=after)
        pages += one.rows
        if one.next is None:
            break
        after = SeriesCursor.read(str(one.next))
    assert pages == whole.rows
    assert len(pages) == 65
    assert one.sums == whole.sums, "the sums are those of all pages"


def test_the_most_come_first() -> None:
    rates = [row.usd_per_hour for row in found(SeriesWanted("key"), Shard(30)).rows]
    assert rates == sorted(rates, reverse=True)


def test_tags_and_words_filter() -> None:
    of_team = found(SeriesWanted("key", {"team": "t1"}), Shard(30))
    assert of_team.sums.series == 10
    assert {row.tags["team"] for row in of_team.rows} == {"t1"}
    assert [row.tags["api_key"] for row in found(SeriesWanted("key", words="kEY-29 T2"), Shard(30)).rows] == ["Key-29"]
    assert found(SeriesWanted("key", words="elsewhere"), Shard(30)).rows == []


def test_a_row_for_each_value_of_a_tag() -> None:
    one = found(SeriesWanted("key", by="team"), Shard(30))
    assert sorted(row.tags["team"] for row in one.rows) == ["t0", "t1", "t2"]
    assert one.sums.usd_per_hour == sum(float(i % 7) for i in range(30))
    assert found(SeriesWanted("team", by="api_key"), Shard(30)).rows == []


def test_nothing_is_found_in_nothing() -> None:
    assert found(SeriesWanted("key")) == SeriesFound([], (0, 0.0, 0.0, 0.0, 0.0), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "1", "x_y_1", "0x1p0_0x1p0_one", "0x1p0_0x1p0_1_1", "0x1p99999_0x1p0_1"])
def test_a_cursor_that_is_none(text: str) -> None:
    assert SeriesCursor.read(text) is None
