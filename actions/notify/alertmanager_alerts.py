"""Posts firing and ended alerts to Alertmanager's API v2, again and again while they fire, as Prometheus does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.calls.http import exchange
from curb.actions.notify import alertmanager
from curb.actions.notify.protocol import Notice, NotifierConfig
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.time import iso

logger = logging.getLogger(__name__)

#: Repeats that may be missed until Alertmanager calls an alert resolved. By definition of Prometheus, four.
_MISSED = 4


class Config(NotifierConfig):
    """One Alertmanager, or all of a cluster: each gets every alert, and they share who notifies."""

    kind: Literal["alertmanager"]
    urls: tuple[HttpUrl, ...] = Field(
        min_length=1, description="Addresses of Alertmanager, without /api; of a cluster every member's."
    )
    token: SecretStr | None = Field(default=None, description="Sent as `Authorization: Bearer …`.")
    repeat_minutes: float = Field(
        default=5.0,
        ge=0.1,
        le=60,
        description="Alerts that fire are posted again this often; after four times as long Alertmanager ends them.",
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    def build(self, context: ActionContext) -> Alertmanager:
        return Alertmanager(self, context.http, context.clock)


class Alertmanager(HoldsNothing):
    """A notifier whose messages are alerts: silences, inhibition, grouping and receivers are Alertmanager's."""

    exact_tags: Literal[True] = True

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self.repeat_s = config.repeat_minutes * 60.0

    async def send(self, notice: Notice, ref: str) -> str:
        """Done when one of them has it: the next repeat reaches the others."""
        body = msgspec.json.encode(self._alerts(notice))
        posts = [self._post(url, body) for url in self._config.urls]
        errors = [error for error in await asyncio.gather(*posts, return_exceptions=True) if error is not None]
        if len(errors) == len(posts):
            raise errors[0]
        for error in errors:
            logger.warning("one Alertmanager of several was not reached", extra={"error": str(error)})
        return ""

    async def find(self, key: str) -> str | None:
        """Nothing is looked for: the same alert twice is one alert."""
        return None

    def _alerts(self, notice: Notice) -> list[dict[str, Any]]:
        """In the form of `POST /api/v2/alerts`. What fires ends by itself unless it is posted again.

        Alertmanager refuses what ends before it starts, so where this clock was set back an alert starts now.
        """
        now = self._clock.now()
        at, ends = iso(now, "milliseconds"), iso(now + _MISSED * self.repeat_s, "milliseconds")
        posted = []
        for alert in alertmanager.payload(notice, self._config.name)["alerts"]:
            fires = alert["status"] == "firing"
            kept = {"annotations": alert["annotations"], "startsAt": min(alert["startsAt"], at)}
            url = {"generatorURL": alert["generatorURL"]} if alert["generatorURL"] else {}
            labels = {name: value for name, value in alert["labels"].items() if value}
            posted.append(kept | url | {"labels": labels, "endsAt": ends if fires else alert["endsAt"]})
        return posted

    async def _post(self, url: HttpUrl, body: bytes) -> TransientError | PermanentError | None:
        headers = {"Content-Type": "application/json"}
        if self._config.token is not None:
            headers["Authorization"] = f"Bearer {self._config.token.get_secret_value()}"
        place = URL(str(url).rstrip("/") + "/api/v2/alerts")
        timeout_s = self._config.timeout_s
        try:
            await exchange(self._http, self._clock, "POST", place, timeout_s=timeout_s, headers=headers, data=body)
        except (TransientError, PermanentError) as error:
            return error
        return None
