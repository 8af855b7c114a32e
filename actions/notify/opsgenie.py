"""Opens and closes alerts at Opsgenie by its Alert API v2, each under an alias of its own."""

from __future__ import annotations

from typing import Any, Literal

import aiohttp
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.calls.http import exchange
from curb.actions.notify import wording
from curb.actions.notify.protocol import Notice, NotifierConfig
from curb.stream.clock import Clock
from curb.stream.records.spend import Tier

#: Priority of a tier. By hand: P1 and P2 wake people in the rules that Opsgenie comes with.
_PRIORITIES: dict[Tier, str] = {"page": "P1", "notice": "P3", "digest": "P5", "soft": "P5"}
#: Characters of a message, a description, an entity and all details. By definition of the API, which refuses more.
_LONGEST_MESSAGE, _LONGEST_DESCRIPTION, _LONGEST_ENTITY, _LONGEST_DETAILS = 130, 15_000, 512, 8000


class Config(NotifierConfig):
    """One API integration of Opsgenie, or of the operations of Jira Service Management, which took over its API."""

    kind: Literal["opsgenie"]
    api_key: SecretStr = Field(description="The key of an API integration that may create and close; or api_key_file.")
    base_url: HttpUrl = Field(
        default=HttpUrl("https://api.opsgenie.com"),
        description="In the EU https://api.eu.opsgenie.com; of Jira Service Management "
        "https://api.atlassian.com/jsm/ops/integration.",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for the answer.")

    def build(self, context: ActionContext) -> Opsgenie:
        return Opsgenie(self, context.http, context.clock)


class Opsgenie(HoldsNothing):
    """A notifier whose copies are one alert: Opsgenie counts what comes under the same alias while it is open."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock

    async def send(self, notice: Notice, ref: str) -> str:
        """Open it while any alert of the notice fires, then close it."""
        alerts = URL(str(self._config.base_url)) / "v2/alerts"
        if notice.is_firing:
            await self._post(alerts, self._alert(notice))
        else:
            closing = alerts / notice.lead.alert_id / "close"
            note = "\n".join(wording.plain_lines(notice))[:_LONGEST_DESCRIPTION]
            await self._post(closing.with_query(identifierType="alias"), {"source": "Curb", "note": note})
        return ""

    async def find(self, key: str) -> str | None:
        """Nothing is looked for: the same alias twice is one alert."""
        return None

    def _alert(self, notice: Notice) -> dict[str, Any]:
        alert = notice.lead
        link = wording.link(notice)
        return {
            "message": wording.clean(wording.title(alert), _LONGEST_MESSAGE),
            "alias": alert.alert_id,
            "description": "\n".join(wording.plain_lines(notice))[:_LONGEST_DESCRIPTION],
            "priority": _PRIORITIES[alert.tier],
            "source": "Curb",
            "entity": wording.clean(wording.subject(alert), _LONGEST_ENTITY),
            "details": wording.tags(alert, _LONGEST_DETAILS - len(f"link{link}")) | ({"link": link} if link else {}),
        }

    async def _post(self, url: URL, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"GenieKey {self._config.api_key.get_secret_value()}"}
        await exchange(
            self._http, self._clock, "POST", url, timeout_s=self._config.timeout_s, headers=headers, json=body
        )
