"""GPU use and usage from any server with Prometheus' query API, step by step behind the present."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import math
from collections import defaultdict
from typing import Literal

import msgspec
from pydantic import Field, SecretStr, model_validator

from curb.connectors.connector import Batch, Check, Context, Pull
from curb.connectors.gpus.charges import GpuCharges, GpuSettings
from curb.connectors.gpus.prometheus_api import PrometheusApi, PromSeries, Result
from curb.connectors.gpus.prometheus_presets import DCGM, PromQuery
from curb.connectors.gpus.prometheus_records import gpu_record, usage_record
from curb.connectors.gpus.samples import Sample
from curb.connectors.pricing.book import PriceBook
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import GpuRecord, SpendRecord

logger = logging.getLogger(__name__)
#: LiteLLM writes None for a label without a value.
_ABSENT = (None, "", "None")


class Config(GpuSettings):
    """One server: Prometheus, Thanos, Mimir, VictoriaMetrics or a vendor's."""

    kind: Literal["prometheus"]
    url: str = Field(pattern=r"^https?://[^@]+$", description="Address in front of /api/v1/query_range.")
    token: SecretStr | None = Field(default=None, description="Bearer token; default: none.")
    username: str = Field(default="", description="User of basic authentication, with `password`.")
    password: SecretStr | None = Field(default=None, description="Password of basic authentication.")
    tenant: str = Field(default="", description="Tenant, sent as X-Scope-OrgID (Mimir, Cortex).")
    queries: tuple[PromQuery, ...] = Field(min_length=1, description="What is asked and what the answers mean.")
    step_s: int = Field(
        default=60, ge=10, le=3600, description="Seconds between values: twice the scrape interval or more."
    )
    lag_s: float = Field(
        default=60.0, ge=0, le=3600, description="How far behind the present to read: samples come late."
    )
    staleness_s: float = Field(
        default=180.0, ge=10, le=3600, description="How old a sample may be to count, where the server lets it be set."
    )
    backfill_s: float = Field(default=0.0, ge=0, le=30 * 86400, description="How far back the first read starts.")
    max_steps: int = Field(default=60, ge=1, le=5000, description="Steps asked for at once.")
    partial_wait_s: float = Field(
        default=600.0, ge=0, le=86400, description="How long an incomplete answer is asked for again before it counts."
    )
    poll_interval_s: float = Field(default=15.0, gt=0, le=600, description="How often to look for a new step.")
    timeout_s: float = Field(default=30.0, gt=0, le=90, description="Longest wait for one query.")

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        names = [query.name for query in self.queries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"queries: {', '.join(twice)} is defined twice")
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password go together")
        if self.token and self.username:
            raise ValueError("give `token` or `username`, not both")
        return self

    def build(self, context: Context) -> Pull:
        return Pull(Prometheus(self, context), self.poll_interval_s)


class _Cursor(msgspec.Struct):
    #: Epoch seconds until which everything was read: a multiple of the step.
    until: float


