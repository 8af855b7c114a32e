"""A real Kubernetes API server answers as it did when its answers were captured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real.captured_again import assert_same

pytestmark = pytest.mark.real


async def test_it_answers_as_the_captured_one(tmp_path: Path) -> None:
    await assert_same("kubernetes", tmp_path)
