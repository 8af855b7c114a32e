"""How names of models are found in the price book: fine-tuned, Bedrock's, marked, dated, dotted, of other providers."""

from __future__ import annotations

import pytest

from curb.connectors.pricing.book import PriceBook, PricesSettings, read_book
from curb.connectors.pricing.names import Names
from curb.stream.records.spend import UsageRecord

KNOWN = Names(
    name.lower()
    for name in (
        "gpt-4o",
        "gpt-4o-2024-08-06",
        "ft:gpt-4o-mini-2024-07-18",
        "azure/gpt-4o",
        "claude-opus-4-6",
        "claude-sonnet-4-5-20250929",
        "claude-sonnet-4-5-20250101",
        "anthropic.claude-opus-4-6-v1",
        "us.anthropic.claude-opus-4-6-v1",
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        "amazon.nova-lite-v1:0",
        "eu.amazon.nova-lite-v1:0",
        "gemini-2.5-pro",
        "deepseek.v3-v1:0",
        "openrouter/qwen/qwen3-coder",
        "openrouter/openai/gpt-4o:extended",
        "github_copilot/gpt-4o",
        "mistral/mistral-large-latest",
    )
)


@pytest.mark.parametrize(
    ("model", "entry"),
    [
        ("ft:gpt-4o-mini-2024-07-18:my-org::abc", "ft:gpt-4o-mini-2024-07-18"),
        ("openai/ft:gpt-4o-mini-2024-07-18:my-org:name:id", "ft:gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:my-org::abc", "ft:gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-2024-08-06:my-org::abc", ""),  # a fine-tuned model costs more than its base
        ("gpt-4o-2024-08-06.ft-0123abcd", "gpt-4o-2024-08-06"),
        ("gpt-4o-2031-01-01", "gpt-4o"),
        ("openrouter/openai/gpt-4o:nitro", "gpt-4o"),
        ("openrouter/openai/gpt-4o:extended", "openrouter/openai/gpt-4o:extended"),
        ("qwen/qwen3-coder:floor", "openrouter/qwen/qwen3-coder"),
        ("claude-opus-4-6[1m]", "claude-opus-4-6"),
        ("anthropic.claude-haiku-4-5-20251001-v1:0:200k", "anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("openai:gpt-4o", "gpt-4o"),
        ("google-gla:gemini-2.5-pro", "gemini-2.5-pro"),
        ("bedrock:us.anthropic.claude-opus-4-6-v1", "us.anthropic.claude-opus-4-6-v1"),
        ("azure:my-gpt-4o", ""),
        ("anthropic/claude-opus-4.6", "claude-opus-4-6"),
        ("claude-opus-4-6@default", "claude-opus-4-6"),
        ("claude-opus-4-6-latest", "claude-opus-4-6"),
        ("claude-sonnet-4.5", "claude-sonnet-4-5-20250929"),
        ("claude-sonnet-4-5@20991231", "claude-sonnet-4-5-20250929"),
        ("us.anthropic.claude-opus-4-6-v1", "us.anthropic.claude-opus-4-6-v1"),
        ("us.anthropic.claude-opus-4-6", "us.anthropic.claude-opus-4-6-v1"),
        ("jp.anthropic.claude-opus-4-6-v1", "us.anthropic.claude-opus-4-6-v1"),
        ("global.anthropic.claude-opus-4-6-v1", "anthropic.claude-opus-4-6-v1"),
        ("bedrock/us-east-1/anthropic.claude-opus-4-6-v1", "anthropic.claude-opus-4-6-v1"),
        ("bedrock/converse/apac.amazon.nova-lite-v1:0", "eu.amazon.nova-lite-v1:0"),
        ("anthropic.claude-haiku-4-5", "anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-opus-4-6-v1",
            "us.anthropic.claude-opus-4-6-v1",
        ),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", ""),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("gemini-2.5-pro-002", "gemini-2.5-pro"),
        ("deepseek-v3", ""),
        ("deepseek-v4", ""),
        ("gpt-4", ""),
        ("gpt-4o-audio", ""),
        ("github_copilot/gpt-4o", "github_copilot/gpt-4o"),
        ("github_copilot/claude-opus-4-6", ""),
        ("github_copilot/claude-opus-4.6", ""),
        ("chatgpt/gpt-4o", ""),
        ("hosted_vllm/gpt-4o", ""),
        ("", ""),
        ("/", ""),
        ("[1m]", ""),
    ],
)
def test_a_name_finds_its_entry_and_no_other(model: str, entry: str) -> None:
    assert KNOWN.find(model).entry == entry


@pytest.mark.parametrize(
    ("model", "provider", "entry"),
    [
        ("gpt-4o", "azure", "azure/gpt-4o"),
        ("gpt-4o", "azure.ai.openai", "azure/gpt-4o"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("azure/gpt-4o", "azure", "azure/gpt-4o"),
        ("mistral-large", "mistral_ai", "mistral/mistral-large-latest"),
        ("claude-opus-4-6", "github_copilot", ""),
        ("gpt-4o", "github_copilot", "github_copilot/gpt-4o"),
    ],
)
def test_the_provider_chooses_between_entries_of_a_model(model: str, provider: str, entry: str) -> None:
    assert KNOWN.find(model, provider).entry == entry


# --- prices of the shipped book --------------------------------------------------------------------------------------

SHIPPED = PriceBook.load()
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "usd"),
    [
        ("ft:gpt-4o-mini-2024-07-18:my-org::abc", 0.3 + 1.2),
        ("ft:gpt-4o-2024-08-06:my-org::x", 3.75 + 15),
        ("openrouter/meta-llama/llama-3.3-70b-instruct:free", 0.0),
        ("openrouter/nobody/knows-this:free", 0.0),
        ("openrouter/openai/gpt-4o:online", 2.5 + 10),
        ("openai/gpt-4o:batch", 1.25 + 5),
        ("chatgpt/gpt-5.5", 0.0),
        ("us.anthropic.claude-opus-4-6-v1", 5.5 + 27.5),
        ("azure/gpt-4o", 2.5 + 10),
        ("claude-sonnet-latest", 2 + 10),
    ],
)
def test_a_million_tokens_in_and_out(model: str, usd: float) -> None:
    cost, source = SHIPPED.estimate(model, input_tokens=MILLION, output_tokens=MILLION)
    assert (cost, source) == (pytest.approx(usd), "priced")


