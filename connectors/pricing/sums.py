"""What sums of many requests cost: a sum is long although no request in it was, so its length chooses no price."""

from __future__ import annotations

from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.entry import ServiceTier, Tokens
from curb.stream.records.spend import UsageRecord

#: What providers call a service tier → what the book calls it; all others are standard.
TIERS: dict[str, ServiceTier] = {"batch": "batch", "flex": "flex", "priority": "priority"}


def price_sum(prices: PriceBook, record: UsageRecord, *, request_input: float, tier: str = "", **more: int) -> None:
    """Set what the record's tokens cost at its time, at the rates of requests of `request_input` input tokens each.

    `more` are further counts of `Tokens`, such as audio_input or cache_creation_1h.
    """
    tokens = Tokens(
        record.input_tokens,
        record.output_tokens,
        record.cache_read_input_tokens,
        record.cache_creation_input_tokens,
        **more,
    )
    at, organization = record.charge_period_start, record.tags.get("org", "")
    price = prices.lookup(record.request_model, at=at, organization=organization)
    record.price_book = prices.hash
    if price is not None:
        rates = price.rates(TIERS.get(tier, "standard"), int(request_input))
        record.effective_cost, record.cost_source = rates.cost(tokens), "priced"
        return
    record.effective_cost = prices.fallback_price(
        input_tokens=tokens.input,
        output_tokens=tokens.output,
        cache_read=tokens.cache_read,
        cache_creation=tokens.cache_creation,
        **more,
    )
    record.cost_source = "fallback"
