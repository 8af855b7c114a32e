"""What sums of many requests cost: a sum is long although no request in it was, so its length chooses no price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.entry import ServiceTier, Tokens
from curb.stream.records.spend import UsageRecord

#: What providers call a service tier → what the book calls it; all others are standard.
TIERS: dict[str, ServiceTier] = {
    "balanced": "balanced",
    "batch": "batch",
    "fast": "priority",
    "flex": "flex",
    "priority": "priority",
    "ultrafast": "ultrafast",
}


def price_sum(
    prices: PriceBook,
    record: UsageRecord,
    *,
    request_input: float,
    tier: str = "",
    units: Mapping[str, float] | None = None,
    uplifts: Iterable[str] = (),
    **more: int,
) -> None:
    """Set what the record's tokens cost at its time, at the rates of requests of `request_input` input tokens each.

    `units` and `uplifts` are those of `PriceBook.price`. `more` are further counts of `Tokens`, such as audio_input or
    cache_creation_1h.
    """
    tokens = Tokens(
        record.input_tokens,
        record.output_tokens,
        record.cache_read_input_tokens,
        record.cache_creation_input_tokens,
        **more,
    )
    price = prices.lookup(
        record.request_model,
        at=record.charge_period_start,
        organization=record.tags.get("org", ""),
        provider=record.tags.get("provider", ""),
    )
    record.price_book = prices.hash
    if price is not None:
        if "requests" in price.units:
            units = {"requests": record.requests - record.errors, **(units or {})}
        tier_of = TIERS.get(tier, "standard")
        record.effective_cost = price.cost(tokens, tier_of, units, uplifts, int(request_input))
        record.cost_source = "priced"
        return
    record.effective_cost = prices.fallback_price(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read=tokens.cache_read,
        cache_creation=tokens.cache_creation,
        units=units,
        **more,
    )
    record.cost_source = "fallback"
