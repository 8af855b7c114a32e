"""Hooks of MkDocs: the navigation follows docs/README.md, and what lies beside docs/ is named instead of linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.M | re.S)


#: Pages and folders by the name of their tab. A page that docs/README.md links to comes in its order, others after it.
_TABS = {
    "Start": ("README.md", "quickstart.md", "howto/first-hour.md", "explain/compare.md", "faq.md"),
    "How to": ("howto/",),
    "Understand": ("explain/", "design/README.md", "design/"),
    "Look up": ("reference/",),
    "Runbooks": ("",),
}


def on_config(config: Any) -> Any:
    """The navigation: every page has a place, also a new one."""
    linked = _LINK.findall((DOCS / "README.md").read_text(encoding="utf-8"))
    every = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    pages = dict.fromkeys(page for page in [*(link[1] for link in linked), *every] if page in every)
    pages = {page: None for page in pages if not page.startswith("templates/")}
    config.nav = []
    for tab, places in _TABS.items():
        mine = [page for place in places for page in pages if _is_at(page, place)]
        config.nav.append({tab: list(dict.fromkeys(mine))})
        for page in mine:
            pages.pop(page, None)
    return config


def _is_at(page: str, place: str) -> bool:
    return page == place or (place.endswith("/") and page.startswith(place)) or place == ""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links out of docs/ as the path they lead to."""
    folder = (DOCS / page.file.src_uri).parent
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_named(markdown[end : fence.start()], folder), fence[0]]
        end = fence.end()
    return "".join([*parts, _named(markdown[end:], folder)])


def _named(text: str, folder: Path) -> str:
    def name(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(DOCS) and target.suffix:
            return link[0]
        path = target.relative_to(DOCS.parent) if target.is_relative_to(DOCS.parent) else Path(link[2])
        return f"{link[1]} (`{path}`)"

    return _LINK.sub(name, text)
