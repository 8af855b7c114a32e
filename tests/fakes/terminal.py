"""A terminal that keeps what was printed."""

from __future__ import annotations

import io

from rich.console import Console as Terminal

KIND = "console"


def terminal() -> tuple[Terminal, io.StringIO]:
    """A narrow colour terminal and what it shows."""
    out = io.StringIO()
    return Terminal(file=out, width=40, force_terminal=True), out
