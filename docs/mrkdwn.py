"""Slack's mrkdwn as styled pieces of text, for pictures of messages."""

from __future__ import annotations

import re
from typing import NamedTuple

_MARKUP = re.compile(
    r"```(?P<pre>.+?)```"
    r"|`(?P<code>[^`\n]+)`"
    r"|<(?P<angle>[^<>\n]+)>"
    r"|(?<![\w:]):(?P<emoji>[a-z0-9_+-]+):"
    r"|(?<![\w*])\*(?P<bold>[^*\n]+)\*(?![\w*])"
    r"|(?<![\w_])_(?P<italic>[^_\n]+)_(?![\w_])"
    r"|(?<![\w~])~(?P<strike>[^~\n]+)~(?![\w~])",
    re.DOTALL,
)

_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _GREY = "#d92d20", "#e8710a", "#d4a300", "#1a8f4c", "#1264a3", "#6b6f76"
#: Emoji by short name or character → a glyph that plain fonts have, and its colour.
_GLYPHS = {
    "rotating_light": ("●", _RED),
    "red_circle": ("●", _RED),
    "large_orange_circle": ("●", _ORANGE),
    "large_yellow_circle": ("●", _YELLOW),
    "large_green_circle": ("●", _GREEN),
    "large_blue_circle": ("●", _BLUE),
    "white_circle": ("○", _GREY),
    "warning": ("▲", _ORANGE),
    "white_check_mark": ("✔", _GREEN),
    "heavy_check_mark": ("✔", _GREEN),
    "x": ("✘", _RED),
    "no_entry": ("⊘", _RED),
    "information_source": ("ℹ", _BLUE),
    "arrows_counterclockwise": ("↺", _BLUE),
    "leftwards_arrow_with_hook": ("↩", _BLUE),
    "hourglass_flowing_sand": ("◔", _GREY),
    "chart_with_upwards_trend": ("↗", _RED),
    "chart_with_downwards_trend": ("↘", _GREEN),
}
_CHARACTERS = {
    "🚨": "rotating_light",
    "🔴": "red_circle",
    "🟠": "large_orange_circle",
    "🟡": "large_yellow_circle",
    "🟢": "large_green_circle",
    "🔵": "large_blue_circle",
    "⚪": "white_circle",
    "⚠️": "warning",
    "✅": "white_check_mark",
    "❌": "x",
    "⛔": "no_entry",
    "📈": "chart_with_upwards_trend",
    "📉": "chart_with_downwards_trend",
}


class Span(NamedTuple):
    """A piece of text in one style; `color` is empty for the usual one."""

    text: str
    bold: bool = False
    italic: bool = False
    strike: bool = False
    code: bool = False
    color: str = ""


def spans(mrkdwn: str) -> list[Span]:
    """The styled pieces of a mrkdwn text, in order; line breaks stay in the text."""
    for character, name in _CHARACTERS.items():
        mrkdwn = mrkdwn.replace(character, f":{name}:")
    return _parse(mrkdwn, Span(""))


def plain_spans(text: str, emoji: bool = True) -> list[Span]:
    """A plain_text: nothing is markup, and short names of emoji only if `emoji`."""
    if not emoji:
        return [Span(_unescape(text))] if text else []
    found: list[Span] = []
    for part in re.split(r"(:[a-z0-9_+-]+:)", text):
        glyph = _GLYPHS.get(part.strip(":")) if part.startswith(":") else None
        found.append(Span(glyph[0], color=glyph[1]) if glyph else Span(_unescape(part)))
    return [span for span in found if span.text]


def _parse(text: str, style: Span) -> list[Span]:
    found: list[Span] = []
    end = 0
    for match in _MARKUP.finditer(text):
        found.append(style._replace(text=_unescape(text[end : match.start()])))
        found.extend(_styled(match, style))
        end = match.end()
    found.append(style._replace(text=_unescape(text[end:])))
    return [span for span in found if span.text]


def _styled(match: re.Match[str], style: Span) -> list[Span]:
    kind = match.lastgroup or ""
    inner = match[kind]
    if kind in ("pre", "code"):
        return [style._replace(text=_unescape(inner.strip("\n")), code=True)]
    if kind == "angle":
        return [_angle(inner, style)]
    if kind == "emoji":
        glyph, color = _GLYPHS.get(inner, (match[0], style.color))
        return [style._replace(text=glyph, color=color)]
    return _parse(
        inner,
        style._replace(
            bold=style.bold or kind == "bold",
            italic=style.italic or kind == "italic",
            strike=style.strike or kind == "strike",
        ),
    )


def _angle(inner: str, style: Span) -> Span:
    """A link, a mention or a date; of a date the fallback, which says the same in words."""
    target, bar, label = inner.partition("|")
    if target.startswith("!date^"):
        return style._replace(text=_unescape(label))
    if target[0] in "@#!":
        sign = "@" if target[0] == "!" else target[0]
        return style._replace(text=sign + _unescape(label or target[1:]), color=_BLUE)
    return style._replace(text=_unescape(label if bar else target), color=_BLUE)


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
