"""Links between pages and into the tree lead somewhere, and every page can be reached."""

from __future__ import annotations

import re

from tests.house.tree import ROOT, markdown_files, name

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`", re.M | re.S)


def links(path_text: str) -> list[str]:
    return [link for link in LINK.findall(CODE.sub("", path_text)) if not re.match(r"[a-z]+:|#", link)]


def test_links_between_pages_lead_somewhere() -> None:
    wrong = [
        f"{name(path)}: {link}"
        for path in markdown_files()
        for link in links(path.read_text(encoding="utf-8"))
        if not (path.parent / link.split("#")[0]).exists()
    ]
    assert not wrong, "broken links:\n" + "\n".join(wrong)


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (path.parent / link.split("#")[0]).resolve()
        for path in markdown_files()
        for link in links(path.read_text(encoding="utf-8"))
    }
    pages = [path for path in markdown_files() if path.is_relative_to(ROOT / "docs")]
    wrong = [name(path) for path in pages if path not in linked and path != ROOT / "docs" / "README.md"]
    assert not wrong, "no page links to:\n" + "\n".join(wrong)
