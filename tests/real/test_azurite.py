"""Azurite through adlfs: bills in Azure's blobs, and its answers as they were captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real import stores
from tests.real.bill_deliveries import follow_azure, follow_focus
from tests.real.captured_again import assert_same

pytestmark = pytest.mark.real


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "focus"])
async def test_a_bill_is_followed(tmp_path: Path, form: str) -> None:
    async with stores.running("azurite", tmp_path) as url:
        import fsspec

        storage = stores.azure_storage(url)
        blobs: Any = fsspec.filesystem("az", **storage["options"])
        blobs.mkdir("bill")

        def put(key: str, content: bytes) -> None:
            blobs.pipe_file(f"bill/{key}", content, overwrite=True)

        if form == "focus":
            await follow_focus(tmp_path, put, "az://bill", storage)
        else:
            await follow_azure(tmp_path, put, "az://bill", storage, form)


async def test_it_answers_as_the_captured_one(tmp_path: Path) -> None:
    await assert_same("azurite", tmp_path)
