"""Growth of rows that are read again: exact, in order, bounded, and promised before it is given."""

from __future__ import annotations

import random

import pytest

from curb.connectors.tokens.grown import Feed, Grown, Progress, Row, dump, load
from curb.stream.errors import PermanentError

A, B = ("p1", "gpt"), ("p2", "gpt")


def given(feed: Feed) -> list[tuple[float, ...]]:
    found = [grown.numbers for grown in feed.grown]
    feed.grown = []
    return found


def test_first_all_then_only_what_is_new() -> None:
    feed = Feed(0.0)
    assert feed.take([Row(60, A, (5, 1)), Row(0, A, (3, 0))])
    assert [(grown.start, grown.ordinal) for grown in feed.grown] == [(0, 0), (60, 0)]
    assert given(feed) == [(3, 0), (5, 1)]
    feed.take([Row(60, A, (7, 1)), Row(0, A, (3, 0)), Row(60, B, (1, 1))])
    assert [(grown.key, grown.ordinal) for grown in feed.grown] == [(A, 1), (B, 0)]
    assert given(feed) == [(2, 0), (1, 1)]


def test_a_row_that_comes_twice_counts_once() -> None:
    feed = Feed(0.0)
    feed.take([Row(0, A, (3,)), Row(0, A, (3,))])
    assert given(feed) == [(3,)]


def test_shrinking_is_ignored_or_signed() -> None:
    feed = Feed(0.0)
    feed.take([Row(0, A, (3, 3))])
    given(feed)
    feed.take([Row(0, A, (2, 4))])
    assert given(feed) == [(0, 1)]
    feed.take([Row(0, A, (3, 4))])
    assert given(feed) == []
    feed.take([Row(0, A, (1, 4))], signed=True)
    assert given(feed) == [(-2, 0)]
    feed.take([], signed=True)
    assert given(feed) == [(-1, -4)]


def test_settled_buckets_are_forgotten_and_never_come_back() -> None:
    feed = Feed(0.0)
    feed.take([Row(0, A, (3,)), Row(60, A, (4,))])
    feed.settle(60.0)
    feed.settle(30.0)
    assert (feed.settled, [row.start for row in feed.seen]) == (60.0, [60])


def test_sums_are_exact_whatever_is_read_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.grown.MAX_GROWN", 3)
    rng = random.Random(1)
    truth = dict.fromkeys([(start, key) for start in range(0, 600, 60) for key in (A, B)], 0)
    progress = Progress({"f": Feed(0.0)})
    sums = dict.fromkeys(truth, 0.0)
    ids: set[str] = set()
    for _ in range(200):
        for place in rng.sample(sorted(truth), 4):
            truth[place] += rng.randrange(5)
        progress = load(dump(progress))
        feed = progress.feeds["f"]
        for grown in feed.grown:
            sums[grown.start, grown.key] += grown.numbers[0]
            assert grown.id("s", "f") not in ids
            ids.add(grown.id("s", "f"))
        feed.grown = []
        feed.take([Row(start, key, (float(count),)) for (start, key), count in truth.items()])
    feed = progress.feeds["f"]
    while feed.grown:
        for grown in feed.grown:
            sums[grown.start, grown.key] += grown.numbers[0]
        feed.grown = []
        feed.take([Row(start, key, (float(count),)) for (start, key), count in truth.items()])
    assert sums == truth


def test_ids_tell_feeds_keys_and_ordinals_apart() -> None:
    grown = Grown(60.0, ("a", "b"), 0, (1.0,))
    others = [Grown(60.0, ("ab", ""), 0, ()), Grown(0.0, ("a", "b"), 0, ()), Grown(60.0, ("a", "b"), 1, ())]
    ids = {each.id("s", "f") for each in [grown, *others]} | {grown.id("s", "g"), grown.id("t", "f")}
    assert len(ids) == 6
    assert grown.id("s", "f") == Grown(60.0, ("a", "b"), 0, (9.0,)).id("s", "f")


def test_a_cursor_that_would_not_fit_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.connectors.tokens.grown.MAX_CURSOR_CHARS", 100)
    feed = Feed(0.0)
    feed.take([Row(start, (f"{start * 7919}",), (float(start),)) for start in range(100)])
    with pytest.raises(PermanentError, match="shorten reread_minutes"):
        dump(Progress({"f": feed}))
