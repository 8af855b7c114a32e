"""Usage and GPUs from CloudWatch metrics: Bedrock, SageMaker endpoints, or what the configuration says."""

from __future__ import annotations

import asyncio
import threading
from typing import Literal

from pydantic import Field, model_validator

from curb.connectors.connector import Batch, Check, ConnectorConfig, Context, Pull
from curb.connectors.decode import Letters
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.gpus import GpuPriceOverride, GpuPrices
from curb.connectors.pricing.sums import price_sum
from curb.connectors.tokens.cloudwatch_api import CloudWatchApi
from curb.connectors.tokens.cloudwatch_queries import MetricQuery
from curb.connectors.tokens.grown import Feed, Grown, Row, dump, load
from curb.stream.clients.aws import AwsClient, AwsSettings
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import GpuRecord, SpendRecord, UsageRecord

#: Periods asked for at once beyond those that are read again.
_MORE_PERIODS = 60
_LIST, _GET = "cloudwatch:ListMetrics", "cloudwatch:GetMetricData"


class Config(ConnectorConfig):
    """Asks CloudWatch every `poll_interval_s` for what grew in the last `reread_minutes`."""

    kind: Literal["cloudwatch"]
    queries: tuple[MetricQuery, ...] = Field(
        min_length=1, max_length=100, description="What is asked and what it means."
    )
    aws: AwsSettings = Field(AwsSettings(), description="Which account is asked, and as whom.")
    period_s: Literal[60, 300, 900, 3600] = Field(60, description="Seconds of one sum.")
    lag_minutes: int = Field(
        3, ge=0, le=120, description="CloudWatch's delay: sums are read when they are so old, and dated so much later."
    )
    reread_minutes: int = Field(60, ge=5, le=1440, description="Sums younger than this are read again every time.")
    first_hours: float = Field(3.0, gt=0, le=360, description="How far back the first reading goes.")
    discover_s: float = Field(300.0, ge=10, le=3600, description="How often is looked for new models and endpoints.")
    prices: tuple[GpuPriceOverride, ...] = Field(default=(), description="Own GPU prices; they win over the list.")
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    poll_interval_s: float = Field(60.0, ge=10, le=3600, description="How often it is asked.")
    timeout_s: float = Field(20.0, gt=0, le=60, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        names = [query.name for query in self.queries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"queries: {', '.join(twice)} is defined twice")
        if self.reread_minutes * 60 < 2 * self.period_s:
            raise ValueError("reread_minutes must hold at least two periods")
        return self

    def build(self, context: Context) -> Pull:
        return Pull(CloudWatch(self, context), self.poll_interval_s)


class CloudWatch:
    """Pull connector: what grew goes into the cursor first and onto the log from there, the same however often."""

    def __init__(self, config: Config, context: Context) -> None:
        self._config, self._clock, self._prices = config, context.clock, context.prices
        self._queries = [query.resolved() for query in config.queries]
        self._client = AwsClient("cloudwatch", config.aws, context.clock, config.timeout_s)
        self._api = CloudWatchApi(config.name, self._client, config.period_s)
        self._gpu_prices = GpuPrices.load(config.prices)
        self._lock = threading.Lock()
        #: Query → when its metrics were listed, and the combinations found.
        self._listed: dict[str, tuple[float, set[tuple[str, ...]]]] = {}

    async def read(self, cursor: str | None) -> Batch:
        """What the cursor promises; else what one query has new, which the cursor given back promises."""
        config, progress, now = self._config, load(cursor), self._clock.now()
        for query in self._queries:
            feed = progress.feeds.get(query.name)
            if feed is not None and feed.grown:
                records = [self._record(query, grown, now) for grown in feed.grown]
                locations = [f"{query.name} {int(grown.start)} #{n}" for n, grown in enumerate(feed.grown)]
                feed.grown = []
                return Batch(records, dump(progress), more=progress.more, locations=locations)
        turn = progress.turn % len(self._queries)
        query, due = self._queries[turn], now - config.lag_minutes * 60.0
        newest = self._floor(due)
        feed = progress.feeds.setdefault(query.name, Feed(self._floor(due - config.first_hours * 3600)))
        reread_s = config.reread_minutes * 60.0
        end = min(feed.settled + reread_s + _MORE_PERIODS * config.period_s, newest)
        fitted, letters = True, Letters(config.name, now)
        if end > feed.settled:
            fitted = feed.take(await asyncio.to_thread(self._rows, query, feed.settled, end, letters))
            if fitted:
                feed.settle(min(end, self._floor(due - reread_s)))
        if fitted and end >= newest:
            turn = (turn + 1) % len(self._queries)
        progress.more = not fitted or end < newest or turn > 0
        progress.turn = turn
        return Batch((), dump(progress), more=progress.more or bool(feed.grown), dead=letters.messages())

    async def check(self) -> list[Check]:
        """Lists the metrics of each query and asks for the newest sums."""
        return await asyncio.to_thread(self._check)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def _rows(self, query: MetricQuery, start: float, end: float, letters: Letters) -> list[Row]:
        with self._lock:  # a read that was given up may still be running
            now = self._clock.now()
            at, combinations = self._listed.get(query.name, (0.0, set()))
            if now - at >= self._config.discover_s:
                # A metric is listed for two weeks after its last value, longer than anything is read again.
                combinations = self._api.combinations(query)
                self._listed[query.name] = now, combinations
            return self._api.rows(query, combinations, start, end, letters)

    def _check(self) -> list[Check]:
        checks: list[Check] = []
        newest = self._floor(self._clock.now() - self._config.lag_minutes * 60.0)
        for query in self._queries:
            what, permission = f"list {query.namespace}", _LIST
            try:
                found = self._api.combinations(query)
                by = ", ".join(query.dimensions)
                checks.append(Check(what, bool(found), f"{len(found)} combinations of {by}", permission))
                what, permission = f"read {query.namespace}", _GET
                letters = Letters(self._config.name, self._clock.now())
                rows = self._api.rows(query, found, newest - 3600, newest, letters) if found else []
                checks.append(Check(what, True, f"{len(rows)} sums in the last hour", permission))
            except (TransientError, PermanentError) as error:
                checks.append(Check(what, False, str(error), permission))
        return checks

    def _record(self, query: MetricQuery, grown: Grown, now: float) -> SpendRecord:
        dimensions = dict(zip(query.dimensions, grown.key, strict=True))
        known = query.about(dimensions)
        tags = {tag: dimensions[dimension] for tag, dimension in query.labels.items()}
        if known is not None and known.model:
            tags["model"] = known.model
        tags = {**self._config.tags, **query.tags, **tags, **(known.tags if known else {})}
        # When it fell due. Dated by its start, it would come after that minute was judged.
        at = grown.start + self._config.period_s + self._config.lag_minutes * 60.0
        head = (grown.id(self._config.name, query.name), at, now, tags, self._config.name)
        if query.record == "usage":
            return usage_record(head, dict(zip(query.fields, grown.numbers, strict=True)), query, self._prices)
        return self._gpu_record(head, grown, query)

    def _gpu_record(self, head: Head, grown: Grown, query: MetricQuery) -> GpuRecord:
        """GPUs of the machines that sent samples; their percents go up to 100 for each GPU of a machine."""
        known = query.about(dict(zip(query.dimensions, grown.key, strict=True)))
        instance, at = known.instance if known else "", head[1]
        price = self._gpu_prices.price("", at, instance=instance)
        if price.known == "fallback" and instance.startswith("ml."):
            price = self._gpu_prices.price("", at, instance=instance.removeprefix("ml."))
        samples, percents = grown.numbers
        gpus = ((known.gpus if known else 0) or price.gpus or 1) if query.sample_of == "instance" else 1
        gpu_seconds = samples * query.sample_s * gpus
        record_id, at, now, tags, source = head
        return GpuRecord(
            id=record_id,
            charge_period_start=at,
            received_at=now,
            effective_cost=price.usd_per_gpu_hour * gpu_seconds / 3600,
            tags={**tags, "instance": instance} if instance else tags,
            source=source,
            cost_source=price.known,
            request_model=instance or "GPU",
            gpu_utilization=min(100.0, percents / samples / gpus) if samples else None,
            gpu_seconds=gpu_seconds,
            price_book=self._gpu_prices.hash,
        )

    def _floor(self, at: float) -> float:
        return float(at // self._config.period_s * self._config.period_s)


#: Id, when it fell due, time of receipt, tags, source.
Head = tuple[str, float, float, dict[str, str], str]


def usage_record(head: Head, sums: dict[str, float], query: MetricQuery, prices: PriceBook) -> UsageRecord:
    """Usage of one period. Tokens without a cost of their own are priced by the tag `model`."""
    record_id, at, now, tags, source = head
    count = {field: round(value) for field, value in sums.items()}
    cached = 0 if query.input_has_cached else count["cache_read_input_tokens"] + count["cache_creation_input_tokens"]
    usage = UsageRecord(
        id=record_id,
        charge_period_start=at,
        received_at=now,
        effective_cost=sums["effective_cost"],
        tags=tags,
        source=source,
        request_model=tags.get("model", ""),
        requests=count["requests"],
        errors=count["errors"],
        input_tokens=count["input_tokens"] + cached,
        output_tokens=count["output_tokens"],
        cache_read_input_tokens=count["cache_read_input_tokens"],
        cache_creation_input_tokens=count["cache_creation_input_tokens"],
    )
    if "effective_cost" not in query.metrics and usage.input_tokens + usage.output_tokens:
        price_sum(prices, usage, request_input=usage.input_tokens / max(1, usage.requests - usage.errors))
    return usage
