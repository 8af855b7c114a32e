"""Alerts at Alertmanager over HTTP: ended when they are over, and one of a pair is enough."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext
from curb.actions.notify.alertmanager_alerts import Config
from curb.actions.notify.protocol import Notice
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import iso
from tests.fakes.alertmanager_api import AlertmanagerApi
from tests.fakes.alerts import T0, an_alert


@pytest.fixture
async def pair() -> Any:
    first, second = AlertmanagerApi(), AlertmanagerApi()
    async with TestServer(first.app()) as one, TestServer(second.app()) as two, aiohttp.ClientSession() as http:
        urls = [str(one.make_url("/")), str(two.make_url("/"))]
        config = Config.model_validate({"kind": "alertmanager", "name": "am", "urls": urls, "token": "t"})
        yield first, second, config.build(ActionContext(ManualClock(T0), http))


async def test_an_alert_ends_by_itself_unless_it_is_posted_again(pair: Any) -> None:
    first, second, notifier = pair
    other = an_alert(alert_id="a2", fingerprint="f2", tags={"team": "search", "api-key": "k2", "empty": ""})
    await notifier.send(Notice("k", an_alert(), (), (other,)), "")
    assert first.alerts == second.alerts
    one, two = first.posts[0]
    assert (one["startsAt"], one["endsAt"]) == ("2025-06-15T15:06:40.000Z", "2025-06-15T15:26:40.000Z")
    assert one["labels"]["alertname"] == "CurbRunaway"
    assert two["labels"]["api_key"] == "k2"
    assert "empty" not in two["labels"]
    assert "generatorURL" not in one
    assert first.authorization == "Bearer t"
    over = an_alert(revision=2, status="resolved", resolved_at=T0 + 60)
    await notifier.send(Notice("k-2", over, (), (other,)), "")
    assert len(first.alerts) == 2
    assert [each["endsAt"] for each in first.posts[1]] == ["2025-06-15T15:07:40.000Z", "2025-06-15T15:26:40.000Z"]


async def test_one_of_a_pair_is_enough(pair: Any) -> None:
    first, second, notifier = pair
    first.faults.always = "503"
    await notifier.send(Notice("k", an_alert()), "")
    assert (len(first.alerts), len(second.alerts)) == (0, 1)
    second.faults.always = "503"
    with pytest.raises(TransientError, match="HTTP 503"):
        await notifier.send(Notice("k", an_alert()), "")
    second.faults.always = first.faults.always = "422"
    with pytest.raises(PermanentError, match="HTTP 422"):
        await notifier.send(Notice("k", an_alert()), "")


async def test_an_alert_dated_ahead_of_a_clock_that_was_set_back_starts_now(pair: Any) -> None:
    first, _, notifier = pair
    await notifier.send(Notice("k", an_alert(fired_at=T0 + 7200)), "")
    (posted,) = first.alerts.values()
    assert posted["startsAt"] == iso(T0, "milliseconds") < posted["endsAt"]
