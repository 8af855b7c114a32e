"""Takes a newer price map into a book: what changes, what it was before, and the file written in one step."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from curb.connectors.pricing.book import PriceBook, read_book, shipped_book
from curb.connectors.pricing.entries import NOT_MODELS
from curb.connectors.pricing.entry import Price, price_of

#: Kinds of tokens that are shown of every model that charges them.
_ALWAYS = ("input", "output", "cache_read", "cache_creation", "cache_creation_1h")


class Change(NamedTuple):
    """One price of one model; None where there was or is none."""

    model: str
    price: str
    before: float | None
    after: float | None


class Update(NamedTuple):
    """A book that is not written yet."""

    models: dict[str, Any]
    #: First day of the new prices, "YYYY-MM-DD"; the day before, the old ones hold.
    starts: str
    added: list[str]
    #: In the old book only: kept, unless they were to be removed.
    missing: list[str]
    changes: list[Change]
    hash_before: str
    hash_after: str
    #: Entries of the newer map that cannot be read, and why: what the old book has of them is kept.
    left_out: dict[str, str]


def prepare(current: Path | None, newer: Path, *, starts: str = "", remove: bool = False) -> Update:
    """What the book `current` (None: the shipped one) becomes with the map in the file `newer`.

    A changed model keeps its old prices as history until `starts` (default: the date of the newer map); models that the
    newer map lacks are kept unless `remove`. Raises OSError or ValueError for files that are no books.
    """
    old, _ = read_book(current)
    new, as_of = read_book(newer)
    starts = starts or as_of
    date.fromisoformat(starts)
    book_before = PriceBook(old, as_of="", beside=shipped_book())
    left_out = PriceBook(new, as_of="").left_out
    old = {name: raw for name, raw in old.items() if name not in book_before.left_out}
    new = {name: raw for name, raw in new.items() if name not in left_out}
    added, missing, changes = [], [], []
    merged: dict[str, Any] = {}
    for name, raw in new.items():
        if name in NOT_MODELS:
            continue
        merged[name] = raw
        if name not in old:
            added.append(name)
            continue
        found = list(_changes(name, price_of(name, old[name]), price_of(name, raw)))
        changes += found
        if history := _history(old[name], starts if found else None):
            merged[name] = {**raw, "x_history": history}
    for name in old.keys() - new.keys() - NOT_MODELS:
        missing.append(name)
        if not remove:
            merged[name] = old[name]
    note = new.get("x_book")
    merged["x_book"] = {**(note if isinstance(note, dict) else {}), "as_of": as_of}
    after = PriceBook(merged, as_of=as_of, beside=shipped_book())
    return Update(merged, starts, sorted(added), sorted(missing), changes, book_before.hash, after.hash, left_out)


def write(target: Path, update: Update) -> Path | None:
    """Write the book; the file that was there is kept beside it under its hash. Returns where, or None.

    A crash leaves the old file or the new one, never a part. Raises OSError.
    """
    content = json.dumps(update.models, sort_keys=True, indent=1).encode()
    if target.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    kept = None
    if target.exists():
        first, _, rest = target.name.partition(".")
        kept = target.with_name(f"{first}-{update.hash_before}.{rest}")
        _write_whole(kept, target.read_bytes())
    _write_whole(target, content)
    return kept


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _history(old: dict[str, Any], until: str | None) -> list[dict[str, Any]]:
    """The older entries, and the old one itself where its prices end now."""
    history: list[dict[str, Any]] = list(old.get("x_history") or ())
    if until is not None:
        last = {key: value for key, value in old.items() if key != "x_history"}
        history = [each for each in history if each["until"] < until] + [{**last, "until": until}]
    return history


def _changes(name: str, before: Price | None, after: Price | None) -> Iterator[Change]:
    old, new = figures(before), figures(after)
    for price in sorted(old.keys() | new.keys()):
        if old.get(price) != new.get(price):
            yield Change(name, price, old.get(price), new.get(price))


def figures(price: Price | None) -> dict[str, float]:
    """Every figure of a price by name, such as `input`; those of tiers and off-peak hours, such as `batch input above
    200000`, only where they differ from it, and of rare kinds of tokens only where they differ from the plain kind."""
    if price is None:
        return {}
    plain = price.tiers["standard"][-1][1]._asdict() if price.tiers else {}
    found = {rate: usd for rate, usd in plain.items() if rate in _ALWAYS or usd != plain[_plain_of(rate)]}
    for tier, levels in price.tiers.items():
        for above, rates in reversed(levels):
            before = "" if tier == "standard" else f"{tier} "
            behind = f" above {above}" if above else ""
            own = {rate: usd for rate, usd in rates._asdict().items() if rate in found and usd != plain[rate]}
            found |= {f"{before}{rate}{behind}": usd for rate, usd in own.items()}
    if price.off_peak is not None:
        cheaper = figures(price.off_peak[1])
        found |= {f"off-peak {name}": usd for name, usd in cheaper.items() if usd != found.get(name)}
    return found | {f"per {unit}": usd for unit, usd in price.units.items()}


def _plain_of(rate: str) -> str:
    return "output" if rate in ("audio_output", "image_output", "video_output", "reasoning") else "input"
