"""`curb export`: every record once and in order of receipt, however small the memory for it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from curb import export, wiring
from curb.config.file import CurbConfig
from tests.fakes.memory_log import MemoryLog
from tests.fakes.report_log import OCTOBER, a_log


@pytest.mark.parametrize("buffer_bytes", [1, 300, 1 << 20])
async def test_lines_are_in_order_of_receipt(monkeypatch: pytest.MonkeyPatch, buffer_bytes: int) -> None:
    log = await a_log()

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[MemoryLog]:
        yield log

    monkeypatch.setattr(wiring, "open_log", opened)
    monkeypatch.setattr(export, "_BUFFER_BYTES", buffer_bytes)
    out = io.BytesIO()
    count = await export.export(CurbConfig(), OCTOBER, {}, out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert count == len(lines) == len({line["id"] for line in lines})
    assert [line["recv"] for line in lines] == sorted(line["recv"] for line in lines)
    assert {"first", "late", "gpu", "odd-6"} <= {line["id"] for line in lines}
    assert not {"september", "november", "ec2"} & {line["id"] for line in lines}
