"""A second opinion on list prices by Pydantic's genai-prices: who disagrees is known by name."""

from __future__ import annotations

import time

import pytest

from curb.connectors.pricing.book import PriceBook

pytestmark = pytest.mark.real
#: (model, provider there, provider in the book).
MODELS = (
    *((name, "openai", "openai") for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "gpt-5-mini", "gpt-5.6")),
    *((name, "openai", "openai") for name in ("o3", "o4-mini")),
    *((f"claude-{name}", "anthropic", "anthropic") for name in ("opus-4-6", "sonnet-4-5", "haiku-4-5", "opus-4-1")),
    *((f"gemini-{name}", "google", "gemini") for name in ("2.5-pro", "2.5-flash", "2.5-flash-lite", "3-pro-preview")),
    ("deepseek-chat", "deepseek", "deepseek"),
    ("mistral-large-latest", "mistral", "mistral"),
    ("grok-4", "x-ai", "xai"),
)
#: Where the two differ on 2026-11-20, each time by an alias that has moved to a newer model in one of them.
KNOWN = {"deepseek-chat", "mistral-large-latest", "grok-4"}


def test_list_prices_agree_but_for_aliases_that_moved() -> None:
    other = pytest.importorskip("genai_prices", reason="pip install genai-prices for a second opinion on list prices")
    book, differing = PriceBook.load(), {}
    usage = other.Usage(input_tokens=100_000, output_tokens=10_000, cache_read_tokens=40_000)
    for model, theirs, ours in MODELS:
        opinion = float(other.calc_price(usage, model_ref=model, provider_id=theirs).total_price)
        counts = {"input_tokens": 100_000, "output_tokens": 10_000, "cache_read": 40_000}
        usd = book.price(model, at=time.time(), provider=ours, **counts)
        if usd != pytest.approx(opinion):
            differing[model] = (usd, opinion)
    assert set(differing) <= KNOWN, differing
