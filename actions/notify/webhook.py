"""Posts every notice as JSON to an address of your own, with a key to recognise copies by."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from curb.actions.action import ActionContext, HoldsNothing
from curb.actions.calls.http import exchange
from curb.actions.notify import alertmanager, wording
from curb.actions.notify.protocol import DayDigest, Letter, Notice, NotifierConfig
from curb.stream.clock import Clock


class Config(NotifierConfig):
    """One address that gets `POST`s. Answer 2xx to accept; 408, 409, 425, 429 and 5xx are tried again."""

    kind: Literal["webhook"]
    url: HttpUrl = Field(description="Where to post.")
    format: Literal["curb", "alertmanager"] = Field(
        default="curb", description="curb: all there is to say. alertmanager: the body of Alertmanager's own webhook."
    )
    token: SecretStr | None = Field(default=None, description="Sent as `Authorization: Bearer …`.")
    signing_key: SecretStr | None = Field(
        default=None, description="With it every body is signed: `X-Curb-Signature: sha256=<hex HMAC-SHA256>`."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for the answer.")

    def build(self, context: ActionContext) -> Webhook:
        return Webhook(self, context.http, context.clock)


class Webhook(HoldsNothing):
    """A notifier that cannot edit or look back: the receiver drops copies by the `Idempotency-Key` header."""

    exact_tags: Literal[True] = True

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock

    async def send(self, notice: Notice, ref: str) -> str:
        if self._config.format == "alertmanager":
            return await self._post(notice.key, alertmanager.payload(notice, self._config.name))
        body: dict[str, Any] = {
            "key": notice.key,
            "title": wording.title(notice.alert),
            "incident": notice.lead.alert_id,
            "alert": notice.alert,
            "others": notice.others,
            "ledger": notice.ledger,
        }
        return await self._post(notice.key, body)

    async def send_digest(self, digest: DayDigest) -> str:
        if self._config.format == "alertmanager":
            return await self._post(digest.key, alertmanager.digest_payload(digest, self._config.name))
        digested = {"day": digest.day, "alerts": digest.alerts, "ledger": digest.ledger}
        return await self._post(
            digest.key, {"key": digest.key, "title": wording.digest_title(digest), "digest": digested}
        )

    async def send_letter(self, letter: Letter) -> str:
        body = {"key": letter.key, "title": letter.title, "lines": letter.lines, "html": letter.html.decode()}
        return await self._post(letter.key, body)

    async def _post(self, key: str, content: dict[str, Any]) -> str:
        body = msgspec.json.encode(content)
        await exchange(
            self._http,
            self._clock,
            "POST",
            URL(str(self._config.url)),
            timeout_s=self._config.timeout_s,
            headers=self._headers(key, body),
            data=body,
            secret_path=True,  # of many receivers, it is all that shows who posts
        )
        return ""

    async def find(self, key: str) -> str | None:
        return None

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._config.token is not None:
            headers["Authorization"] = f"Bearer {self._config.token.get_secret_value()}"
        if self._config.signing_key is not None:
            secret = self._config.signing_key.get_secret_value().encode()
            headers["X-Curb-Signature"] = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        return headers
