"""A real Alertmanager: what is posted fires, ends, is silenced, and a pair shares it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from curb.actions.notify.protocol import Notice
from curb.stream.clock import WallClock
from tests.fakes.alerts import an_alert
from tests.real.alertmanager_server import find_binary, notifier, running
from tests.real.captured_again import assert_same

pytestmark = pytest.mark.real


class Shown:
    """What an Alertmanager says it has."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self._http = url, http

    async def alerts(self) -> dict[str, str]:
        """Id of the key → state, of what is not over."""
        async with self._http.get(f"{self.url}/api/v2/alerts") as answer:
            return {each["labels"]["api_key"]: each["status"]["state"] for each in await answer.json()}

    async def silence(self, **labels: str) -> None:
        now = datetime.now(UTC)
        matchers = [{"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in labels.items()]
        body: dict[str, Any] = {"matchers": matchers, "createdBy": "ana", "comment": "known"}
        body |= {"startsAt": now.isoformat(), "endsAt": (now + timedelta(hours=1)).isoformat()}
        async with self._http.post(f"{self.url}/api/v2/silences", data=json.dumps(body), headers=JSON) as answer:
            assert answer.status == 200, await answer.text()


JSON = {"Content-Type": "application/json"}


def firing(key: str, **changes: Any) -> Any:
    now = WallClock().now()
    tags = {"team": "search", "api_key": key, "a-b": "ü", "empty": ""}
    return an_alert(alert_id=key, tags=tags, fired_at=now - 60, started_at=now - 60, updated_at=now, **changes)


async def test_it_takes_what_fires_and_forgets_what_is_over(tmp_path: Path) -> None:
    async with running(find_binary(), tmp_path) as url, aiohttp.ClientSession() as http:
        am, shown = notifier(http, url), Shown(url, http)
        await am.send(Notice("k", firing("k1"), (), (firing("k2"),)), "")
        assert set(await shown.alerts()) == {"k1", "k2"}
        await am.send(Notice("k", firing("k1"), (), (firing("k2"),)), "")
        assert len(await shown.alerts()) == 2
        await shown.silence(api_key="k2")
        async with asyncio.timeout(30):
            while (await shown.alerts()).get("k2") != "suppressed":
                await asyncio.sleep(0.2)
        over = firing("k1", status="resolved", resolved_at=WallClock().now() - 1)
        await am.send(Notice("k-2", over), "")
        assert set(await shown.alerts()) == {"k2"}


async def test_of_a_pair_one_is_enough(tmp_path: Path) -> None:
    async with running(find_binary(), tmp_path) as url, aiohttp.ClientSession() as http:
        await notifier(http, "http://127.0.0.1:1", url).send(Notice("k", firing("k1")), "")
        assert set(await Shown(url, http).alerts()) == {"k1"}


async def test_it_answers_as_the_captured_one(tmp_path: Path) -> None:
    await assert_same("alertmanager", tmp_path)
