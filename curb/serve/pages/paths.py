"""Which paths of the port are pages, and which of them are for everybody."""

from __future__ import annotations

#: Pages with everything below them.
_PAGES = ("/alerts", "/series", "/actions", "/config", "/exposure", "/models", "/press", "/events")
#: Signing in and out, style, script and icon: nothing in them is anybody's.
_OPEN = frozenset({"/sign-in", "/sign-out", "/page.css", "/page.js", "/page.svg"})


def is_page(path: str) -> bool:
    """Whether a path is one of the dashboard's."""
    return path == "/" or any(path == page or path.startswith(f"{page}/") for page in _PAGES)


def is_open(path: str) -> bool:
    """Whether a path of the dashboard is for everybody."""
    return path in _OPEN
