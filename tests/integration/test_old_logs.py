"""Data that older versions of Curb left, with an alert that fires and a limit in force, are gone on with."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from curb.stream.log.topics import DEAD_LETTER
from tests.old_logs import DIRECTORY, KEYS, NEW_LIMIT, OLD_LIMIT, started, unpack

pytestmark = pytest.mark.timeout(180)
#: Lease and buckets pass so many times as fast.
_SPEED = 8.0
#: The detector's snapshots have another layout, which the form does not say: found when they are loaded.
_OTHER_LAYOUT = ("905ac29", "aa777f6")


@pytest.mark.parametrize("packed", sorted(DIRECTORY.glob("*.tar.gz")), ids=lambda path: path.name.split(".")[0])
async def test_alerts_go_on_and_leases_end(packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unpack(packed, tmp_path)
    with caplog.at_level(logging.WARNING):
        async with started(tmp_path, _SPEED) as world, asyncio.timeout(120):
            before = await world.alerts()
            assert world.left["limits"][KEYS[0]] == NEW_LIMIT
            while not all(world.daemon.caught_up().values()):
                await asyncio.sleep(0.05)
            await world.push(KEYS[0], 0.2)
            while (after := await world.alerts()) == before or world.gateway.keys[KEYS[0]]["rpm_limit"] != OLD_LIMIT:
                await asyncio.sleep(0.1)
            letters = [message async for message in world.daemon.log.scan(DEAD_LETTER)]
            said = [each["alert"] for each in world.hook.accepted.values()]
    # One alert, whose revisions go on; one limit, which came back once; no message came a second time.
    (alert_id,) = {alert.alert_id for alert in before}
    assert {alert.alert_id for alert in after} == {alert_id}
    revisions = [alert.revision for alert in after]
    assert revisions == sorted(set(revisions))
    assert [body for _, body in world.gateway.updates] == [{"rpm_limit": OLD_LIMIT}]
    assert not set(world.hook.accepted) & set(world.left["notices"])
    assert {(alert["alert_id"], alert["revision"] > 1) for alert in said} <= {(alert_id, True)}
    assert letters == []
    aside = [each for each in caplog.records if "set aside" in each.message]
    assert len(aside) == (packed.name.startswith(_OTHER_LAYOUT))
