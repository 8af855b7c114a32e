"""The documentation shows the very files that the tests run a real gateway on."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("envoy", "envoy/envoy.yaml"),
        ("envoy", "envoy/envoy-routes.yaml"),
        ("haproxy", "haproxy/haproxy.cfg"),
        ("haproxy", "haproxy/limits.map"),
    ],
)
def test_the_page_shows_the_file(page: str, file: str) -> None:
    text = (ROOT / "docs" / "reference" / "actions" / f"{page}.md").read_text(encoding="utf-8")
    shown = (ROOT / "deploy" / file).read_text(encoding="utf-8")
    assert f"\n{shown}```" in text, f"docs/reference/actions/{page}.md shows another deploy/{file}"
