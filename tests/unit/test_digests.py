"""The daily digest: what is in it, when it goes out, and that it does so once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from curb.actions.notify.wording import digest_lines
from tests.fakes.alerts import T0
from tests.unit.test_outbox import ADS, HOUR, alert, opened

NINE = datetime(2025, 6, 16, 9, 0, tzinfo=UTC).timestamp()
DIGEST = {"digest": {"notify": ["chat"], "at": "09:00"}}


async def test_small_things_are_told_once_a_day_with_what_curb_did() -> None:
    house = await opened(DIGEST, limits={"max_alert_age_minutes": 9999})
    await house.say(alert("d1", tier="digest", tags=ADS, excess_usd=3.0), alert("a1"))
    over: dict[str, Any] = {"status": "resolved", "resolved_at": T0 + 60, "updated_at": T0 + 60}
    await house.say(alert("d1", 2, tier="digest", tags=ADS, excess_usd=4.0, **over))
    assert [notice.alert.alert_id for notice in house.chat.posts] == ["a1"]
    await house.wait(NINE - T0 - 1)
    assert house.chat.digests == []
    await house.wait(2)
    (digest,) = house.chat.digests
    assert (digest.day, [each.excess_usd for each in digest.alerts]) == ("2025-06-16", [4.0])
    assert [entry.state for entry in digest.ledger] == ["restored"]
    await house.restart()
    await house.wait(HOUR)
    assert len(house.chat.digests) == 1
    assert "d1" not in house.runner._memory.inbox.alerts
    await house.wait(24 * HOUR)
    assert len(house.chat.digests) == 1


async def test_a_small_thing_that_grows_gets_its_message() -> None:
    house = await opened(DIGEST, mode="shadow")
    await house.say(alert("d1", tier="digest"))
    assert house.chat.posts == []
    await house.say(alert("d1", 2, tier="notice"))
    assert len(house.chat.posts) == 1


@pytest.mark.parametrize("point", ["before digest", "after digest"])
async def test_a_digest_is_sent_once_after_a_crash_in_the_middle(point: str) -> None:
    house = await opened(DIGEST, mode="shadow")
    await house.say(alert("d1", tier="digest", tags=ADS))
    died: list[str] = []

    async def hook(at: str) -> None:
        if at == point and not died:
            died.append(at)
            raise KeyboardInterrupt

    house.chat.hook = hook
    with pytest.raises(KeyboardInterrupt):
        await house.wait(NINE - T0 + 1)
    await house.restart()
    await house.wait(60)
    assert [[each.alert_id for each in digest.alerts] for digest in house.chat.digests] == [["d1"]]


async def test_without_a_digest_small_things_are_told_at_once() -> None:
    house = await opened(mode="shadow")
    await house.say(alert("d1", tier="digest"))
    assert len(house.chat.posts) == 1


async def test_a_soft_cap_of_shadow_mode_says_what_it_would_have_saved_and_refused() -> None:
    house = await opened(DIGEST, mode="shadow")
    soft: dict[str, Any] = {"tier": "soft", "channel": "fast/requests", "fingerprint": "s1"}
    await house.say(alert("s1", **soft, usd_per_hour=72.0, requests_per_minute=90.0))
    ended = T0 + 600
    await house.say(alert("s1", 2, **soft, usd_per_hour=0.0, status="resolved", resolved_at=ended, updated_at=ended))
    await house.wait(NINE - T0 + 1)
    (digest,) = house.chat.digests
    (entry,) = digest.ledger
    assert (entry.state, entry.rung) == ("shadow", 0)
    (line,) = digest_lines(digest)[1]
    assert line.startswith("Would be done (shadow mode): ")
    assert "would save $" in line
    assert "in its 10 min " in line
    assert "of 90 requests a minute" in line
    assert house.chat.posts == []


async def test_a_digest_at_local_time() -> None:
    berlin = {"time_zone": "Europe/Berlin", **DIGEST}
    house = await opened(berlin, mode="shadow")
    await house.say(alert("d1", tier="digest", tags=ADS))
    await house.wait(NINE - 2 * HOUR - T0 - 1)
    assert house.chat.digests == []
    await house.wait(2)
    assert len(house.chat.digests) == 1
