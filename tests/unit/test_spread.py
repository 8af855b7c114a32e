"""Records in pieces: together they are the record, each lies in its bucket, and each is given out once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.rollup.spread import Rows, Waiting, coarse, pieces
from curb.detector.rollup.sums import COMMON

ALL = np.inf


def rows(*records: tuple[float, float, float, int]) -> Rows:
    """Records of one scope: start, duration, dollars, requests."""
    values = np.zeros((7, len(records)))
    values[0] = [usd for _, _, usd, _ in records]
    values[1] = [requests for *_, requests in records]
    return Rows(
        np.arange(len(records)).reshape(-1, 1),
        np.array([start for start, *_ in records], float),
        np.array([duration for _, duration, *_ in records], float),
        values,
    )


def cut(given_rows: Rows, until: float = ALL) -> list[tuple[int, int, float, float]]:
    found = pieces(given_rows, np.full(len(given_rows.start), -np.inf), until, 60, samples=False)
    numbers = (found.series[:, 0].tolist(), found.bucket.tolist(), found.values[0].tolist(), found.values[1].tolist())
    return [(i, at, round(usd, 9), n) for i, at, usd, n in zip(*numbers, strict=True)]


def test_five_minutes_are_five_minutes() -> None:
    assert cut(rows((600, 300, 10.0, 7))) == [
        (0, 600, 2.0, 1.0),
        (0, 660, 2.0, 1.0),
        (0, 720, 2.0, 2.0),
        (0, 780, 2.0, 1.0),
        (0, 840, 2.0, 2.0),
    ]


def test_the_ends_get_their_share() -> None:
    assert cut(rows((645, 60, 4.0, 4))) == [(0, 600, 1.0, 1.0), (0, 660, 3.0, 3.0)]


def test_a_moment_is_one_piece() -> None:
    assert cut(rows((659.9, 0, 4.0, 3))) == [(0, 600, 4.0, 3.0)]


def test_a_day_is_at_most_sixty_one_pieces_none_before_it() -> None:
    found = cut(rows((86400 + 61, 86400, 144.0, 0)))
    assert len(found) <= 61
    assert min(bucket for _, bucket, *_ in found) == 86460
    assert abs(sum(usd for *_, usd, _ in found) - 144.0) < 1e-9


def test_samples_are_in_every_piece() -> None:
    values = np.array([[6.0]] + [[0.0]] * (COMMON - 1) + [[1.0], [50.0], [20.0]])
    found = pieces(
        Rows(np.zeros((1, 1), np.int64), np.array([0.0]), np.array([180.0]), values),
        np.array([-np.inf]),
        ALL,
        60,
        samples=True,
    )
    assert found.values[0].tolist() == [2.0, 2.0, 2.0]
    assert found.values[COMMON:].tolist() == [[1.0] * 3, [50.0] * 3, [20.0] * 3]


@given(
    records=st.lists(
        st.tuples(
            st.floats(0, 5000),
            st.sampled_from([0.0, 10.0, 60.0, 90.5, 300.0, 3600.0, 86400.0]),
            st.floats(0, 1000),
            st.integers(0, 10**6),
        ),
        min_size=1,
        max_size=8,
    ),
    steps=st.lists(st.integers(1, 100), max_size=20),
)
def test_waiting_records_are_given_out_once_and_whole(
    records: list[tuple[float, float, float, int]], steps: list[int]
) -> None:
    waiting = Waiting(1, 7, 60)
    until, usd, requests = 0, np.zeros(len(records)), np.zeros(len(records))
    given_rows = rows(*records)
    waiting.add(given_rows)
    for step in [*steps, 10_000]:
        until += 60 * step
        taken = waiting.take(until)
        if taken is not None:
            np.add.at(usd, taken.series[:, 0], taken.values[0])
            np.add.at(requests, taken.series[:, 0], taken.values[1])
        kept = Waiting(1, 7, 60)
        kept.load(waiting.dump())
        waiting = kept
    assert len(waiting) == 0
    np.testing.assert_allclose(usd, given_rows.values[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(requests, given_rows.values[1])


def test_calls_of_one_key_wait_as_sums_however_many_they_are() -> None:
    waiting, count = Waiting(1, 7, 60), 0
    for minute in range(400):
        # 300 calls a minute of three keys, of a source that is six hours late: kept to six minutes.
        at = 21_600.0 + 60 * minute + np.arange(300) / 5
        values = np.zeros((7, 300))
        values[0], values[1] = 0.01, 1
        rows_of = Rows((np.arange(300) % 3).reshape(-1, 1), at + 21_600, np.zeros(300), values)
        waiting.add(coarse(rows_of, np.full(300, 21_600.0), 60))
        taken = waiting.take(at[0])
        count += 0 if taken is None else int(taken.values[1].sum())
        waiting.dump()
        assert len(waiting) <= 2 * 10_000 + 300  # twice the least that is added up, and a minute
    taken = waiting.take(100_000.0)
    assert taken is not None
    assert count + taken.values[1].sum() == 400 * 300


def test_coarse_is_at_most_a_sixtieth_of_the_delay_later_and_never_earlier_than_the_bucket() -> None:
    given_rows = rows((645, 0, 1.0, 1), (86_461, 0, 1.0, 1), (86_461, 300, 1.0, 1), (645, 300, 1.0, 1))
    found = coarse(given_rows, np.array([600.0, 86_400.0, 86_400.0, 600.0]), 60)
    assert found.start.tolist() == [600.0, 87_840.0, 87_840.0, 645.0]
    assert found.duration.tolist() == [0.0, 1440.0, 1440.0, 300.0]
