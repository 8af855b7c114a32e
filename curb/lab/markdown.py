"""Markdown tables whose cells are data: a tag value cannot add a column, a link or markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~])")


def text(value: str) -> str:
    """A value of a tag or of a person as plain text of a cell."""
    return _MARKUP.sub(r"\\\1", " ".join(value.split()))


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is left-aligned and whose others are right-aligned. Cells are Markdown.

    Dollar signs are escaped: notebooks read what stands between two of them as a formula.
    """
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row).replace("$", r"\$") + " |" for row in rows)])
