"""Tags as text, never markup and without control characters; and what several commands say in the same words."""

from __future__ import annotations

from rich.text import Text

#: Below a table whose forecasts are "–".
TOO_LITTLE_NOTE = "–: too little history for a forecast, which needs one whole day of spend"


def printable(text: str) -> str:
    """Text with its control characters made visible."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def tags_text(tags: dict[str, str]) -> Text:
    """Tags as `key=value`, control characters made visible."""
    return Text(printable(" ".join(f"{key}={value}" for key, value in tags.items())))
