"""Links between pages and into the tree lead somewhere, and every page can be reached."""

from __future__ import annotations

import re

from tests.house.tree import ROOT, markdown_files, name

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```|`[^`\n]*`", re.M | re.S)

FENCE = re.compile(r"^( *)```.*?^\1```", re.M | re.S)
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.M)


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


def anchors(text: str) -> set[str]:
    """Where links into a page may lead, as GitHub and the site name its headings."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        same = sum(each == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", each) is not None for each in found)
        found.add(f"{slug}-{same}" if same else slug)
    return found


def test_links_into_a_page_lead_to_a_heading() -> None:
    wrong = []
    for path in markdown_files():
        for link in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
            file, _, anchor = link.partition("#")
            to = path.parent / file if file else path
            if ":" in file or not anchor or to.suffix != ".md" or not to.exists():
                continue
            if anchor not in anchors(to.read_text(encoding="utf-8")):
                wrong.append(f"{name(path)}: {link}")
    assert not wrong, "no such heading:\n" + "\n".join(wrong)


def test_a_heading_is_where_links_lead() -> None:
    text = "# `curb x`: a B\n```\n# none\n```\n## [One](a.md) & two\n## Again\n## Again\n"
    assert anchors(text) == {"curb-x-a-b", "one--two", "again", "again-1"}


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (path.parent / link.split("#")[0]).resolve()
        for path in markdown_files()
        for link in links(path.read_text(encoding="utf-8"))
    }
    pages = [path for path in markdown_files() if path.is_relative_to(ROOT / "docs")]
    wrong = [name(path) for path in pages if path not in linked and path != ROOT / "docs" / "README.md"]
    assert not wrong, "no page links to:\n" + "\n".join(wrong)
