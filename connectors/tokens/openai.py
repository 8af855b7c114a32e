"""OpenAI's organization usage, priced minute by minute from the price book, and its daily costs."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from pydantic import Field, HttpUrl, SecretStr, model_validator

from curb.connectors.connector import ConnectorConfig, Context, Pull
from curb.connectors.decode import Rejected, decode
from curb.connectors.http import JsonClient, Params
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.sums import price_sum
from curb.connectors.tokens.grown import Grown
from curb.connectors.tokens.usage_reports import Labelled, Report, Reports, counted, daily_costs, label_text
from curb.stream.records.spend import UsageRecord
from curb.stream.time import DAY_S

WIDTHS_S = {"1m": 60, "1h": 3600}
PERMISSION = "an admin key (sk-admin-...) with the scope api.usage.read"
Endpoint = Literal[
    "completions",
    "embeddings",
    "moderations",
    "images",
    "audio_speeches",
    "audio_transcriptions",
    "code_interpreter_sessions",
]
#: What is counted where it is not tokens.
UNITS: dict[str, str] = {
    "images": "images",
    "audio_speeches": "characters",
    "audio_transcriptions": "seconds",
    "code_interpreter_sessions": "num_sessions",
}
#: The dimensions an endpoint can be grouped by, other than all.
_FEWER_GROUPS = {"code_interpreter_sessions": ("project_id",)}
_GROUPS = ("project_id", "api_key_id", "model")


class Config(ConnectorConfig):
    """Asks the usage API every `poll_interval_s` for what grew in the last `reread_minutes`."""

    kind: Literal["openai"]
    key: SecretStr = Field(min_length=8, description="Admin key of the organization; it is only read with.")
    url: HttpUrl = Field(HttpUrl("https://api.openai.com/v1"), description="Address of the API.")
    usage: tuple[Endpoint, ...] = Field(
        ("completions", "embeddings"), min_length=1, description="Which usage is read; see the page of this kind."
    )
    unit_prices: dict[Endpoint, float] = Field(
        default={}, description="Dollars per image, character, second or session, for the usage that is not in tokens."
    )
    per_user: bool = Field(False, description="Tell users apart as well (tag user).")
    costs: bool = Field(False, description="Read the daily costs as well, for comparison with the estimates.")
    bucket_width: Literal["1m", "1h"] = Field("1m", description="Length of the buckets that are asked for.")
    reread_minutes: int = Field(60, ge=2, le=720, description="Buckets younger than this are read again every time.")
    first_hours: float = Field(24.0, gt=0, le=744, description="How far back the first reading goes.")
    cost_days: int = Field(5, ge=1, le=90, description="Days of costs that are read again, and first read.")
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    poll_interval_s: float = Field(60.0, ge=5, le=3600, description="How often it is asked.")
    timeout_s: float = Field(20.0, gt=0, le=100, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _units_have_prices(self) -> Config:
        missing = [each for each in self.usage if each in UNITS and each not in self.unit_prices]
        if missing:
            raise ValueError(f"unit_prices: dollars per {UNITS[missing[0]]} are needed for {missing[0]}")
        if self.bucket_width == "1h" and self.reread_minutes < 120:
            raise ValueError("reread_minutes must be at least 120 for buckets of 1h")
        return self

    def build(self, context: Context) -> Pull:
        reports = [_usage(self, endpoint, context.prices) for endpoint in self.usage]
        reports += [_costs(self)] if self.costs else []
        headers = {"Authorization": f"Bearer {self.key.get_secret_value()}"}
        client = JsonClient(context.http, context.clock, headers, self.timeout_s)
        connector = Reports(self.name, reports, client, context, PERMISSION, self.poll_interval_s)
        return Pull(connector, self.poll_interval_s)


# --- usage ----------------------------------------------------------------------------------------------------------


class _Result(msgspec.Struct):
    """One row of any usage endpoint; dimensions that were not grouped by are null."""

    input_tokens: int = 0
    input_cached_tokens: int | None = None
    input_cache_write_tokens: int | None = None
    output_tokens: int | None = None
    num_model_requests: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    images: int = 0
    characters: int = 0
    seconds: float = 0
    num_sessions: int = 0
    project_id: str | None = None
    api_key_id: str | None = None
    user_id: str | None = None
    model: str | None = None
    batch: Any = None
    service_tier: Any = None


_RESULT = msgspec.json.Decoder(_Result)


def _usage(config: Config, endpoint: Endpoint, prices: PriceBook) -> Report:
    width_s = WIDTHS_S[config.bucket_width]
    span_s = config.reread_minutes * 60.0 + 60 * width_s
    groups = [*_FEWER_GROUPS.get(endpoint, _GROUPS), *(["user_id"] if config.per_user else [])]
    groups += ["batch", "service_tier"] if endpoint == "completions" else []

    def params(start: float, end: float) -> Params:
        span = [("start_time", str(int(start))), ("end_time", str(int(end))), ("bucket_width", config.bucket_width)]
        return [*span, ("limit", str(round((end - start) / width_s))), *(("group_by[]", group) for group in groups)]

    def row(raw: bytes) -> Labelled | Rejected:
        found = decode(_RESULT, raw)
        if isinstance(found, Rejected):
            return found
        numbers = (
            found.num_model_requests or found.num_sessions,
            found.input_tokens,
            found.output_tokens or 0,
            found.input_cached_tokens or 0,
            found.input_cache_write_tokens or 0,
            found.input_audio_tokens or 0,
            found.output_audio_tokens or 0,
            float(getattr(found, UNITS[endpoint])) if endpoint in UNITS else 0.0,
        )
        tier = "batch" if found.batch is True else label_text(found.service_tier)
        labels = (found.project_id, found.api_key_id, found.model, found.user_id, tier)
        return counted(numbers) or Labelled(tuple(label or "" for label in labels), numbers)

    def record(grown: Grown, record_id: str, at: float) -> UsageRecord:
        return _usage_record(config, endpoint, prices, grown, record_id, at)

    return Report(
        name=endpoint,
        url=f"{str(config.url).rstrip('/')}/organization/usage/{endpoint}",
        bucket_s=width_s,
        reread_s=config.reread_minutes * 60.0,
        first_s=config.first_hours * 3600.0,
        span_s=span_s,
        params=params,
        row=row,
        record=record,
    )


def _usage_record(
    config: Config, endpoint: Endpoint, prices: PriceBook, grown: Grown, record_id: str, at: float
) -> UsageRecord:
    project, key, model, user, tier = grown.key
    requests, given, produced, cached, written, audio_in, audio_out = map(int, grown.numbers[:7])
    labels = {"project": project, "api_key": key, "model": model, "user": user, "service_tier": tier}
    usage = UsageRecord(
        id=record_id,
        charge_period_start=grown.start,
        received_at=at,
        effective_cost=0.0,
        tags={**config.tags, "provider": "openai", **{name: label for name, label in labels.items() if label}},
        source=config.name,
        request_model=model,
        requests=requests,
        input_tokens=given,
        output_tokens=produced,
        cache_read_input_tokens=cached,
        cache_creation_input_tokens=written,
    )
    if endpoint in UNITS:
        usage.effective_cost, usage.cost_source = grown.numbers[7] * config.unit_prices[endpoint], "priced"
    elif endpoint != "moderations":  # which is free
        mean_input = given / max(1, requests)
        price_sum(prices, usage, request_input=mean_input, tier=tier, audio_input=audio_in, audio_output=audio_out)
    return usage


# --- costs ----------------------------------------------------------------------------------------------------------


class _Amount(msgspec.Struct):
    value: float
    currency: str = "usd"


class _Cost(msgspec.Struct):
    amount: _Amount
    line_item: str | None = None
    project_id: str | None = None


_COST = msgspec.json.Decoder(_Cost, strict=False)


def _cost_row(raw: bytes) -> Labelled | Rejected:
    found = decode(_COST, raw)
    if isinstance(found, Rejected):
        return found
    if found.amount.currency.lower() != "usd":
        return Rejected("invalid", "amount.currency is not usd")
    if found.amount.value != found.amount.value or abs(found.amount.value) == float("inf"):
        return Rejected("not_finite", "amount.value")
    return Labelled((found.project_id or "", found.line_item or ""), (found.amount.value,))


def _costs(config: Config) -> Report:
    groups = (("group_by[]", "project_id"), ("group_by[]", "line_item"))

    def params(start: float, end: float) -> Params:
        span = [("start_time", str(int(start))), ("end_time", str(int(end))), ("bucket_width", "1d")]
        return [*span, ("limit", str(round((end - start) / DAY_S))), *groups]

    return daily_costs(
        source=config.name,
        url=f"{str(config.url).rstrip('/')}/organization/costs",
        days=config.cost_days,
        tags={**config.tags, "provider": "openai"},
        service_name="OpenAI",
        params=params,
        row=_cost_row,
    )
