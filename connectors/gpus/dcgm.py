"""GPU use and its cost, scraped from dcgm-exporter itself: what passed between two scrapes is charged once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import zlib
from typing import Literal

import aiohttp
import msgspec
from pydantic import Field, SecretStr, model_validator
from yarl import URL

from curb.connectors.connector import Batch, Check, Context, Pull
from curb.connectors.decode import Letters
from curb.connectors.gpus.charges import GpuCharges, GpuSettings
from curb.connectors.gpus.dcgm_text import parse
from curb.connectors.gpus.samples import Sample
from curb.connectors.http import fetch
from curb.stream import metrics
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import GpuRecord
from curb.stream.settings import Settings

logger = logging.getLogger(__name__)
_SCRAPES_AT_ONCE = 16
_MAX_BYTES = 16 * 1024 * 1024
_TYPES = ("text/plain", "application/openmetrics-text")
_ACCEPT = {"Accept": "text/plain;version=0.0.4"}


class Exporter(Settings):
    """One exporter."""

    url: str = Field(
        pattern=r"^https?://[^@]+$", description="Where the metrics are, such as http://gpu-1:9400/metrics."
    )
    node: str = Field("", description="Name of the machine; default: what the metrics say.")


class Config(GpuSettings):
    """Exporters that Curb scrapes itself; for machines that come and go use `prometheus`."""

    kind: Literal["dcgm"]
    targets: tuple[Exporter, ...] = Field(min_length=1, max_length=1000, description="The exporters.")
    token: SecretStr | None = Field(default=None, description="Bearer token the exporters ask for; default: none.")
    poll_interval_s: float = Field(default=30.0, gt=0, le=600, description="How often exporters are scraped.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one exporter.")
    max_gap_s: float = Field(
        default=300.0, gt=0, le=86400, description="So much time at most is charged when scrapes were missed."
    )

    @model_validator(mode="after")
    def _urls_once(self) -> Config:
        urls = [target.url for target in self.targets]
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            raise ValueError(f"targets: {', '.join(twice)} is named twice")
        return self

    def build(self, context: Context) -> Pull:
        return Pull(Dcgm(self, context.http, context.clock), self.poll_interval_s)


class _Cursor(msgspec.Struct, omit_defaults=True):
    #: Target → until when it is charged.
    until: dict[str, float] = {}
    #: Records not yet on the log.
    due: str = ""


class Dcgm:
    """Pull connector. A scrape cannot be repeated, so it goes into the cursor first and onto the log from there.

    The read that scrapes returns no records, only a cursor that holds them; the read behind it returns them, the same
    ones however often it has to.
    """

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        self._charges = GpuCharges(config, config.name, http, clock)
        self._at_once = asyncio.Semaphore(_SCRAPES_AT_ONCE)

    async def read(self, cursor: str | None) -> Batch:
        """Raises TransientError or PermanentError when no exporter at all could be scraped."""
        place = _Cursor() if cursor is None else msgspec.json.decode(cursor, type=_Cursor)
        if place.due:
            return Batch(_unpack(place.due), _encode(_Cursor(place.until)))
        return await self._scrape(place)

    async def close(self) -> None:
        return None

    async def check(self) -> list[Check]:
        checks = []
        for target in self._config.targets:
            what = f"GET {target.url}"
            try:
                found = await self._samples(target, Letters(self._config.name, self._clock.now()))
                checks.append(Check(what, True, f"{len(found)} samples"))
            except (TransientError, PermanentError) as error:
                checks.append(Check(what, False, str(error)))
        return checks + await self._charges.check()

    async def _scrape(self, place: _Cursor) -> Batch:
        await self._charges.refresh()
        letters = Letters(self._config.name, self._clock.now())
        until, charged, failures = dict(place.until), set[str](), list[TransientError | PermanentError]()
        records: list[GpuRecord] = []
        seen = await asyncio.gather(*(self._look(target, letters) for target in self._config.targets))
        for target, (samples, now) in zip(self._config.targets, seen, strict=True):
            if isinstance(samples, Exception):
                failures.append(samples)
                continue
            key = _key(target.url)
            last = until.get(key, now)
            start = max(last, now - self._config.max_gap_s)
            if start > last:
                extra = {"connector": self._config.name, "target": target.url, "seconds": round(start - last)}
                logger.warning("time without a scrape is not charged", extra=extra)
            if now > start:
                records += self._charges.records(samples, start, now, received_at=now, node=target.node, skip=charged)
            until[key] = max(now, last)
        self._tell(failures)
        cursor = _Cursor({_key(t.url): until[_key(t.url)] for t in self._config.targets if _key(t.url) in until})
        cursor.due = _pack(records) if records else ""
        return Batch((), _encode(cursor), more=bool(records), dead=letters.messages())

    async def _look(
        self, target: Exporter, letters: Letters
    ) -> tuple[list[Sample] | TransientError | PermanentError, float]:
        """What an exporter says, or why it does not, and when."""
        try:
            async with self._at_once:
                return await self._samples(target, letters), self._clock.now()
        except (TransientError, PermanentError) as error:
            return error, self._clock.now()

    def _tell(self, failures: list[TransientError | PermanentError]) -> None:
        """Raise when every target failed; else count those that did: their time is charged when they are back."""
        if len(failures) == len(self._config.targets):
            raise max(failures, key=lambda error: getattr(error, "retry_after", None) or 0.0)
        for error in failures:
            kind = "transient" if isinstance(error, TransientError) else "permanent"
            metrics.CONNECTOR_ERRORS.labels(connector=self._config.name, kind=kind).inc()
            logger.warning("exporter not scraped", extra={"connector": self._config.name, "detail": str(error)})

    async def _samples(self, target: Exporter, letters: Letters) -> list[Sample]:
        token = self._config.token
        headers = _ACCEPT | ({"Authorization": f"Bearer {token.get_secret_value()}"} if token else {})
        url = URL(target.url)
        answer = await fetch(
            self._http,
            self._clock,
            url,
            headers=headers,
            timeout_s=self._config.timeout_s,
            types=_TYPES,
            max_bytes=_MAX_BYTES,
        )
        location = f"GET {url.host}:{url.port}{url.path}"
        return list(parse(answer.body, letters=letters, location=location, at=self._clock.now()))


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def _pack(records: list[GpuRecord]) -> str:
    return base64.b85encode(zlib.compress(msgspec.msgpack.encode(records), 6)).decode()


def _unpack(due: str) -> list[GpuRecord]:
    return msgspec.msgpack.decode(zlib.decompress(base64.b85decode(due)), type=list[GpuRecord])


def _encode(cursor: _Cursor) -> str:
    return msgspec.json.encode(cursor).decode()
