"""Triggers and resolves incidents at PagerDuty by its Events API v2, each alert under a key of its own."""

from __future__ import annotations

from typing import Any, Literal

import aiohttp
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.calls.http import exchange
from curb.actions.notify import wording
from curb.actions.notify.alertmanager import SEVERITIES
from curb.actions.notify.protocol import Notice, NotifierConfig
from curb.stream.clock import Clock
from curb.stream.time import iso

#: Characters of a summary. By definition of the API.
_LONGEST_SUMMARY = 1024
#: Characters of all tags; more than 512 kB of an event are refused. By hand.
_LONGEST_TAGS = 50_000


class Config(NotifierConfig):
    """One integration of a PagerDuty service, of type Events API v2."""

    kind: Literal["pagerduty"]
    routing_key: SecretStr = Field(description="The integration key of the service; or routing_key_file.")
    base_url: HttpUrl = Field(
        default=HttpUrl("https://events.pagerduty.com"), description="In the EU https://events.eu.pagerduty.com."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for the answer.")

    def build(self, context: ActionContext) -> PagerDuty:
        return PagerDuty(self, context.http, context.clock)


class PagerDuty(HoldsNothing):
    """A notifier whose copies and edits are one incident: PagerDuty knows it by the id of the alert (`dedup_key`)."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock

    async def send(self, notice: Notice, ref: str) -> str:
        """Trigger while any alert of the notice fires, then resolve."""
        key = self._config.routing_key.get_secret_value()
        event: dict[str, Any] = {
            "routing_key": key,
            "dedup_key": notice.lead.alert_id,
            "event_action": "trigger" if notice.is_firing else "resolve",
        }
        if notice.is_firing:
            event |= {"client": "Curb", "payload": self._payload(notice)}
            if link := wording.link(notice):
                event["client_url"] = link
        await exchange(
            self._http,
            self._clock,
            "POST",
            URL(str(self._config.base_url)) / "v2/enqueue",
            timeout_s=self._config.timeout_s,
            headers={},
            json=event,
            secrets=[key],
        )
        return ""

    async def find(self, key: str) -> str | None:
        """Nothing is looked for: the same key twice is one incident."""
        return None

    def _payload(self, notice: Notice) -> dict[str, Any]:
        alert = notice.lead
        return {
            "summary": wording.clean(wording.title(alert), _LONGEST_SUMMARY),
            "source": "curb",
            "severity": SEVERITIES[alert.tier],
            "timestamp": iso(alert.fired_at, "milliseconds"),
            "component": wording.subject(alert),
            "group": wording.clean(alert.tags.get("team", "")),
            "class": alert.kind,
            "custom_details": {
                "tags": wording.tags(alert, _LONGEST_TAGS),
                "reason": wording.reason(alert),
                "lines": wording.plain_lines(notice),
            },
        }
