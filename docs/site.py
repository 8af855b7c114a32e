"""A hook of MkDocs: what the documentation links to in the tree beside it is named, because a site has only pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.M | re.S)


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
