"""Makes the price map that Curb ships from LiteLLM's: only what is priced, with the prices that ended since 2026-07.

    python -m benchmarks.prices.ship MAP.json --date 2026-11-20 --version 1.110.2 --earlier 2026-10-08=OLDER.json ...

Where the shipped dated book has another list price for a model, that is kept as history until the date of the first
earlier map that has today's price. What the dated book says of models that the map prices as well, under a plainer or
another name, is taken out of it: it would be found first, and knows neither audio nor batches.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path
from typing import Any

from curb.connectors.pricing import entry
from curb.connectors.pricing.entries import NOT_MODELS, Entries
from curb.connectors.pricing.names import Names

DATA = Path(entry.__file__).parent / "data"
#: What of an entry is read beside prices.
_ALSO = frozenset({"alias_of", "litellm_provider", "mode", "off_peak_pricing", "search_context_cost_per_query"})
_PRICE = re.compile(r"(^|_)(cost|multiplier)(_|$)|^tiered_pricing$")
#: Prices in other units than dollars, notes, and what is charged by nothing Curb counts.
_NOT_READ = re.compile(r"_dbu_|^guardrail_|^file_search|^vector_store|^computer_use")
_COMPARED = ("input_cost_per_token", "output_cost_per_token")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prices.ship", description=__doc__)
    parser.add_argument("map", type=Path)
    parser.add_argument("--date", required=True, help="Day on which the map was published, YYYY-MM-DD.")
    parser.add_argument("--version", required=True, help="Version of LiteLLM that it comes from.")
    parser.add_argument("--earlier", action="append", default=[], help="DATE=FILE of an earlier map.")
    asked = parser.parse_args()
    models = priced(json.loads(asked.map.read_bytes()))
    maps = dict(each.split("=", 1) for each in asked.earlier)
    earlier = [(day, json.loads(Path(maps[day]).read_bytes())) for day in sorted(maps)]
    dated = json.loads(gzip.decompress((DATA / "prices.json.gz").read_bytes()))
    kept = sum(_keep_history(name, models, dated, earlier, asked.date) for name in models)
    models["x_book"] = {"as_of": asked.date, "license": "MIT", "source": f"litellm {asked.version}"}
    content = json.dumps(models, sort_keys=True, separators=(",", ":")).encode()
    target = DATA / "models.json.gz"
    target.write_bytes(gzip.compress(content, 9, mtime=0))
    size_kb = target.stat().st_size / 1000
    print(f"{target}: {len(models) - 1} entries, {kept} with history, {size_kb:.0f} kB")
    gone = superseded(dated, models)
    left = {name: raw for name, raw in dated.items() if name not in gone}
    content = json.dumps(left, sort_keys=True, separators=(",", ":")).encode()
    (DATA / "prices.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{len(dated) - len(left)} of {len(dated)} entries of the dated book were superseded")


def superseded(dated: dict[str, Any], models: dict[str, Any]) -> set[str]:
    """Names of the dated book alone that the map prices too, from the same provider.

    Either the map has the name without the provider before it, or what it would answer has every price of the entry.
    """
    names, lower = Names(name.lower() for name in models), {name.lower(): name for name in models}
    found = set()
    for name, raw in dated.items():
        if name in NOT_MODELS or name in models:
            continue
        provider, _, bare = name.partition("/")
        match = names.find(name)
        other = models[lower[match.entry]] if match.entry else {}
        same = {key: value for key, value in raw.items() if "cost" in key}.items() <= other.items()
        plainer = bare in models and models[bare].get("litellm_provider") == provider
        if plainer or (same and other.get("litellm_provider") == raw.get("litellm_provider")):
            found.add(name)
    return found


def priced(models: dict[str, Any]) -> dict[str, Any]:
    """The entries that can be read, each with only the fields that are priced."""
    unreadable = Entries(models).left_out
    found = {}
    for name, raw in models.items():
        if name in NOT_MODELS or name in unreadable or not isinstance(raw, dict):
            continue
        kept = {key: value for key, value in raw.items() if _is_read(key) and value is not None}
        special = raw.get("provider_specific_entry") or {}
        if factors := {key: special[key] for key in ("us", "fast") if key in special}:
            kept["provider_specific_entry"] = factors
        if kept.keys() - {"mode"}:
            found[name] = kept
    return found


def _is_read(key: str) -> bool:
    return key in _ALSO or bool(_PRICE.search(key) and not _NOT_READ.search(key))


def _keep_history(
    name: str, models: dict[str, Any], dated: dict[str, Any], earlier: list[tuple[str, Any]], date: str
) -> bool:
    """Put the dated book's price behind the new one. False where they are the same."""
    new, old = models[name], dated.get(name)
    if old is None or not _differ(old, new):
        return False
    until = date
    for day, older in reversed(earlier):
        if _differ(older.get(name, {}), new):
            break
        until = day
    prices = {key: value for key, value in old.items() if "cost" in key}
    new["x_history"] = [{**prices, **{key: new[key] for key in ("litellm_provider", "mode") if key in new}}]
    new["x_history"][0]["until"] = until
    return True


def _differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return any(old.get(key, 0) != new.get(key, 0) for key in _COMPARED)


if __name__ == "__main__":
    main()
