"""Sixteen simulated days with a short retention: the log, its files and what is held in memory do not grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.simulated_year import simulate

pytestmark = pytest.mark.timeout(300)
DAYS, RETENTION_DAYS = 16, 2.0


async def test_disk_does_not_grow_once_the_retention_has_passed(tmp_path: Path) -> None:
    sizes = [size async for size in simulate(tmp_path, DAYS, keys=4, records=3, retention_days=RETENTION_DAYS)]
    assert sizes[-1].alerts > 0
    assert sizes[-1].actions > 0
    early, late = sizes[DAYS // 2 - 4 : DAYS // 2], sizes[-4:]
    # Whole pages come and go; what grows by the day would be twice as much.
    assert max(size.log_mib for size in late) < 1.25 * max(size.log_mib for size in early)
    assert max(size.disk_mib for size in late) < 1.25 * max(size.disk_mib for size in early)
    assert max(size.files for size in late) < 1.25 * max(size.files for size in early)
