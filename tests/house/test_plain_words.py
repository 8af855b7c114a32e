"""The trade's words in names, comments, docstrings, messages and documentation: a list of words that are not used."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import FLOORS, ROOT, files, name

#: Pattern → what to write instead. A part of a name counts like a word: `_told_why`, `HeldAgainst`.
WORDS = {
    r"told|tells?": "notified, reported, recorded",
    r"held against": "compared with",
    r"heed(?:ed|s)?": "applied",
    r"dear(?:er|est)?": "expensive",
    r"anew": "again",
    r"belts?": "guard",
    r"aims?": "target, target rate",
    r"news": "message, inbox, record",
    r"none that": "name the noun",
    r"one that": "name the noun",
    r"the begin|their begin|its begin": "start",
    r"book": "state, memory",
    r"hands?": "calls",
}
#: Idioms, names on the log and a file's own method stay.
_TRADE = re.compile(
    r"price[ _-]?book|told apart|tells? [a-z ]+ apart|(?:by|on|other) hand|hands?[ _]over"
    r"|name=.told(?: with)?.|aim usd per hour|raw\.tell\(\)",
    re.IGNORECASE,
)
#: Rooms in which a book is the price book.
_WITH_PRICES = {"connectors", "curb", "docs"}

#: How many of each are left, by room; the numbers only fall, to none.
LEFT: dict[str, dict[str, int]] = {
    r"told|tells?": {"connectors": 15},
    r"news": {"connectors": 3},
}


def places() -> Iterator[tuple[str, Path]]:
    """Room and file of everything that people read."""
    for path in files():
        parts = path.relative_to(ROOT).parts
        if parts[0] in FLOORS and path.suffix in {".py", ".html", ".md"}:
            yield parts[0], path
        elif (parts[0] == "docs" and path.suffix in {".py", ".md"}) or (len(parts) == 1 and path.suffix == ".md"):
            yield "docs", path


def words_of(text: str) -> str:
    """Text with names taken apart: `told_why` and `ToldWhy` are `told why`."""
    return _TRADE.sub(" ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", text).lower())


def found(text: str, pattern: str) -> list[str]:
    return re.findall(rf"(?<![\w-])(?:{pattern})(?![\w-])", text)


@pytest.mark.parametrize("pattern", WORDS)
def test_a_word_is_not_used(pattern: str) -> None:
    counted: Counter[str] = Counter()
    where: dict[str, list[str]] = {}
    for room, path in places():
        if pattern == "book" and room in _WITH_PRICES:
            continue
        if count := len(found(words_of(path.read_text(encoding="utf-8")), pattern)):
            counted[room] += count
            where.setdefault(room, []).append(f"{name(path)}: {count}")
    allowed = LEFT.get(pattern, {})
    wrong = [line for room, count in counted.items() if count > allowed.get(room, 0) for line in where[room]]
    assert not wrong, f"write {WORDS[pattern]!r} instead of {pattern!r}:\n" + "\n".join(wrong)


def test_parts_of_names_count() -> None:
    text = words_of("self._told_why = ToldTwice(price_book) # tell nobody, retold")
    assert found(text, r"told|tells?") == ["told", "told", "tell"]
    assert found(text, "book") == []
