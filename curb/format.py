"""Tags as text: never markup, and no control characters."""

from __future__ import annotations

from rich.text import Text


def printable(text: str) -> str:
    """Text with its control characters made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def tags_text(tags: dict[str, str]) -> Text:
    """Tags as `key=value`, control characters made visible."""
    return Text(printable(" ".join(f"{key}={value}" for key, value in tags.items())))
