"""The price book: lookups, cached tokens, the fallback, and files that are wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from connectors.prices import PriceBook

BOOK = {
    "gpt-4o": {
        "input_cost_per_token": 2.5e-6,
        "output_cost_per_token": 1e-5,
        "cache_read_input_token_cost": 1.25e-6,
        "mode": "chat",
    },
    "azure/gpt-4o": {"input_cost_per_token": 3e-6, "output_cost_per_token": 1.2e-5, "mode": "chat"},
    "m-2024-11-20": {"input_cost_per_token": 9e-6, "output_cost_per_token": 9e-6, "mode": "chat"},
    "m": {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6, "mode": "chat"},
    "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "mode": "chat"},
    "painter": {"output_cost_per_image": 0.04, "mode": "image_generation"},
    "sample_spec": {"input_cost_per_token": 0.0, "max_tokens": "a text"},
}


@pytest.fixture
def book() -> PriceBook:
    return PriceBook(BOOK, as_of="2026-01-01")


@pytest.mark.parametrize(
    ("model", "input_price"),
    [
        ("gpt-4o", 2.5e-6),
        ("GPT-4o", 2.5e-6),
        ("openai/gpt-4o", 2.5e-6),
        ("openrouter/openai/gpt-4o", 2.5e-6),
        ("azure/gpt-4o", 3e-6),
        ("azure/gpt-4o-2024-08-06", 3e-6),
        ("gpt-4o-2024-08-06", 2.5e-6),
        ("gpt-4o@20240806", 2.5e-6),
        ("bedrock/gpt-4o-20240806-v1:0", 2.5e-6),
        ("m-2024-11-20", 9e-6),
        ("m-2025-01-01", 1e-6),
        ("free", 0.0),
    ],
)
def test_lookup(book: PriceBook, model: str, input_price: float) -> None:
    found = book.lookup(model)
    assert found is not None
    assert found.input == input_price


@pytest.mark.parametrize("model", ["", "gpt-5", "painter", "sample_spec", "x_book", "gpt-4o-mini", "/", "gpt-4o-"])
def test_unknown(book: PriceBook, model: str) -> None:
    assert book.lookup(model) is None
    assert book.price(model, input_tokens=1, output_tokens=1) is None


def test_cached_tokens_are_part_of_the_input(book: PriceBook) -> None:
    cost = book.price("gpt-4o", input_tokens=1000, output_tokens=100, cache_read=400, cache_creation=100)
    assert cost == pytest.approx(500 * 2.5e-6 + 400 * 1.25e-6 + 100 * 2.5e-6 + 100 * 1e-5)


def test_more_cached_than_input_is_never_negative(book: PriceBook) -> None:
    cost = book.price("gpt-4o", input_tokens=10, output_tokens=0, cache_read=400)
    assert cost == pytest.approx(400 * 1.25e-6)


def test_the_fallback_is_the_90th_percentile_of_chat_models_that_cost() -> None:
    models = {f"m{n}": {"input_cost_per_token": n * 1e-6, "output_cost_per_token": (11 - n) * 1e-6} for n in range(11)}
    book = PriceBook(models, as_of="")
    assert book.fallback_price(input_tokens=1_000_000, output_tokens=0) == pytest.approx(9.0)
    assert book.fallback_price(input_tokens=0, output_tokens=1_000_000) == pytest.approx(9.0)
    for model, dollars, source in (("nobody", 9.0, "fallback"), ("m1", 1.0, "priced")):
        cost, cost_source = book.estimate(model, input_tokens=1_000_000, output_tokens=0)
        assert cost == pytest.approx(dollars)
        assert cost_source == source


def test_the_hash_is_of_the_content_not_of_its_order(book: PriceBook) -> None:
    assert PriceBook(dict(reversed(BOOK.items())), as_of="other").hash == book.hash
    assert PriceBook({**BOOK, "m": {"input_cost_per_token": 2e-6}}, as_of="").hash != book.hash
    assert len(book.hash) == 12


def test_the_shipped_book() -> None:
    book = PriceBook.load()
    assert len(book) > 1500
    assert book.as_of == "2026-07-24"
    assert book.price("openai/gpt-4o", input_tokens=1_000_000, output_tokens=1_000_000) == pytest.approx(12.5)
    assert book.fallback_price(input_tokens=1_000_000, output_tokens=0) == pytest.approx(8.0)
    assert book.fallback_price(input_tokens=0, output_tokens=1_000_000) == pytest.approx(24.0)


def test_the_books_own_file_is_small_and_credited() -> None:
    data = Path(__file__).parents[2] / "connectors" / "data"
    assert (data / "prices.json.gz").stat().st_size < 100_000
    assert "MIT" in (data / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_file_of_ones_own(tmp_path: Path, suffix: str) -> None:
    content = json.dumps({**BOOK, "x_book": {"as_of": "2026-03-01"}}).encode()
    path = tmp_path / f"prices{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    book = PriceBook.load(path)
    assert (len(book), book.as_of) == (5, "2026-03-01")


def test_without_a_date_the_files_own_counts(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(BOOK), encoding="utf-8")
    os.utime(path, (1_767_225_600, 1_767_225_600))
    assert PriceBook.load(path).as_of == "2026-01-01"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a JSON object of models"),
        ("{", "Expecting"),
        ("{}", "no chat model"),
        ('{"m": {"input_cost_per_token": -1}}', "m: input_cost_per_token must be"),
        ('{"m": {"input_cost_per_token": NaN}}', "m: input_cost_per_token must be"),
        ('{"m": {"input_cost_per_token": "much"}}', "price book: m:"),
        ('{"m": 3}', "price book: m:"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        PriceBook.load(path)
