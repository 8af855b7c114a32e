"""The buckets of `curb.testing.rules` for the tests of rules, and what a test asks of a rule beside."""

from __future__ import annotations

from typing import Any

import numpy as np

from curb.detector.rules.table import families
from curb.detector.state.rule import Family, Rule
from curb.testing.rules import DAY, HOUR, T0, Fleet, Row, gpu, usage

__all__ = ["DAY", "HOUR", "T0", "Fleet", "Row", "family", "gpu", "saved", "usage"]


def family(name: str) -> Family:
    """The family of this name, with all that its rule declares."""
    return families().of(name)


def saved(rule: Rule) -> dict[str, Any]:
    """What a rule dumps, copied as a snapshot would."""
    return {name: np.array(array) for name, array in rule.dump().items()}
