"""Anthropic's usage report for messages, priced from the price book, and its daily cost report."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
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
from curb.stream.time import DAY_S, iso

WIDTHS_S = {"1m": 60, "1h": 3600}
PERMISSION = "an admin key (sk-ant-admin...); individual accounts have none"
_GROUPS = ("api_key_id", "workspace_id", "model", "service_tier", "context_window", "inference_geo")
#: Inference anywhere, and models that cannot choose: no surcharge, and no label of their own. A model has one of them.
_ANYWHERE = frozenset({"", "global", "not_available"})
#: Requests of the context window "200k-1M" are longer than this.
LONG_CONTEXT = 200_000
#: The workspace every organization has, which the reports call null.
DEFAULT_WORKSPACE = "default"
#: The key of what was used in the Console, which the reports call null.
CONSOLE = "console"


class Config(ConnectorConfig):
    """Asks the usage report every `poll_interval_s` for what grew in the last `reread_minutes`."""

    kind: Literal["anthropic"]
    key: SecretStr = Field(min_length=8, description="Admin key of the organization; it is only read with.")
    url: HttpUrl = Field(HttpUrl("https://api.anthropic.com"), description="Address of the API.")
    costs: bool = Field(False, description="Read the daily cost report as well, for comparison with the estimates.")
    web_search_usd: float = Field(0.01, ge=0, le=100, description="Dollars per web search.")
    bucket_width: Literal["1m", "1h"] = Field("1m", description="Length of the buckets that are asked for.")
    reread_minutes: int = Field(60, ge=2, le=720, description="Buckets younger than this are read again every time.")
    first_hours: float = Field(24.0, gt=0, le=744, description="How far back the first reading goes.")
    cost_days: int = Field(5, ge=1, le=20, description="Days of costs that are read again, and first read.")
    tags: dict[str, str] = Field(default={}, description="Tags for every record that does not carry them.")
    poll_interval_s: float = Field(60.0, ge=5, le=3600, description="How often it is asked.")
    timeout_s: float = Field(20.0, gt=0, le=100, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _hours_need_room(self) -> Config:
        if self.bucket_width == "1h" and self.reread_minutes < 120:
            raise ValueError("reread_minutes must be at least 120 for buckets of 1h")
        return self

    def build(self, context: Context) -> Pull:
        reports = [_usage(self, context.prices), *([_costs(self)] if self.costs else [])]
        headers = {
            "x-api-key": self.key.get_secret_value(),
            "anthropic-version": "2023-06-01",
            "User-Agent": "curb",
        }
        client = JsonClient(context.http, context.clock, headers, self.timeout_s)
        connector = Reports(self.name, reports, client, context, PERMISSION, self.poll_interval_s)
        return Pull(connector, self.poll_interval_s)


# --- usage ----------------------------------------------------------------------------------------------------------


class _CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class _ServerTools(msgspec.Struct):
    web_search_requests: int = 0


class _Result(msgspec.Struct):
    uncached_input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation: _CacheCreation | None = None
    server_tool_use: _ServerTools | None = None
    api_key_id: str | None = None
    workspace_id: str | None = None
    model: str | None = None
    service_tier: Any = None
    context_window: Any = None
    inference_geo: Any = None


_RESULT = msgspec.json.Decoder(_Result)


def _row(raw: bytes) -> Labelled | Rejected:
    found = decode(_RESULT, raw)
    if isinstance(found, Rejected):
        return found
    created, geo = found.cache_creation or _CacheCreation(), label_text(found.inference_geo)
    numbers = (
        found.uncached_input_tokens,
        found.output_tokens,
        found.cache_read_input_tokens,
        created.ephemeral_5m_input_tokens,
        created.ephemeral_1h_input_tokens,
        found.server_tool_use.web_search_requests if found.server_tool_use else 0,
    )
    key = (
        found.workspace_id or DEFAULT_WORKSPACE,
        found.api_key_id or CONSOLE,
        found.model or "",
        label_text(found.service_tier),
        label_text(found.context_window),
        *([geo] if geo and geo not in _ANYWHERE else []),
    )
    return counted(numbers) or Labelled(key, numbers)


def _usage(config: Config, prices: PriceBook) -> Report:
    width_s = WIDTHS_S[config.bucket_width]

    def params(start: float, end: float) -> Params:
        span = [("starting_at", iso(start)), ("ending_at", iso(end)), ("bucket_width", config.bucket_width)]
        return [*span, ("limit", str(round((end - start) / width_s))), *(("group_by[]", group) for group in _GROUPS)]

    def record(grown: Grown, record_id: str, at: float) -> UsageRecord:
        workspace, key, model, tier, window, *geo = grown.key
        uncached, produced, read, created_5m, created_1h, searches = map(int, grown.numbers)
        labels = {"project": workspace, "api_key": key, "model": model, "service_tier": tier, "region": "".join(geo)}
        usage = UsageRecord(
            id=record_id,
            charge_period_start=grown.start,
            received_at=at,
            effective_cost=0.0,
            tags={**config.tags, "provider": "anthropic", **{name: label for name, label in labels.items() if label}},
            source=config.name,
            request_model=model,
            input_tokens=uncached + read + created_5m + created_1h,
            output_tokens=produced,
            cache_read_input_tokens=read,
            cache_creation_input_tokens=created_5m + created_1h,
        )
        length = LONG_CONTEXT + 1 if window.startswith("200k") else 0
        price_sum(prices, usage, request_input=length, tier=tier, uplifts=geo, cache_creation_1h=created_1h)
        usage.effective_cost += searches * config.web_search_usd
        return usage

    return Report(
        name="messages",
        url=f"{str(config.url).rstrip('/')}/v1/organizations/usage_report/messages",
        bucket_s=width_s,
        reread_s=config.reread_minutes * 60.0,
        first_s=config.first_hours * 3600.0,
        span_s=config.reread_minutes * 60.0 + 60 * width_s,
        params=params,
        row=_row,
        record=record,
    )


# --- costs ----------------------------------------------------------------------------------------------------------


class _Cost(msgspec.Struct):
    #: Cents, such as "123.78912".
    amount: str
    currency: str = "USD"
    workspace_id: str | None = None
    description: str | None = None


_COST = msgspec.json.Decoder(_Cost)


def _cost_row(raw: bytes) -> Labelled | Rejected:
    found = decode(_COST, raw)
    if isinstance(found, Rejected):
        return found
    if found.currency.upper() != "USD":
        return Rejected("invalid", "currency is not USD")
    try:
        cents = Decimal(found.amount)
    except InvalidOperation:
        return Rejected("wrong_type", "amount is no decimal number")
    if not cents.is_finite():
        return Rejected("not_finite", "amount")
    return Labelled((found.workspace_id or DEFAULT_WORKSPACE, found.description or ""), (float(cents / 100),))


def _costs(config: Config) -> Report:
    groups = (("group_by[]", "workspace_id"), ("group_by[]", "description"))

    def params(start: float, end: float) -> Params:
        span = [("starting_at", iso(start)), ("ending_at", iso(end)), ("bucket_width", "1d")]
        return [*span, ("limit", str(round((end - start) / DAY_S))), *groups]

    return daily_costs(
        source=config.name,
        url=f"{str(config.url).rstrip('/')}/v1/organizations/cost_report",
        days=config.cost_days,
        tags={**config.tags, "provider": "anthropic"},
        service_name="Anthropic",
        params=params,
        row=_cost_row,
    )
