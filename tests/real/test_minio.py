"""MinIO: bills from a store that lists milliseconds, and its answers as they were captured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real import stores
from tests.real.bill_deliveries import follow_cur, follow_focus
from tests.real.captured_again import assert_same

pytestmark = pytest.mark.real


@pytest.mark.parametrize("follow", [follow_cur, follow_focus])
async def test_a_bill_is_followed(tmp_path: Path, follow: stores.Follow) -> None:
    await stores.follow_on_s3("minio", tmp_path, follow)


async def test_it_answers_as_the_captured_one(tmp_path: Path) -> None:
    await assert_same("minio", tmp_path)
