"""The benchmark of the first minute: what a cap refuses, the optimum, and its table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import first_minute


@pytest.mark.parametrize(
    ("following", "per_minute", "count"),
    [([], 5.0, 0), ([1] * 12, 12.0, 0), ([1] * 12, 9.5, 3), ([5] + [0] * 11 + [5] * 12, 30.0, 30), ([2], 0.4, 1)],
)
def test_a_cap_refuses_what_is_over_it_in_a_minute(following: list[int], per_minute: float, count: int) -> None:
    assert first_minute.refused(np.array(following, np.int64), per_minute) == count


def test_a_larger_burn_can_be_known_sooner_and_a_rarer_key_later() -> None:
    usual, rare = np.array([1.0]), np.array([0.1])
    assert first_minute.optimum(usual, 100)[0] < first_minute.optimum(usual, 10)[0] < first_minute.optimum(rare, 10)[0]


def test_a_burn_is_shown_until_its_soft_alert() -> None:
    lines = list(first_minute.shown(1, 50, days=2))
    assert lines[5].startswith("| 5 | ")
    assert ["soft alert" in line for line in lines[5:]] == [False] * (len(lines) - 6) + [True]


def test_the_table_has_a_row_for_each_burn_and_kind_of_key() -> None:
    lines = list(first_minute.rows([1], keys=2, days=2, burns=1))
    assert lines[0].startswith("Seeds 1; 2 keys")
    assert "in 1,000 key-days" in lines[1]
    assert lines[2].startswith("Honest requests that their caps would refuse: ")
    table = lines[4:]
    assert len(table) == 2 + 4 * 2
    assert len({line.count("|") for line in table}) == 1