class Prometheus:
    """Pull connector. A step is the time from one value to the next; it is charged when it is `lag_s` old.

    The past does not change, so a read that is repeated gives the same records with the same ids.
    """

    def __init__(self, config: Config, context: Context) -> None:
        self._config, self._clock = config, context.clock
        self._queries = [query.resolved() for query in config.queries]
        self._charges = GpuCharges(config, config.name, context.http, context.clock)
        self._prices: PriceBook = context.prices
        self._api = PrometheusApi(
            config.url, context.http, context.clock, headers=_headers(config), timeout_s=config.timeout_s
        )

    async def read(self, cursor: str | None) -> Batch:
        """Raises TransientError or PermanentError; nothing of the steps asked for is then taken."""
        config, now = self._config, self._clock.now()
        newest = _floor(now - config.lag_s, config.step_s)
        if cursor is None:
            until = _floor(now - config.lag_s - config.backfill_s, config.step_s)
        else:
            until = msgspec.json.decode(cursor, type=_Cursor).until
        end = min(newest, until + config.step_s * config.max_steps)
        if end <= until:
            return Batch((), _encode(until))
        await self._charges.refresh()
        records: list[SpendRecord] = []
        gpus: list[GpuRecord] = []
        for query in self._queries:
            answers = await self._ask(query, until + config.step_s, end)
            for field, answer in answers.items():
                self._wait_for_the_rest(query, field, answer, end)
            # In a thread: a thousand GPUs and an hour of steps are seconds of work.
            if query.preset == "dcgm":
                gpus += await asyncio.to_thread(self._dcgm, answers)
            else:
                records += await asyncio.to_thread(self._mapped, query, answers)
        if any(query.preset == "dcgm" for query in self._queries):
            gpus += self._silent(gpus, until, end)
        return Batch([*records, *gpus], _encode(end), more=end < newest)

    async def close(self) -> None:
        return None

    async def check(self) -> list[Check]:
        checks = []
        now = _floor(self._clock.now() - self._config.lag_s, self._config.step_s)
        for query in self._queries:
            what = f"query {query.name} at {self._config.url}"
            try:
                answers = await self._ask(query, now, now)
                found = {field: len(answer.series) for field, answer in answers.items()}
                detail = ", ".join(f"{field}: {count} series" for field, count in found.items())
                checks.append(Check(what, any(found.values()), detail))
            except (TransientError, PermanentError) as error:
                checks.append(Check(what, False, str(error)))
        return checks + await self._charges.check()

    async def _ask(self, query: PromQuery, start: float, end: float) -> dict[str, Result]:
        """The answer to each field's expression."""
        fields = query.fields
        if query.preset == "dcgm":
            fields = {"samples": DCGM.replace("$selector", f",{query.selector}" if query.selector else "")}
        config, found = self._config, {}
        for field, promql in fields.items():
            text = promql.replace("$step", f"{config.step_s}s")
            try:
                found[field] = await self._api.query_range(
                    text, start, end, config.step_s, lookback_s=config.staleness_s
                )
            except PermanentError as error:
                raise PermanentError(f"query {query.name}, {field}: {error}") from error
        return found

    def _wait_for_the_rest(self, query: PromQuery, field: str, answer: Result, end: float) -> None:
        if not answer.partial:
            return
        if self._clock.now() - end < self._config.partial_wait_s:
            raise TransientError(f"query {query.name}, {field}: incomplete answer: {answer.partial}")
        extra = {"connector": self._config.name, "query": query.name, "detail": answer.partial}
        logger.warning("incomplete answer taken after waiting for the rest", extra=extra)

    def _dcgm(self, answers: dict[str, Result]) -> list[GpuRecord]:
        moments: dict[float, list[Sample]] = defaultdict(list)
        for series in answers["samples"].series:
            name = series.labels.get("__name__", "")
            for at, value in series.points:
                moments[at].append(Sample(name, series.labels, value))
        step_s, now = self._config.step_s, self._clock.now()
        return [
            record
            for at, samples in sorted(moments.items())
            for record in self._charges.records(samples, at - step_s, at, received_at=now, skip=set())
        ]

    def _silent(self, records: list[GpuRecord], until: float, end: float) -> list[GpuRecord]:
        """What nodes without any sample in a step cost."""
        step_s, now = self._config.step_s, self._clock.now()
        seen: dict[int, set[str]] = defaultdict(set)
        for record in records:
            seen[math.ceil((record.charge_period_start - until) / step_s)].add(record.tags["node"])
        found: list[GpuRecord] = []
        for step in range(1, round((end - until) / step_s) + 1):
            at = until + step * step_s
            found += self._charges.silent(seen[step], at - step_s, at, received_at=now)
        return found

    def _mapped(self, query: PromQuery, answers: dict[str, Result]) -> list[SpendRecord]:
        """One record for each set of tags and step; series that come to the same tags are added up."""
        rows: dict[tuple[float, tuple[tuple[str, str], ...]], dict[str, list[float]]] = {}
        for field, answer in answers.items():
            for series in answer.series:
                tags = tuple(sorted(self._tags(query, series).items()))
                for at, value in series.points:
                    rows.setdefault((at, tags), defaultdict(list))[field].append(value)
        records: list[SpendRecord] = []
        for (at, tags), values in sorted(rows.items()):
            identity = (self._config.name, query.name, f"{at:.3f}", *(f"{key}={value}" for key, value in tags))
            digest = hashlib.sha256("\x00".join(identity).encode()).hexdigest()[:24]
            head = (f"{self._config.name}-{digest}", at, self._clock.now(), dict(tags), self._config.name)
            if query.record == "usage":
                usage = usage_record(head, values, self._prices if query.priced else None)
                records += [usage] if usage is not None else []
            else:
                records.append(gpu_record(head, values, self._config.step_s, self._charges))
        return records

    def _tags(self, query: PromQuery, series: PromSeries) -> dict[str, str]:
        taken = {
            tag: next(
                (series.labels[label] for label in labels.split("|") if series.labels.get(label) not in _ABSENT), ""
            )
            for tag, labels in query.labels.items()
        }
        return {**self._config.tags, **query.tags, **{tag: value for tag, value in taken.items() if value}}


def _headers(config: Config) -> dict[str, str]:
    headers = {"X-Scope-OrgID": config.tenant} if config.tenant else {}
    if config.token:
        headers["Authorization"] = f"Bearer {config.token.get_secret_value()}"
    elif config.password:
        pair = f"{config.username}:{config.password.get_secret_value()}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return headers


def _floor(at: float, step_s: int) -> float:
    return float(math.floor(at / step_s) * step_s)


def _encode(until: float) -> str:
    return msgspec.json.encode(_Cursor(until)).decode()
