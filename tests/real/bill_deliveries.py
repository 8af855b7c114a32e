"""Bills that are delivered to a real store: read once, restated, read again, and each dollar counted once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curb.stream.clock import WallClock
from curb.stream.time import DAY_S, HOUR_S
from tests.fakes import aws_cur as cur
from tests.fakes import azure_cost as azure
from tests.fakes import focus_file as focus
from tests.fakes.bill_reader import BillReader
from tests.fakes.memory_log import MemoryLog

#: Writes a file under a key of the bucket or container `bill`.
Put = Callable[[str, bytes], Any]


class Bill:
    """A log to which each reading, a new process, adds what is new."""

    def __init__(self, directory: Path, kind: str, url: str, storage: dict[str, Any]) -> None:
        self._of, self._log = (kind, url, storage, directory / "state"), MemoryLog()

    async def total(self) -> tuple[float, int]:
        """Dollars on the log, and records."""
        reader = BillReader(*self._of, log=self._log)
        assert all(check.ok for check in await reader.connector.check())
        found = await reader.all()
        await reader.close()
        assert self._log.dead_letters() == []
        return round(sum(found), 6), len(found)


def _month() -> float:
    """The begin of this month."""
    now = WallClock().now()
    begin = now // DAY_S * DAY_S
    while cur.rfc3339(begin - DAY_S)[:7] == cur.rfc3339(now)[:7]:
        begin -= DAY_S
    return begin


def _upload(root: Path, put: Put, under: str, is_manifest: Callable[[Path], bool]) -> None:
    """Everything of an export, manifests last, as the vendors do it; nothing is left on disk."""
    files = sorted((file for file in root.rglob("*") if file.is_file()), key=is_manifest)
    for file in files:
        put(f"{under}{file.relative_to(root.parent)}", file.read_bytes())
    shutil.rmtree(root)


async def follow_focus(directory: Path, put: Put, url: str, storage: dict[str, Any]) -> None:
    """A file in CSV and one in Parquet, one of which is written over."""
    begin = _month()
    bill = Bill(directory, "focus_file", f"{url}/focus", storage)
    put("focus/a.csv", focus.csv_text([focus.line(begin, 1.5), focus.line(begin + HOUR_S, 2.25)]))
    put("focus/b.parquet", focus.parquet([focus.line(begin, 4.0, ChargeCategory="Tax")]))
    assert await bill.total() == (7.75, 3)
    assert await bill.total() == (7.75, 3)
    put("focus/a.csv", focus.csv_text([focus.line(begin, 1.5), focus.line(begin + HOUR_S, 12.25)]))
    assert await bill.total() == (17.75, 4)


async def follow_cur(directory: Path, put: Put, url: str, storage: dict[str, Any]) -> None:
    """CUR 2.0 in Parquet with manifests; the second delivery restates a line and has one more."""
    begin = _month()
    export = cur.Export(directory / "cur", "new")
    bill = Bill(directory, "aws_cur", f"{url}/cur", storage)
    for lines, wanted in [
        ([cur.line(begin, 10.0), cur.line(begin + HOUR_S, 5.0)], (15.0, 2)),
        ([cur.line(begin, 12.0), cur.line(begin + HOUR_S, 5.0), cur.line(begin + 2 * HOUR_S, 1.0)], (18.0, 4)),
    ]:
        export.deliver(lines, cur.rfc3339(begin)[:7])
        _upload(export.root, put, "", lambda file: file.name.endswith("Manifest.json"))
        assert await bill.total() == wanted
        assert await bill.total() == wanted


async def follow_azure(directory: Path, put: Put, url: str, storage: dict[str, Any], form: str) -> None:
    """A run of an export with its manifest, and the next one."""
    begin = _month()
    days = f"{cur.rfc3339(begin)[:10]}-{cur.rfc3339(begin + 27 * DAY_S)[:10]}".replace("-", "")
    export = azure.Export(directory / f"daily-{form}", "runs", form)
    bill = Bill(directory, "azure_cost", f"{url}/exports/daily-{form}", storage)
    for lines, wanted in [
        ([azure.line(begin, 10.0), azure.line(begin, 5.0, tags='"team": "ads"')], 15.0),
        ([azure.line(begin, 12.0), azure.line(begin, 5.0, tags='"team": "ads"')], 17.0),
    ]:
        export.deliver(lines, f"{days[:8]}-{days[8:]}")
        _upload(export.root, put, "exports/", lambda file: file.suffix == ".json")
        total, count = await bill.total()
        assert total == wanted
        assert await bill.total() == (wanted, count)