def test_a_model_of_openai_costs_the_same_with_and_without_the_provider_before_its_name() -> None:
    models, _ = read_book()
    names = [name for name, raw in models.items() if raw.get("litellm_provider") == "openai" and "/" not in name]
    assert len(names) > 150
    for name in names:
        plain, named = SHIPPED.find(name), SHIPPED.find(f"openai/{name}", provider="openai")
        assert (named and (named.tiers, named.units)) == (plain and (plain.tiers, plain.units)), name


@pytest.mark.parametrize("model", ["gpt-realtime", "gpt-4o-audio-preview", "gpt-4o-mini-realtime-preview"])
def test_what_is_heard_and_said_costs_more_than_text(model: str) -> None:
    text = SHIPPED.price(model, input_tokens=MILLION, output_tokens=MILLION, provider="openai")
    heard = {"audio_input": MILLION, "audio_output": MILLION}
    audio = SHIPPED.price(model, input_tokens=MILLION, output_tokens=MILLION, provider="openai", **heard)
    assert text is not None
    assert audio is not None
    assert audio > 4 * text


def test_a_search_of_online_models_counts_for_each_request() -> None:
    record = UsageRecord(id="r", charge_period_start=0.0, received_at=0.0, effective_cost=0.0, tags={})
    record.request_model, record.requests = "openrouter/openai/gpt-4o:online", 3
    SHIPPED.price_usage(record)
    assert record.effective_cost == pytest.approx(3 * 0.02)


def test_a_deployment_of_ones_own_costs_as_the_model_it_stands_for() -> None:
    terms = PricesSettings.model_validate({"aliases": {"Chat-Prod": "azure/gpt-4o"}})
    book = PriceBook.load(terms=terms)
    for name in ("chat-prod", "azure/chat-prod", "CHAT-PROD"):
        assert book.price(name, input_tokens=MILLION) == pytest.approx(2.5)
    assert SHIPPED.price("chat-prod", input_tokens=MILLION) is None
    assert book.hash != SHIPPED.hash


def test_the_shipped_book_prices_what_an_own_book_does_not_know() -> None:
    own = PriceBook({"gpt-4o": {"input_cost_per_token": 1e-6}}, as_of="", beside=SHIPPED)
    assert own.price("gpt-4o-2024-08-06", input_tokens=MILLION) == pytest.approx(1.0)
    assert own.price("claude-opus-4-6", input_tokens=MILLION) == pytest.approx(5.0)
    assert own.price("nobody", input_tokens=MILLION) is None


def test_a_price_of_the_shipped_book_is_that_of_its_day() -> None:
    august, november = 1_785_542_400.0, 1_795_000_000.0  # 2026-08-01, 2026-11-18
    assert SHIPPED.price("gpt-5.6", input_tokens=100_000, at=august) == pytest.approx(0.5)
    assert SHIPPED.price("gpt-5.6", input_tokens=100_000, at=november) == pytest.approx(0.4)
