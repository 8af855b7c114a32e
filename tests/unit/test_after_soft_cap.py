"""A burn that returns when its soft cap ends: a notice the second time, a page the third."""

from __future__ import annotations

import dataclasses

import pytest

from curb.detector.rules.after_soft_cap import AfterSoftCap, Config
from curb.detector.state.rule import RuleContext
from curb.testing.rules import Fleet, usage


@pytest.mark.parametrize(("count", "tiers"), [(1, []), (2, ["notice"]), (3, ["page"]), (7, ["page"])])
def test_soft_alerts_in_a_row_are_counted(count: int, tiers: list[str]) -> None:
    fleet, rule = Fleet(step_s=60), AfterSoftCap(Config(), RuleContext(60))
    view = dataclasses.replace(fleet.view([usage()]), soft_in_a_row={0: count})
    found = rule.close(view)
    assert [finding.tier for finding in found] == tiers
    assert all(f"{count} times" in finding.words and finding.kind == "runaway" for finding in found)


def test_from_which_on_it_pages_is_a_setting() -> None:
    fleet, rule = Fleet(step_s=60), AfterSoftCap(Config(page_from=5), RuleContext(60))
    view = dataclasses.replace(fleet.view([usage()]), soft_in_a_row={0: 4})
    assert [finding.tier for finding in rule.close(view)] == ["notice"]
