"""Draws the house, docs/images/house.svg, from the rooms and packages as they are: called by docs/generate.py."""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (("curb",), ("connectors", "detector", "actions"), ("stream",))
#: Packages of `curb` that are a room of their own, through a link.
ROOMS = {room for floor in FLOORS for room in floor}
#: Room → its seams: what an author of a new kind writes, and how many are there.
SEAMS = {
    "connectors": ("Connector", "read a source forward"),
    "detector": ("Rule, Scorer", "judge a closed bucket"),
    "actions": ("Action, Notifier", "plan, apply, verify, undo; send"),
}
TOPICS = {
    "connectors": "curb.usage, curb.gpu, curb.costs",
    "detector": "curb.spend, curb.alerts",
    "actions": "curb.actions",
}

_WIDTH, _MARGIN, _GAP, _ROW, _HEAD, _SEAM = 1320, 20, 20, 21, 56, 52
_INK, _GREY, _ARROW = "#1d2329", "#4a5560", "#4a5560"
_FILL = {0: ("#f5f5f2", "#7a7a7a"), 1: ("#e4f4ef", "#0b5d4e"), 2: ("#e8f2fa", "#0072b2")}


def picture() -> str:
    """The SVG."""
    shapes: list[str] = []
    y = float(_MARGIN)
    for number, floor in enumerate(FLOORS):
        width = (_WIDTH - 2 * _MARGIN - (len(floor) - 1) * _GAP) / len(floor)
        columns = 3 if len(floor) == 1 else 1
        height = max(_height(room, columns) for room in floor)
        for index, room in enumerate(floor):
            x = _MARGIN + index * (width + _GAP)
            shapes += _room(room, number, (x, y, width, height), columns)
        y += height
        if number < len(FLOORS) - 1:
            shapes += [_arrow(_MARGIN + (i + 0.5) * (_WIDTH - 2 * _MARGIN) / 3, y, y + 34) for i in range(3)]
            shapes.append(_text(_WIDTH - _MARGIN, y + 22, "imports", 12.5, _GREY, anchor="end"))
            y += 38
    label = "The rooms of Curb with their packages and seams: curb on connectors, detector and actions, these on stream"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + _MARGIN:g}" '
        f'font-family="Helvetica, Arial, sans-serif" role="img" aria-label="{label}">'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{_ARROW}"/></marker></defs>'
    )
    return (
        "\n".join([head, tip, f'<rect width="{_WIDTH}" height="{y + _MARGIN:g}" fill="#ffffff"/>', *shapes, "</svg>"])
        + "\n"
    )


def packages(room: str) -> list[tuple[str, str]]:
    """Name and first sentence of each package of a room."""
    found = []
    for init in sorted((ROOT / room).glob("*/__init__.py")):
        if room != "curb" or init.parent.name not in ROOMS:
            found.append((init.parent.name, _sentence(init)))
    return found


def _sentence(init: Path) -> str:
    return (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or "").split("\n")[0]


def _height(room: str, columns: int) -> float:
    rows = -(-len(packages(room)) // columns)
    return _HEAD + rows * _ROW + (_SEAM if room in SEAMS else 0) + 10


def _room(room: str, floor: int, box: tuple[float, float, float, float], columns: int) -> list[str]:
    x, y, width, height = box
    fill, line = _FILL[floor]
    shapes = [_box(box, fill, line)]
    shapes.append(_text(x + 14, y + 24, f"{room}/", 17, _INK, bold=True))
    shapes.append(_text(x + 14, y + 43, _sentence(ROOT / room / "__init__.py"), 12.5, _GREY))
    found = packages(room)
    rows = -(-len(found) // columns)
    for index, (name, sentence) in enumerate(found):
        left = x + 14 + (index // rows) * width / columns
        line_y = y + _HEAD + 14 + (index % rows) * _ROW
        shapes.append(_text(left, line_y, name, 13, _INK, bold=True))
        shapes.append(_text(left + 78, line_y, sentence, 11.5, _GREY))
    if room in SEAMS:
        seam, promise = SEAMS[room]
        shapes.append(_box((x + 10, y + height - _SEAM, width - 20, _SEAM - 10), "#ffffff", line, dashed=True))
        shapes.append(_text(x + 22, y + height - _SEAM + 17, f"seam: {seam}", 13, _INK, bold=True))
        shapes.append(_text(x + 22, y + height - _SEAM + 34, f"{promise}; writes {TOPICS[room]}", 11.5, _GREY))
    return shapes


def _box(box: tuple[float, float, float, float], fill: str, line: str, *, dashed: bool = False) -> str:
    x, y, width, height = box
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
        f'fill="{fill}" stroke="{line}" stroke-width="1.6"{dash}/>'
    )


def _text(x: float, y: float, words: str, size: float, color: str, *, bold: bool = False, anchor: str = "start") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def _arrow(x: float, top: float, bottom: float) -> str:
    return f'<path d="M{x:g} {top:g}V{bottom:g}" stroke="{_ARROW}" stroke-width="1.6" marker-end="url(#tip)"/>'
