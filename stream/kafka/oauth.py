"""Tokens for SASL/OAUTHBEARER, by OAuth's client-credentials grant (RFC 6749, 4.4)."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote_plus

import aiohttp
import msgspec
from aiokafka import errors as kafka
from aiokafka.abc import AbstractTokenProvider
from pydantic import AnyHttpUrl, Field, PrivateAttr, SecretStr, field_validator
from yarl import URL

from curb.stream.clients.reason import reason_in
from curb.stream.errors import PermanentError, error_for_status
from curb.stream.retry import RetryPolicy
from curb.stream.settings import Settings

#: Share of a token's life after which it is renewed, as Kafka's own client does it.
_RENEW_AT = 0.8
#: Life (seconds) of a token whose server does not say it. By hand: short, as asking again costs little.
_UNSAID_S = 60.0
#: Longest answer (bytes) that is read. By hand: a token with many claims has 10 kB.
_MAX_BYTES = 256 * 1024
#: What a token may be made of (RFC 6750, 2.1). Kafka's message has separators that must not be in it.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
#: Names and values of extensions (RFC 7628, 3.1); `auth` is the token's own.
_EXTENSION_NAME = re.compile(r"(?!auth$)[A-Za-z]+")
_EXTENSION_VALUE = re.compile(r"[\x21-\x7e \t\r\n]+")
#: Between failed requests. By hand: a minute at most, as brokers are waiting.
_RETRY = RetryPolicy(first_s=1.0, cap_s=60.0)
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "[::1]"})


class OAuthSettings(Settings):
    """Where tokens come from, and who asks for them."""

    token_url: AnyHttpUrl = Field(description="Token endpoint of the identity provider, https.")
    client_id: str = Field(min_length=1, description="Id of the client that Curb is there.")
    client_secret: SecretStr = Field(description="Its secret.")
    scope: str | None = Field(default=None, description="Scope to ask for; several are separated by spaces.")
    parameters: dict[str, str] = Field(
        default={}, description="More parameters of the request, such as `audience` or `resource`."
    )
    extensions: dict[str, str] = Field(
        default={},
        description="SASL extensions for the broker, such as `logicalCluster` and `identityPoolId` of Confluent Cloud.",
    )
    cafile: str | None = Field(default=None, description="Authorities the endpoint's certificate must come from.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="How long one request for a token may take.")
    _provider: ClientCredentials | None = PrivateAttr(default=None)

    @field_validator("token_url")
    @classmethod
    def _is_encrypted(cls, url: AnyHttpUrl) -> AnyHttpUrl:
        if url.scheme != "https" and url.host not in _THIS_MACHINE:
            raise ValueError("the secret would be sent in the clear; write https://")
        return url

    @field_validator("extensions")
    @classmethod
    def _can_be_sent(cls, extensions: dict[str, str]) -> dict[str, str]:
        for name, value in extensions.items():
            if not _EXTENSION_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an extension; names have letters only, and are not `auth`")
            if not _EXTENSION_VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} is empty or has other characters than printable ASCII")
        return extensions

    def provider(self) -> ClientCredentials:
        """The tokens of these settings; all clients of one process share them."""
        if self._provider is None:
            self._provider = ClientCredentials(self)
        return self._provider


class _Answer(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"
    #: Some servers write it as text.
    expires_in: float = _UNSAID_S


_decoder = msgspec.json.Decoder(_Answer, strict=False)


class ClientCredentials(AbstractTokenProvider):  # type: ignore[misc]  # aiokafka has no types
    """One token at a time. It is renewed before it ends, and used to its end while the endpoint is away.

    aiokafka asks again and again, ten times a second, while it cannot connect; so after a failure the endpoint is left
    alone for a growing time. Errors are aiokafka's, which expects these of a connection.
    """

    def __init__(
        self,
        settings: OAuthSettings,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` gives monotonic seconds."""
        self._settings, self._now, self._rng = settings, now, random.Random()
        self._lock = asyncio.Lock()
        self._token, self._renew_at, self._ends_at = "", 0.0, 0.0
        self._failures, self._ask_at = 0, 0.0
        self._error: kafka.KafkaError | None = None

    async def token(self) -> str:
        """A token that is valid now. Raises AuthenticationFailedError for a refusal, KafkaConnectionError else."""
        async with self._lock:
            now = self._now()
            if now >= self._renew_at and now >= self._ask_at:
                await self._renew()
            if self._token and self._now() < self._ends_at:
                return self._token
            if self._error is None:
                raise kafka.KafkaConnectionError("the token ended before it came")
            raise type(self._error)(*self._error.args)

    def extensions(self) -> dict[str, str]:
        """What goes to the broker beside the token."""
        return self._settings.extensions

    async def _renew(self) -> None:
        began = self._now()
        try:
            answer = await self._fetch()
        except _RefusedError as refused:
            wait_s = _RETRY.wait(self._failures, refused.retry_after, self._rng)
            self._failures, self._ask_at, self._error = self._failures + 1, self._now() + wait_s, refused.error
            return
        life_s = max(1.0, answer.expires_in)
        self._token, self._renew_at, self._ends_at = answer.access_token, began + _RENEW_AT * life_s, began + life_s
        self._failures, self._ask_at, self._error = 0, 0.0, None

    async def _fetch(self) -> _Answer:
        """Ask the endpoint once. Raises _RefusedError."""
        settings = self._settings
        url, secret = URL(str(settings.token_url)), settings.client_secret.get_secret_value()
        what = f"token of {url.host}{url.path}"
        form = {"grant_type": "client_credentials", **settings.parameters}
        if settings.scope:
            form["scope"] = settings.scope
        # RFC 6749, 2.3.1: both are encoded as in a form before they are joined.
        login = b64encode(f"{quote_plus(settings.client_id)}:{quote_plus(secret)}".encode()).decode()
        timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
        try:
            tls = ssl.create_default_context(cafile=settings.cafile) if settings.cafile else True
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(
                    url, data=form, headers={"Authorization": f"Basic {login}"}, ssl=tls, allow_redirects=False
                ) as response,
            ):
                body = await _read(response.content)
                if response.status >= 300:
                    said = reason_in(body, (secret, quote_plus(secret), login))
                    raise _refused(response, what, said)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _RefusedError(kafka.KafkaConnectionError(f"{what}: {_words(error)}")) from error
        try:
            answer = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _RefusedError(kafka.KafkaConnectionError(f"{what}: the answer holds no access_token")) from None
        if answer.token_type.lower() != "bearer" or not _TOKEN.fullmatch(answer.access_token):
            raise _RefusedError(kafka.AuthenticationFailedError(f"{what}: the answer holds no bearer token"))
        return answer


class _RefusedError(Exception):
    """No token came, for this reason."""

    def __init__(self, error: kafka.KafkaError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after = error, retry_after


def _refused(response: aiohttp.ClientResponse, what: str, said: str) -> _RefusedError:
    if response.status < 400:
        return _RefusedError(kafka.AuthenticationFailedError(f"{what}: HTTP {response.status} redirects elsewhere"))
    error = error_for_status(response.status, response.headers, what, now=time.time(), said=said)
    if isinstance(error, PermanentError):
        return _RefusedError(kafka.AuthenticationFailedError(str(error)))
    return _RefusedError(kafka.KafkaConnectionError(str(error)), error.retry_after if error is not None else None)


def _words(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, as far as it is read."""
    body = b""
    while len(body) <= _MAX_BYTES and (more := await content.read(_MAX_BYTES + 1 - len(body))):
        body += more
    return body[:_MAX_BYTES]
