"""What all have cost together, and which part of it one series is."""

from __future__ import annotations

import pytest

from curb.detector.state.scopes import Scope
from curb.detector.state.ticks import ScopeTotals
from curb.stream.records.spend import SpendTick

SCOPES = (
    Scope(name="key", group_by=("api_key",)),
    Scope(name="team", group_by=("team",), sources=("usage", "gpu")),
)


@pytest.fixture
def spent() -> ScopeTotals:
    """$80 of usage by two inputs, and $20 of GPUs."""
    spent = ScopeTotals(SCOPES)
    for source, usd in (("curb.usage/0", 50.0), ("curb.usage/1", 20.0), ("curb.gpu/0", 20.0), ("curb.usage/0", 10.0)):
        spent.add(SpendTick(at=1.0, source=source, effective_cost=usd))
    return spent


@pytest.mark.parametrize(
    ("scope", "total_usd", "excess_usd", "share"),
    [
        ("key", 40.0, 0.0, 0.5),
        ("team", 40.0, 0.0, 0.4),
        ("key", 40.0, 30.0, 0.2),
        ("key", 40.0, -5.0, 0.5),
        ("key", 80.0, 80.0, None),
        ("key", 90.0, 0.0, 1.0),
        ("key", 1.0, 2.0, 0.0),
        ("other", 1.0, 0.0, None),
    ],
)
def test_the_part_of_one_is_without_its_excess(
    spent: ScopeTotals, scope: str, total_usd: float, excess_usd: float, share: float | None
) -> None:
    assert spent.share(scope, total_usd, excess_usd) == share


def test_it_survives_and_what_was_not_counted_from_the_start_is_not_known(spent: ScopeTotals) -> None:
    again = ScopeTotals(SCOPES)
    again.load(spent.dump())
    again.add(SpendTick(at=2.0, source="curb.usage/0", effective_cost=20.0))
    assert again.share("key", 50.0, 0.0) == 0.5
    again.load(None)
    again.add(SpendTick(at=2.0, source="curb.usage/0", effective_cost=20.0))
    assert again.share("key", 50.0, 0.0) is None
