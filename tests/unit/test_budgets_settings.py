"""What a configuration of budgets must say, and what is refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from curb.detector.budgets.budget import Budget
from tests.fakes.budgets import a_budget, settings_of

CUSTOM = {"period": "custom", "length_days": 14, "anchor": "2025-03-10"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"amount_usd": None}, "give either amount_usd or amount"),
        ({"amount": 5}, "give either amount_usd or amount"),
        ({"currency": "EUR"}, "for another currency give amount"),
        ({"amount_usd": None, "amount": 5, "currency": "EUR"}, "exchange_rates has no rate for EUR"),
        ({"period": "custom"}, "a custom period needs length_days and anchor"),
        ({"length_days": 3}, "no other period takes them"),
        ({"thresholds": [0]}, "greater than 0"),
        ({"hard": True, "thresholds": [80]}, "a hard cap needs 100"),
        ({"parent": "nobody"}, "no budget 'nobody' to be its parent"),
        ({"parent": "b"}, "is its own ancestor"),
        ({"auto_expand": {"step_percent": 10}}, "max_usd"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings_of(a_budget(**fields))


def test_a_parent_must_count_what_its_children_count() -> None:
    key = a_budget(name="key", scope="key")
    with pytest.raises(ValidationError, match="has no tag api_key, so its spend cannot be found"):
        settings_of(key, a_budget(parent="key"))
    scopes = [
        {"name": "team", "group_by": ["team"], "sources": ["usage"]},
        {"name": "node", "group_by": ["team", "node"], "sources": ["gpu"]},
    ]
    with pytest.raises(ValidationError, match="parent b does not count gpu"):
        settings_of(a_budget(), a_budget(name="node", scope="node", parent="b"), scopes=scopes)


def test_a_ring_of_parents_is_refused() -> None:
    with pytest.raises(ValidationError, match="is its own ancestor"):
        settings_of(a_budget(name="a", parent="b"), a_budget(name="b", parent="a"))


@pytest.mark.parametrize("fields", [{}, CUSTOM, {"shared": True}, {"hard": True}, {"carry_over": {}}])
def test_what_fits_survives_a_round_trip(fields: dict[str, Any]) -> None:
    settings = settings_of(a_budget(**fields))
    assert type(settings).model_validate(settings.model_dump()) == settings


def test_thresholds_are_sorted_and_told_once() -> None:
    budget = Budget(name="b", scope="team", amount_usd=1, thresholds=(100, 50, 50))
    assert budget.thresholds == (50, 100)
