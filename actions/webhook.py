"""Posts every notice as JSON to an address of your own, with a key to recognise copies by."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal

import aiohttp
import msgspec
from pydantic import Field, HttpUrl, SecretStr
from yarl import URL

from actions import wording
from actions.action import Context
from actions.http import exchange
from actions.notifier import Notice
from stream.clock import Clock
from stream.settings import Settings


class Config(Settings):
    """One address that gets `POST`s. Answer 2xx to accept; 408, 409, 425, 429 and 5xx are tried again."""

    kind: Literal["webhook"]
    name: str = Field(pattern=r"^[a-z0-9-]+$", description="Unique name of this notifier.")
    url: HttpUrl = Field(description="Where to post.")
    token: SecretStr | None = Field(default=None, description="Sent as `Authorization: Bearer …`.")
    signing_key: SecretStr | None = Field(
        default=None, description="With it every body is signed: `X-Curb-Signature: sha256=<hex HMAC-SHA256>`."
    )
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for the answer.")

    def build(self, context: Context) -> Webhook:
        return Webhook(self, context.http, context.clock)


class Webhook:
    """A notifier that cannot edit or look back: the receiver drops copies by the `Idempotency-Key` header."""

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock

    async def send(self, notice: Notice, ref: str) -> str:
        body = msgspec.json.encode(
            {"key": notice.key, "title": wording.title(notice.alert), "alert": notice.alert, "ledger": notice.ledger}
        )
        await exchange(
            self._http,
            self._clock,
            "POST",
            URL(str(self._config.url)),
            timeout_s=self._config.timeout_s,
            headers=self._headers(notice.key, body),
            data=body,
        )
        return ""

    async def find(self, key: str) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing is held: the HTTP session belongs to the caller."""

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._config.token is not None:
            headers["Authorization"] = f"Bearer {self._config.token.get_secret_value()}"
        if self._config.signing_key is not None:
            secret = self._config.signing_key.get_secret_value().encode()
            headers["X-Curb-Signature"] = "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
        return headers
