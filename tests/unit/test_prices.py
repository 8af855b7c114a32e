"""The price book: lookups, cached tokens, the fallback, and files that are wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from curb.cli.main import app as main
from curb.cli.prices import app
from curb.connectors.pricing.book import PriceBook, PricesSettings
from curb.connectors.pricing.entry import ServiceTier
from curb.connectors.pricing.update import prepare, write
from curb.stream.records.spend import UsageRecord

BOOK: dict[str, Any] = {
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
    assert len(book) > 4500
    assert (book.as_of, book.left_out) == ("2026-11-20", {})
    assert book.price("openai/gpt-4o", input_tokens=1_000_000, output_tokens=1_000_000) == pytest.approx(12.5)
    assert book.fallback_price(input_tokens=1_000_000, output_tokens=0) == pytest.approx(4.0)
    assert book.fallback_price(input_tokens=0, output_tokens=1_000_000) == pytest.approx(19.8)


def test_the_books_own_files_are_small_and_credited() -> None:
    data = Path(__file__).parents[2] / "connectors" / "pricing" / "data"
    assert sum(file.stat().st_size for file in data.glob("*.json.gz")) < 120_000
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
        ('{"m": {"input_cost_per_token": "much"}}', "left out: m: input_cost_per_token is no number"),
        ('{"m": 3}', "left out: m: an object"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        PriceBook.load(path)


# --- tiers and other units -------------------------------------------------------------------------------------------

TIERED = {
    "long": {
        "input_cost_per_token": 1e-6,
        "input_cost_per_token_above_128k_tokens": 2e-6,
        "input_cost_per_token_above_200k_tokens": 4e-6,
        "input_cost_per_token_above_200k_tokens_priority": 8e-6,
        "input_cost_per_token_batches": 5e-7,
        "input_cost_per_token_priority": 3e-6,
        "output_cost_per_token": 10e-6,
        "output_cost_per_token_above_200k_tokens": 20e-6,
        "output_cost_per_token_batches": 5e-6,
        "output_cost_per_reasoning_token": 30e-6,
        "cache_read_input_token_cost": 1e-7,
        "cache_read_input_token_cost_above_200k_tokens": 2e-7,
        "cache_creation_input_token_cost": 1.25e-6,
        "cache_creation_input_token_cost_above_1hr": 2e-6,
        "input_cost_per_audio_token": 7e-6,
        "output_cost_per_audio_token": 9e-6,
        "litellm_provider": "acme",
        "mode": "chat",
    },
    "painter": {"output_cost_per_image": 0.04, "input_cost_per_request": "0.01", "mode": "image_generation"},
    "ranges": {
        "tiered_pricing": [
            {"range": [0, 32000.0], "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6},
            {"range": [32000.0, 128000.0], "input_cost_per_token": 3e-6, "output_cost_per_token": 4e-6},
        ]
    },
}


@pytest.mark.parametrize(
    ("tokens", "tier", "usd"),
    [
        ({"input_tokens": 128_000}, "standard", 0.128),
        ({"input_tokens": 128_001}, "standard", 0.256002),
        ({"input_tokens": 200_001}, "standard", 0.800004),
        ({"input_tokens": 200_001}, "priority", 1.600008),
        ({"input_tokens": 1000}, "priority", 0.003),
        ({"input_tokens": 1000, "output_tokens": 1000}, "batch", 0.0055),
        ({"input_tokens": 1000, "output_tokens": 1000}, "flex", 0.011),
        ({"input_tokens": 0, "output_tokens": 1000, "reasoning": 400}, "standard", 0.018),
        ({"input_tokens": 1000, "cache_read": 1000}, "batch", 1e-4),
        ({"input_tokens": 300_000, "cache_read": 300_000}, "standard", 0.06),
        ({"input_tokens": 1000, "cache_creation": 1000, "cache_creation_1h": 400}, "standard", 0.00155),
        ({"input_tokens": 1000, "audio_input": 100, "output_tokens": 10, "audio_output": 10}, "standard", 0.00169),
    ],
)
def test_tiers(tokens: dict[str, int], tier: ServiceTier, usd: float) -> None:
    assert PriceBook(TIERED, as_of="").price("long", tier=tier, **tokens) == pytest.approx(usd)


def test_ranges_are_tiers_too() -> None:
    book = PriceBook(TIERED, as_of="")
    assert book.price("ranges", input_tokens=32_000, output_tokens=1) == pytest.approx(0.032002)
    assert book.price("ranges", input_tokens=32_001, output_tokens=1) == pytest.approx(0.096007)


def test_other_units() -> None:
    book = PriceBook(TIERED, as_of="")
    assert book.price("painter", units={"images_output": 3, "requests": 1}) == pytest.approx(0.13)
    assert book.price("painter", input_tokens=5, units={"images_output": 3}) is None
    assert book.lookup("painter") is None
    assert len(book) == 2


# --- dates and terms -------------------------------------------------------------------------------------------------

DAY = 86400.0
NEW_YEAR = 1_767_225_600.0  # 2026-01-01
DATED = {
    "m": {
        "input_cost_per_token": 3e-6,
        "litellm_provider": "acme",
        "x_history": [
            {"input_cost_per_token": 2e-6, "until": "2026-01-01"},
            {"input_cost_per_token": 1e-6, "until": "2025-07-01"},
        ],
    }
}


def terms(**settings: Any) -> PricesSettings:
    return PricesSettings.model_validate(settings)


def input_price(book: PriceBook, model: str = "m", at: float | None = None, organization: str = "") -> float | None:
    found = book.lookup(model, at=at, organization=organization)
    return None if found is None else found.input


@pytest.mark.parametrize(
    ("at", "usd"), [(None, 3e-6), (NEW_YEAR, 3e-6), (NEW_YEAR - 1, 2e-6), (NEW_YEAR - 200 * DAY, 1e-6), (0.0, 1e-6)]
)
def test_a_price_is_that_of_its_day(at: float | None, usd: float) -> None:
    assert input_price(PriceBook(DATED, as_of=""), at=at) == usd


def test_discounts_hold_for_their_models_days_and_organisation() -> None:
    discounts = [
        {"model": "m*", "provider": "acme", "percent": 50, "starts": "2026-01-01", "ends": "2026-01-03"},
        {"model": "*", "percent": 10, "organization": "big"},
    ]
    book = PriceBook(DATED, as_of="", terms=terms(discounts=discounts))
    assert input_price(book, at=NEW_YEAR) == pytest.approx(1.5e-6)
    assert input_price(book, at=NEW_YEAR + 2 * DAY) == pytest.approx(3e-6)
    assert input_price(book, at=NEW_YEAR - 1) == pytest.approx(2e-6)
    assert input_price(book, at=NEW_YEAR + 5 * DAY, organization="big") == pytest.approx(2.7e-6)
    assert input_price(book, "other/m-2025-01-01", at=NEW_YEAR) == pytest.approx(1.5e-6)


def test_overrides_replace_single_prices_add_models_and_come_before_discounts() -> None:
    overrides = [
        {"model": "m", "prices": {"output_cost_per_token": 9e-6}, "starts": "2026-01-01"},
        {"model": "house", "prices": {"input_cost_per_token": 5e-6}},
    ]
    book = PriceBook(DATED, as_of="", terms=terms(overrides=overrides, discounts=[{"percent": 50}]))
    assert book.price("m", input_tokens=1, output_tokens=1, at=NEW_YEAR) == pytest.approx(12e-6)
    assert book.price("m", input_tokens=1, output_tokens=1, at=NEW_YEAR - 1) == pytest.approx(1e-6)
    assert input_price(book, "HOUSE") == 5e-6


def test_terms_are_part_of_the_hash_and_history_too() -> None:
    plain = PriceBook(DATED, as_of="").hash
    assert PriceBook(DATED, as_of="", terms=terms(book="/elsewhere")).hash == plain
    assert PriceBook(DATED, as_of="", terms=terms(discounts=[{"percent": 1}])).hash != plain
    assert PriceBook({"m": {"input_cost_per_token": 3e-6}}, as_of="").hash != plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discounts": [{"percent": 101}]}, "less than or equal to 100"),
        ({"discounts": [{"percent": "nan"}]}, "percent"),
        ({"discounts": [{"percent": 1, "starts": "2026-02-01", "ends": "2026-02-01"}]}, "later than"),
        ({"overrides": [{"model": "m", "prices": {"imput": 1}}]}, "no name of a price"),
        ({"overrides": [{"model": "m", "prices": {"input_cost_per_token": -1}}]}, "at least 0"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        terms(**settings)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (3, "an object of prices is needed"),
        ({"input_cost_per_token": "much"}, "input_cost_per_token is no number"),
        ({"input_cost_per_token": 10**400}, "input_cost_per_token is no number"),
        ({"input_cost_per_token": -1e-6}, "must be a finite number"),
        ({"input_cost_per_token": 2.5}, "input_cost_per_token is 2.5 dollars for one token"),
        ({"cache_read_input_token_cost_above_200k_tokens": 1e300}, "is 1e+300 dollars for one token"),
        ({"input_cost_per_token": 1e-6, "x_history": [{"input_cost_per_token": 1e-6}]}, "x_history needs a date"),
        ({"input_cost_per_token": 1e-6, "x_history": 7}, "x_history must be a list"),
        ({"tiered_pricing": [{"input_cost_per_token": 1e-6}]}, "tiered_pricing needs a `range`"),
        ({"tiered_pricing": 7}, "tiered_pricing must be a list"),
        ({"input_cost_per_token": 1e-6, "off_peak_pricing": {"windows": 1}}, "a list of `windows` is needed"),
        ({"search_context_cost_per_query": {"search_context_size_low": "x"}}, "search_context_size_low is no number"),
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_and_named(entry: Any, fault: str) -> None:
    book = PriceBook({"m": {"input_cost_per_token": 1e-6}, "odd": entry}, as_of="")
    assert list(book.left_out) == ["odd"]
    assert book.left_out["odd"].startswith("odd: ")
    assert fault in book.left_out["odd"]
    assert book.find("odd") is None
    assert input_price(book, "m") == 1e-6


def test_a_price_that_cannot_be_is_not_the_price_of_unknown_models() -> None:
    book = PriceBook(
        {"m": {"input_cost_per_token": 1e-6, "mode": "chat"}, "odd": {"input_cost_per_token": 1e300}}, as_of=""
    )
    assert book.fallback_price(input_tokens=1000, output_tokens=0) == pytest.approx(1e-3)


def test_search_tools_that_charge_by_the_number_of_results() -> None:
    tiers = [{"input_cost_per_query": 0.005, "max_results_range": [0, 25]}]
    tiers.append({"input_cost_per_query": 0.025, "max_results_range": [26, 100]})
    models = {**BOOK, "exa_ai/search": {"litellm_provider": "exa_ai", "mode": "search", "tiered_pricing": tiers}}
    book = PriceBook(models, as_of="")
    assert book.left_out == {}
    assert book.price("exa_ai/search", units={"queries": 2}) == pytest.approx(0.01)


def test_usage_is_priced_at_its_own_time_for_its_organisation(book: PriceBook) -> None:
    dated = PriceBook(DATED, as_of="", terms=terms(discounts=[{"percent": 50, "organization": "big"}]))
    for at, org, model, usd, source in (
        (NEW_YEAR, "", "m", 3.0, "priced"),
        (NEW_YEAR - 1, "big", "m", 1.0, "priced"),
        (NEW_YEAR, "", "nobody", 3.0, "fallback"),
    ):
        record = UsageRecord(id="r", charge_period_start=at, received_at=at, effective_cost=0.0, tags={"org": org})
        record.request_model, record.input_tokens = model, 1_000_000
        dated.price_usage(record)
        assert record.effective_cost == pytest.approx(usd)
        assert (record.cost_source, record.price_book) == (source, dated.hash)


def test_names_made_up_by_callers_are_not_remembered_for_ever() -> None:
    book = PriceBook(BOOK, as_of="")
    for n in range(50_000):
        assert book.lookup(f"made-up-{n}") is None
    assert len(book._remembered) <= 20_000


# --- newer books -----------------------------------------------------------------------------------------------------


def written(path: Path, models: dict[str, Any], as_of: str) -> Path:
    path.write_text(json.dumps({**models, "x_book": {"as_of": as_of}}), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_an_update_keeps_old_prices_old_models_and_the_old_file(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"prices{suffix}"
    first = prepare(None, written(tmp_path / "a.json", BOOK, "2026-01-01"), remove=True)
    assert write(target, first) is None
    newer = {"gpt-4o": {**BOOK["gpt-4o"], "input_cost_per_token": 2e-6}, "brand-new": {"input_cost_per_token": 1e-6}}
    second = prepare(target, written(tmp_path / "b.json", newer, "2026-02-01"))
    assert (second.added, second.missing) == (["brand-new"], ["azure/gpt-4o", "free", "m", "m-2024-11-20", "painter"])
    changed = {change.price: (change.before, change.after) for change in second.changes}
    assert changed["input"] == (2.5e-6, 2e-6)
    assert {change.model for change in second.changes} == {"gpt-4o"}
    kept = write(target, second)
    assert kept == tmp_path / f"prices-{first.hash_after}{suffix}"
    book = PriceBook.load(target)
    assert (book.hash, book.as_of) == (second.hash_after, "2026-02-01")
    assert PriceBook.load(kept).hash == first.hash_after
    february = NEW_YEAR + 31 * DAY
    assert input_price(book, "gpt-4o", february) == 2e-6
    assert input_price(book, "gpt-4o", february - 1) == 2.5e-6
    assert input_price(book, "m") == 1e-6
    again = prepare(target, tmp_path / "b.json")
    assert (again.changes, again.hash_after) == ([], book.hash)


def test_a_third_price_keeps_both_before_it(tmp_path: Path) -> None:
    target = tmp_path / "prices.json"
    for n, day in ((1, "2026-01-01"), (2, "2026-02-01"), (3, "2026-03-01")):
        models = {"m": {"input_cost_per_token": n * 1e-6}}
        current = target if target.exists() else written(tmp_path / "zero.json", models, day)
        write(target, prepare(current, written(tmp_path / "new.json", models, day)))
    book = PriceBook.load(target)
    days = (NEW_YEAR, NEW_YEAR + 40 * DAY, NEW_YEAR + 70 * DAY)
    assert [input_price(book, at=at) for at in days] == [1e-6, 2e-6, 3e-6]


def test_a_wrong_update_changes_nothing(tmp_path: Path) -> None:
    target = written(tmp_path / "prices.json", BOOK, "2026-01-01")
    before = target.read_bytes()
    bad = written(tmp_path / "bad.json", {"m": {"input_cost_per_token": "much"}}, "2026-02-01")
    with pytest.raises(ValueError, match="m: input_cost_per_token is no number"):
        prepare(target, bad)
    with pytest.raises(ValueError, match="isoformat"):
        prepare(target, target, starts="soon")
    assert target.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.json", "prices.json"]


def test_the_commands(tmp_path: Path) -> None:
    run = CliRunner().invoke
    target = tmp_path / "prices.json"
    config = tmp_path / "curb.yaml"
    config.write_text(f"prices: {{book: {target}, discounts: [{{percent: 50}}]}}\n", encoding="utf-8")
    newer = written(tmp_path / "newer.json", {**BOOK, **TIERED}, "2026-01-01")
    dry = run(app, ["update", str(newer), "-c", str(config), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "nothing written" in dry.output
    assert not target.exists()
    assert "written, book" in run(app, ["update", str(newer), "-c", str(config)]).output
    shown = run(app, ["show", "acme/long", "-c", str(config), "--at", "2026-02-01", "--json"])
    found = json.loads(shown.output)
    assert found["book"] == PriceBook.load(target, terms(discounts=[{"percent": 50}])).hash
    assert found["usd"]["input above 200000"] == pytest.approx(2e-6)
    assert found["usd"]["batch input"] == pytest.approx(2.5e-7)
    assert "0.02" in run(app, ["show", "painter", "-c", str(config)]).output
    missing = run(app, ["show", "[bold]nobody[/bold]", "-c", str(config)])
    assert missing.exit_code == 1
    assert "no price for [bold]nobody[/bold]" in missing.output
    assert run(app, ["show", "m", "-c", str(config), "--at", "someday"]).exit_code == 2
    config.write_text("prices: {}\n", encoding="utf-8")
    assert run(app, ["update", str(newer), "-c", str(config)]).exit_code == 2


def test_check_config_loads_the_book(tmp_path: Path) -> None:
    run = CliRunner().invoke
    target, config = tmp_path / "prices.json", tmp_path / "curb.yaml"
    config.write_text(f"prices: {{book: {target}}}\n", encoding="utf-8")
    missing = run(main, ["check-config", "-c", str(config)])
    assert missing.exit_code == 2
    assert "prices.book: " in missing.output
    target.write_text("[]", encoding="utf-8")
    wrong = run(main, ["check-config", "-c", str(config)])
    assert (wrong.exit_code, "a JSON object of models is needed" in wrong.output) == (2, True)
    odd = {f"odd-{n}": {"input_cost_per_token": "much"} for n in range(7)}
    written(target, {**BOOK, **odd}, "2026-01-01")
    found = run(main, ["check-config", "-c", str(config)])
    assert found.exit_code == 0, found.output
    assert "5 models, book" in found.output
    assert "odd-0: input_cost_per_token is no number" in found.output
    assert "and 2 more entries of the price book" in found.output
    assert "odd-0: input_cost" in run(app, ["show", "gpt-4o", "-c", str(config)]).output


# --- kinds of usage that maps name apart, or not at all --------------------------------------------------------------


def priced(entry: dict[str, Any], model: str = "m", provider: str = "", **usage: Any) -> float | None:
    entry = {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6, "litellm_provider": provider, **entry}
    return PriceBook({model: entry, "gpt": BOOK["gpt-4o"]}, as_of="").price(model, **usage)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "bedrock_converse", "vertex_ai-anthropic_models"])
def test_batches_cost_half_where_the_provider_sells_them_so(provider: str) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 1000, "tier": "batch"}
    assert priced({}, provider=provider, **usage) == pytest.approx(0.0025)
    assert priced({"input_cost_per_token_batches": 4e-7}, provider=provider, **usage) == pytest.approx(0.0024)
    assert priced({}, provider="deepinfra", **usage) == pytest.approx(0.005)


def test_cached_tokens_of_claude_follow_the_input_and_an_hour_costs_twice() -> None:
    cached = {"cache_read_input_token_cost": 1e-7, "cache_creation_input_token_cost": 1.25e-6}
    long = {**cached, "input_cost_per_token_above_200k_tokens": 2e-6}
    read = {"input_tokens": 300_000, "cache_read": 300_000}
    hour = {"input_tokens": 1000, "cache_creation": 1000, "cache_creation_1h": 1000}
    assert priced(long, "claude-x", "anthropic", **read) == pytest.approx(0.06)
    assert priced(cached, "claude-x", "anthropic", **hour) == pytest.approx(0.002)
    assert priced(cached, "claude-x", "anthropic", tier="batch", **hour) == pytest.approx(0.001)
    assert priced(cached, "other", "openai", **hour) == pytest.approx(0.00125)
    assert priced({}, "m", "fireworks_ai", input_tokens=1000, cache_read=1000) == pytest.approx(0.0005)
    free_writes = {"cache_creation_input_token_cost": 0.0}
    assert priced(free_writes, input_tokens=1000, cache_creation=1000) == pytest.approx(0.001)


def test_media_and_reasoning_have_prices_of_their_own_and_follow_a_tier() -> None:
    entry = {
        "cache_read_input_token_cost": 1e-7,
        "cache_read_input_audio_token_cost": 5e-7,
        "input_cost_per_audio_token": 10e-6,
        "input_cost_per_image_token": 2e-6,
        "output_cost_per_image_token": 30e-6,
        "output_cost_per_reasoning_token": 8e-6,
        "output_cost_per_token_priority": 8e-6,
        "input_cost_per_token_priority": 2e-6,
    }
    audio = {"input_tokens": 1000, "cache_read": 500, "cache_read_audio": 400, "audio_input": 300}
    assert priced(entry, **audio) == pytest.approx(200e-6 + 100e-7 + 400 * 5e-7 + 300 * 10e-6)
    assert priced(entry, input_tokens=100, image_input=50, video_input=50) == pytest.approx(200e-6)
    assert priced(entry, output_tokens=100, image_output=50) == pytest.approx(50 * 4e-6 + 50 * 30e-6)
    assert priced(entry, output_tokens=100, reasoning=100, tier="priority") == pytest.approx(100 * 16e-6)


def test_off_peak_hours_are_cheaper() -> None:
    windows = [
        {"hours_utc": ["16:30-00:30"], "weekdays": [1, 2, 3, 4, 5]},
        {"hours_utc": "00:00-00:00", "weekdays": [7]},
    ]
    entry = {"off_peak_pricing": {"input_cost_per_token": 5e-7, "windows": windows}}
    monday = 1_795_996_800.0  # 2026-11-30 00:00 UTC
    hours = {0.5: 1.0, 12.0: 1.0, 16.5: 0.5, 23.9: 0.5, 24.4: 0.5, 24.5: 1.0, -0.1: 0.5}
    for hour, usd in hours.items():
        assert priced(entry, input_tokens=1_000_000, at=monday + hour * 3600) == pytest.approx(usd), hour


def test_surcharges_count_for_tokens_and_fees_do_not_grow() -> None:
    entry = {"provider_specific_entry": {"us": 1.1, "fast": 2}, "regional_processing_uplift_multiplier_eu": 1.2}
    usage = {"input_tokens": 1_000_000, "units": {"searches": 10}}
    assert priced(entry, uplifts=["us"], **usage) == pytest.approx(1.1 + 0.1)
    assert priced(entry, uplifts=["us", "fast"], **usage) == pytest.approx(2.2 + 0.1)
    assert priced(entry, uplifts=["eu"], **usage) == pytest.approx(1.2 + 0.1)
    assert priced({}, uplifts=["us"], **usage) == pytest.approx(1.0 + 0.1)


@pytest.mark.parametrize(
    ("units", "usd"),
    [
        ({"searches": 1}, 0.01),
        ({"searches_high": 1}, 0.05),
        ({"map_searches": 1}, 0.025),
        ({"sessions": 2}, 0.06),
        ({"seconds_output_1080p": 2}, 1.0),
        ({"seconds_output_720p": 2}, 0.2),
        ({"images_output": 3}, 0.12),
        ({"pages": 10}, 0.02),
        ({"characters_input": 1000}, 0.015),
    ],
)
def test_units(units: dict[str, float], usd: float) -> None:
    entry = {
        "search_context_cost_per_query": {"search_context_size_medium": 0.01, "search_context_size_high": 0.05},
        "output_cost_per_second": 0.1,
        "output_cost_per_second_1080p": 0.5,
        "output_cost_per_image": 0.04,
        "ocr_cost_per_page": 0.002,
        "input_cost_per_character": 15e-6,
    }
    assert priced(entry, units=units) == pytest.approx(usd)


def test_units_without_a_price_are_estimated_and_never_free(book: PriceBook) -> None:
    cost, source = book.estimate("gpt-4o", input_tokens=0, output_tokens=0, units={"images_output": 2})
    assert (cost, source) == (pytest.approx(0.08), "fallback")
    assert book.price("gpt-4o", units={"pixels_output": 2}) is None
