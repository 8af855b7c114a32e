"""PagerDuty and Opsgenie over their APIs: one incident for an alert, from its first message to its last."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from curb.actions.action import ActionContext
from curb.actions.kinds import NOTIFIERS
from curb.actions.notify.protocol import Notice, Notifier, NotifyConfig, open_notifier
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from tests.fakes.alerts import T0, an_alert
from tests.fakes.opsgenie_api import OpsgenieApi
from tests.fakes.pagerduty_events import PagerdutyEvents

KEY = "integration-key"
RESOLVED = an_alert(status="resolved", resolved_at=T0 + 60)


@asynccontextmanager
async def paging(fake: Any, **config: Any) -> AsyncIterator[Notifier]:
    async with TestServer(fake.app()) as server, aiohttp.ClientSession() as http:
        entry = {"name": "duty", "base_url": str(server.make_url("/")), **config}
        validated = NOTIFIERS.config(entry["kind"]).model_validate(entry)
        notifier = open_notifier(validated, ActionContext(ManualClock(T0), http, None))
        yield notifier
        await notifier.close()


async def test_pagerduty_keeps_one_incident_from_trigger_to_resolve() -> None:
    fake = PagerdutyEvents(KEY)
    telling = NotifyConfig(dashboard_url="https://curb.example.org")
    async with paging(fake, kind="pagerduty", routing_key=KEY) as notifier:
        assert await notifier.send(Notice("k-1", an_alert(), telling=telling), "") == ""
        await notifier.send(Notice("k-2", an_alert(revision=2)), "")
        await notifier.send(Notice("k-3", RESOLVED), "")
    ((key, events),) = fake.incidents.items()
    assert key == an_alert().alert_id
    assert [event["event_action"] for event in events] == ["trigger", "trigger", "resolve"]
    assert events[0]["client_url"] == f"https://curb.example.org/alerts/{key}"
    assert events[0]["payload"]["severity"] == "critical"
    assert events[0]["payload"]["custom_details"]["tags"] == an_alert().tags
    assert "payload" not in events[2]


async def test_opsgenie_keeps_one_alert_and_closes_it_by_its_alias() -> None:
    fake = OpsgenieApi(KEY)
    async with paging(fake, kind="opsgenie", api_key=KEY) as notifier:
        await notifier.send(Notice("k-1", an_alert()), "")
        await notifier.send(Notice("k-2", an_alert(revision=2)), "")
        ((alias, alert),) = fake.alerts.items()
        assert (alias, alert["count"], alert["status"]) == (an_alert().alert_id, 2, "open")
        assert alert["priority"] == "P1"
        await notifier.send(Notice("k-3", RESOLVED), "")
        assert (fake.alerts[alias]["status"], fake.closed) == ("closed", [alias])
        await notifier.send(Notice("k-4", an_alert(revision=4)), "")
        assert (fake.alerts[alias]["status"], fake.alerts[alias]["count"]) == ("open", 1)


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie"])
async def test_a_message_of_several_alerts_is_known_by_its_first_and_ends_with_its_last(kind: str) -> None:
    fake: Any = PagerdutyEvents(KEY) if kind == "pagerduty" else OpsgenieApi(KEY)
    secret = "routing_key" if kind == "pagerduty" else "api_key"
    first, wider = an_alert(alert_id="a1"), an_alert(alert_id="a2")
    over = an_alert(alert_id="a1", status="resolved", resolved_at=T0 + 60)
    async with paging(fake, kind=kind, **{secret: KEY}) as notifier:
        await notifier.send(Notice("k-1", first), "")
        await notifier.send(Notice("k-2", wider, others=(over,), lead_id="a1"), "")
        wider_over = an_alert(alert_id="a2", status="resolved", resolved_at=T0 + 90)
        await notifier.send(Notice("k-3", wider_over, others=(over,), lead_id="a1"), "")
    if kind == "pagerduty":
        assert list(fake.incidents) == ["a1"]
        assert [each["event_action"] for each in fake.incidents["a1"]] == ["trigger", "trigger", "resolve"]
    else:
        assert list(fake.alerts) == ["a1"]
        assert fake.closed == ["a1"]


@pytest.mark.parametrize(("kind", "secret"), [("pagerduty", "routing_key"), ("opsgenie", "api_key")])
@pytest.mark.parametrize("value", ["x" * 10_000, "\x00\x1b[31m\n\u202e" * 2000, "\U0001f4b8" * 300_000])
async def test_an_alert_with_huge_tags_is_cut_to_what_the_service_takes(kind: str, secret: str, value: str) -> None:
    fake: Any = PagerdutyEvents(KEY) if kind == "pagerduty" else OpsgenieApi(KEY)
    tags = {"team": value} | {f"{'tag' * 30}{n}": value for n in range(12)}
    alert = an_alert(tags=tags, reason=value, explanation=value)
    async with paging(fake, kind=kind, **{secret: KEY}) as notifier:
        await notifier.send(Notice("k-1", alert), "")
        await notifier.send(Notice("k-2", an_alert(tags=tags, status="resolved", resolved_at=T0 + 60)), "")
    assert list(fake.incidents if kind == "pagerduty" else fake.alerts) == [alert.alert_id]


@pytest.mark.parametrize(("kind", "secret"), [("pagerduty", "routing_key"), ("opsgenie", "api_key")])
async def test_a_wrong_key_is_permanent_and_says_what_the_service_said(kind: str, secret: str) -> None:
    fake: Any = PagerdutyEvents("another") if kind == "pagerduty" else OpsgenieApi("another")
    async with paging(fake, kind=kind, **{secret: KEY}) as notifier:
        with pytest.raises(PermanentError, match=r"HTTP 40[01]") as caught:
            await notifier.send(Notice("k-1", an_alert()), "")
    assert KEY not in str(caught.value)
