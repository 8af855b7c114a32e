"""The colours of the pages can be read in both schemes: WCAG AA asks for a contrast of 4.5 for text."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = (files("curb.serve.pages") / "static" / "page.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,8});", block)) for block in STYLE.split(":root {")[1:3])
ON_PAPER = ("ink", "quiet", "accent", "over", "warn", "good", "danger", "button")
PAIRS = [(name, "paper") for name in ON_PAPER] + [(name, "soft") for name in ("ink", "quiet", "over", "good")]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), [*PAIRS, ("on-button", "button"), ("paper", "ink")])
def test_text_stands_out(scheme: dict[str, str], text: str, ground: str) -> None:
    low, high = sorted((luminance(scheme[text]), luminance(scheme[ground])))
    assert (high + 0.05) / (low + 0.05) >= 4.5
