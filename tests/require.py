"""Real outside components in tests: skip with a how-to where one is missing, fail where the run demands it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

#: Comma-separated names of components whose absence is a failure, as in `CURB_TEST_REQUIRE=kafka,litellm`.
REQUIRED_VARIABLE = "CURB_TEST_REQUIRE"


def required_components() -> frozenset[str]:
    """The components this run may not do without."""
    return frozenset(name.strip() for name in os.environ.get(REQUIRED_VARIABLE, "").split(",") if name.strip())


def require(component: str, reason: str) -> NoReturn:
    """Give up on a test because `component` is not there; `reason` says why and how to switch it on.

    Skips, or fails where CURB_TEST_REQUIRE lists the component: a skipped test of a required component hides a hole.
    """
    if component in required_components():
        pytest.fail(f"{component} is required by {REQUIRED_VARIABLE} and is not there: {reason}", pytrace=False)
    pytest.skip(f"{component}: {reason}")
