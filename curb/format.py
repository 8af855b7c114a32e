"""Tags as text: never markup, and no control characters."""

from __future__ import annotations

from rich.text import Text


def tags_text(tags: dict[str, str]) -> Text:
    """Tags as `key=value`, control characters made visible."""
    shown = " ".join(f"{key}={value}" for key, value in tags.items())
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown))
