"""How much a long test does: enough to fail on a defect in every run, all of it with CURB_TEST_LONG=1."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def size(short: T, long: T) -> T:
    """`long` where CURB_TEST_LONG is set, else `short`."""
    return long if os.environ.get("CURB_TEST_LONG") else short
