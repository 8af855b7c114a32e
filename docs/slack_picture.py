"""Draws a Slack message as PNG from the JSON that is sent: `python docs/slack_picture.py MESSAGE.json PICTURE.png`.

The README's picture is made of the demo's: `curb demo`, then
`python docs/slack_picture.py demo-out/slack.json docs/images/demo-slack.png`.
"""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docs.mrkdwn import Span, plain_spans, spans

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

_SCALE = 2
_WIDTH, _MARGIN, _AVATAR, _GAP = 720, 20, 38, 10
_BLOCK_GAP, _FIELD_GAP = 9, 16
_INK, _GREY, _LINE, _CODE_INK, _CODE_FILL = "#1d1c1d", "#616061", "#dddddd", "#c01343", "#f6f6f6"
_BUTTON_FILL = {"primary": "#007a5a", "danger": "#c01343"}
_BRAND = "#0b5d4e"

_Draw = Callable[["ImageDraw"], None]


class _Text(NamedTuple):
    """How a run of text is set: size and line height in points of the picture, colour and weight."""

    size: float
    line: float
    color: str = _INK
    bold: bool = False


_BODY = _Text(15, 22)
_SMALL = _Text(12.5, 18, _GREY)
_HEADER = _Text(18, 26, _INK, bold=True)


def render(message: Mapping[str, Any]) -> bytes:
    """The PNG of a chat.postMessage body: its `blocks` and `attachments`, or its `text` when it has neither."""
    page = _Page()
    _message(page, message, {})
    return page.png()


def render_thread(
    message: Mapping[str, Any], replies: Sequence[Mapping[str, Any]], files: Mapping[str, bytes] | None = None
) -> bytes:
    """The PNG of a message with its thread below it. `files` are the pictures that replies show, PNG by file id."""
    page = _Page()
    _message(page, message, {})
    if replies:
        count = f"{len(replies)} {'reply' if len(replies) == 1 else 'replies'}"
        width = page.line(count, _Text(12.5, 0, _GREY), page.left, page.y + 8)
        page.box((page.left + width + 10, page.y + 8, page.left + page.width, page.y + 9), fill=_LINE)
        page.y += 26
    for reply in replies:
        page.top = page.y
        if reply.get("reply_broadcast"):
            page.line("also sent to the channel", _Text(12, 0, _GREY), page.left, page.y + 6)
            page.top = page.y = page.y + 18
        _message(page, reply, files or {})
        page.y += 6
    return page.png()


def _message(page: _Page, message: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    _title(page, message)
    blocks = message.get("blocks") or []
    _blocks(page, blocks)
    for attachment in message.get("attachments") or []:
        top = page.y
        page.left += 14
        _blocks(page, attachment.get("blocks") or [])
        page.left -= 14
        page.box((page.left, top, page.left + 4, page.y - 4), fill=_color(attachment.get("color")), radius=2)
    if not blocks and not message.get("attachments") and message.get("text"):
        page.text(spans(str(message["text"])), _BODY, page.left, page.width)
    for file in message.get("files") or []:
        page.text([Span(str(file.get("title") or file.get("name") or "file"))], _SMALL, page.left, page.width)
        if (picture := files.get(str(file.get("id")))) is not None:
            page.picture(picture)


def _title(page: _Page, message: Mapping[str, Any]) -> None:
    """Avatar, name, the badge of an app and the time."""
    top, middle = page.top, page.top + _AVATAR / 2
    page.box((_MARGIN, top, _MARGIN + _AVATAR, top + _AVATAR), fill=_BRAND, radius=8)
    page.line("C", _Text(22, 0, "#ffffff", bold=True), _MARGIN + _AVATAR / 2, middle, anchor="mm")
    name = str(message.get("username") or "Curb")
    middle = page.y + 9
    x = page.left + page.line(name, _Text(15, 22, bold=True), page.left, middle) + 6
    page.box((x, middle - 7, x + 29, middle + 7), fill="#e8e8e8", radius=3)
    page.line("APP", _Text(9.5, 0, _GREY, bold=True), x + 14.5, middle, anchor="mm")
    if sent_at := _time(message.get("ts")):
        page.line(sent_at, _Text(12, 0, _GREY), x + 37, middle + 1)
    page.y += 24


def _blocks(page: _Page, blocks: Iterable[Mapping[str, Any]]) -> None:
    for block in blocks:
        draw = _BLOCKS.get(str(block.get("type")))
        if draw:
            draw(page, block)
            page.y += _BLOCK_GAP


def _header(page: _Page, block: Mapping[str, Any]) -> None:
    page.text(_spans(block.get("text")), _HEADER, page.left, page.width)


def _section(page: _Page, block: Mapping[str, Any]) -> None:
    if block.get("text"):
        page.text(_spans(block["text"]), _BODY, page.left, page.width)
    fields = block.get("fields") or []
    if block.get("text") and fields:
        page.y += _BLOCK_GAP
    column = (page.width - _FIELD_GAP) / 2
    for i in range(0, len(fields), 2):
        top = bottom = page.y
        for side, field in enumerate(fields[i : i + 2]):
            page.y = top
            page.text(_spans(field), _BODY, page.left + side * (column + _FIELD_GAP), column)
            bottom = max(bottom, page.y)
        page.y = bottom + (6 if i + 2 < len(fields) else 0)


def _context(page: _Page, block: Mapping[str, Any]) -> None:
    together: list[Span] = []
    for element in block.get("elements") or []:
        if together:
            together.append(Span("   "))
        together += [Span(str(element.get("alt_text", "")))] if element.get("type") == "image" else _spans(element)
    page.text(together, _SMALL, page.left, page.width)


def _divider(page: _Page, block: Mapping[str, Any]) -> None:
    page.box((page.left, page.y + 3, page.left + page.width, page.y + 4), fill=_LINE)
    page.y += 8


def _actions(page: _Page, block: Mapping[str, Any]) -> None:
    x = page.left
    height, padding = 32, 13
    for element in block.get("elements") or []:
        label = "".join(span.text for span in _spans(element.get("text")))
        fill = _BUTTON_FILL.get(str(element.get("style")), "")
        text = _Text(13.5, 0, "#ffffff" if fill else _INK, bold=True)
        width = page.measure(label, page.font(text)) + 2 * padding
        if x > page.left and x + width > page.left + page.width:
            x, page.y = page.left, page.y + height + 8
        page.box((x, page.y, x + width, page.y + height), fill=fill or "#ffffff", outline=fill or "#bbbbbb", radius=5)
        page.line(label, text, x + width / 2, page.y + height / 2, anchor="mm")
        x += width + 8
    page.y += height


def _image(page: _Page, block: Mapping[str, Any]) -> None:
    """Pictures are not fetched; their place and what they show are."""
    height = 120
    page.box((page.left, page.y, page.left + page.width, page.y + height), fill="#f8f8f8", outline=_LINE, radius=8)
    words = str(block.get("alt_text") or "picture")
    page.line(words, _Text(13, 0, _GREY), page.left + page.width / 2, page.y + height / 2, anchor="mm")
    page.y += height


_BLOCKS: dict[str, Callable[[_Page, Mapping[str, Any]], None]] = {
    "header": _header,
    "section": _section,
    "context": _context,
    "divider": _divider,
    "actions": _actions,
    "image": _image,
}


def _spans(text: Any) -> list[Span]:
    if not isinstance(text, Mapping):
        return []
    content = str(text.get("text", ""))
    if text.get("type") == "mrkdwn":
        return spans(content)
    return plain_spans(content, emoji=text.get("emoji") is not False)


def _time(ts: Any) -> str:
    try:
        return datetime.fromtimestamp(float(ts), UTC).strftime("%H:%M")
    except (TypeError, ValueError, OverflowError):
        return ""


def _color(given: Any) -> str:
    named = {"good": "#2eb886", "warning": "#daa038", "danger": "#a30200"}
    color = named.get(str(given), str(given))
    return color if re.fullmatch(r"#[0-9a-fA-F]{6}", color) else _LINE


class _Page:
    """Draws from the top down; what is drawn is kept until the height is known."""

    def __init__(self) -> None:
        import matplotlib
        from PIL import ImageFont

        self._truetype = ImageFont.truetype
        self._directory = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self._fonts: dict[tuple[str, float], FreeTypeFont] = {}
        self._drawn: list[_Draw] = []
        self._pasted: list[tuple[Image, tuple[int, int]]] = []
        self.y: float = _MARGIN
        #: Where the message that is drawn begins.
        self.top: float = _MARGIN
        self.left: float = _MARGIN + _AVATAR + _GAP

    @property
    def width(self) -> float:
        return _WIDTH - _MARGIN - self.left

    def font(self, text: _Text, span: Span | None = None) -> FreeTypeFont:
        span = span or Span("")
        family = "DejaVuSansMono" if span.code else "DejaVuSans"
        style = ("Bold" if text.bold or span.bold else "") + ("Oblique" if span.italic else "")
        name = f"{family}-{style}.ttf" if style else f"{family}.ttf"
        # DejaVu runs large: smaller than Slack's own face by this much, it sets the same number of words a line.
        size = text.size * (0.84 if span.code else 0.9) * _SCALE
        if (name, size) not in self._fonts:
            self._fonts[name, size] = self._truetype(self._directory / name, size)
        return self._fonts[name, size]

    def measure(self, words: str, font: FreeTypeFont) -> float:
        return float(font.getlength(words)) / _SCALE

    def box(
        self, corners: tuple[float, float, float, float], *, fill: str, outline: str | None = None, radius: float = 0
    ) -> None:
        scaled = tuple(value * _SCALE for value in corners)
        self._drawn.append(
            lambda draw: draw.rounded_rectangle(scaled, radius * _SCALE, fill=fill, outline=outline, width=_SCALE)
        )

    def line(self, words: str, text: _Text, x: float, y: float, anchor: str = "lm", span: Span | None = None) -> float:
        """One line of words at its vertical middle; returns its width."""
        font = self.font(text, span)
        color = (span.color if span else "") or text.color
        if span and span.code:
            color = _CODE_INK
        self._drawn.append(
            lambda draw: draw.text((x * _SCALE, y * _SCALE), words, font=font, fill=color, anchor=anchor)
        )
        return self.measure(words, font)

    def text(self, pieces: Iterable[Span], text: _Text, left: float, width: float) -> None:
        """Flowing text from `left`, at most `width` wide; moves down by the lines it took."""
        x = left
        written = False
        for span, word in self._fitting(_words(pieces), text, width):
            if word == "\n":
                x, self.y, written = left, self.y + text.line, False
                continue
            needed = self.measure(word, self.font(text, span))
            if x > left and x + self.measure(word.rstrip(), self.font(text, span)) > left + width:
                x, self.y = left, self.y + text.line
            if x == left and written and not word.strip():
                continue
            self._word(word, span, text, x)
            x, written = x + needed, True
        self.y += text.line

    def _fitting(self, words: Iterable[tuple[Span, str]], text: _Text, width: float) -> Iterator[tuple[Span, str]]:
        """The same words; a word that no line can hold, such as a hash, comes in parts."""
        for span, word in words:
            font, rest = self.font(text, span), word
            while self.measure(rest.rstrip(), font) > width:
                most = max(1, int(len(rest) * width / self.measure(rest, font)))
                while most > 1 and self.measure(rest[:most], font) > width:
                    most -= 1
                yield span, rest[:most]
                rest = rest[most:]
            yield span, rest

    def _word(self, word: str, span: Span, text: _Text, x: float) -> None:
        middle = self.y + text.line / 2
        width = self.measure(word, self.font(text, span))
        if span.code:
            self.box((x - 1, middle - text.size * 0.68, x + width + 1, middle + text.size * 0.68), fill=_CODE_FILL)
        self.line(word, text, x, middle, span=span)
        if span.strike:
            self.box((x, middle, x + width, middle + 1), fill=span.color or text.color)

    def picture(self, png: bytes) -> None:
        """A picture as wide as the text, with a frame."""
        import PIL.Image

        image = PIL.Image.open(io.BytesIO(png)).convert("RGB")
        width = round(self.width * _SCALE)
        image = image.resize((width, round(image.height * width / image.width)), PIL.Image.Resampling.LANCZOS)
        x, y = round(self.left * _SCALE), round((self.y + 4) * _SCALE)
        self._pasted.append((image, (x, y)))
        self.y += 4 + image.height / _SCALE + _BLOCK_GAP

    def png(self) -> bytes:
        import PIL.Image
        from PIL import ImageDraw

        height = round((self.y + _MARGIN - _BLOCK_GAP / 2) * _SCALE)
        image = PIL.Image.new("RGB", (_WIDTH * _SCALE, height), "#ffffff")
        canvas = ImageDraw.Draw(image)
        for draw in self._drawn:
            draw(canvas)
        for pasted, at in self._pasted:
            image.paste(pasted, at)
        out = io.BytesIO()
        image.save(out, format="PNG", optimize=True)
        return out.getvalue()


def _words(pieces: Iterable[Span]) -> Iterator[tuple[Span, str]]:
    """Words with the blanks behind them, and line breaks, each with its style."""
    for span in pieces:
        for word in re.findall(r"\n|[^\s]+[^\S\n]*|[^\S\n]+", span.text):
            yield span, word


if __name__ == "__main__":
    _message_file, _picture_file = map(Path, sys.argv[1:])
    _picture_file.write_bytes(render(json.loads(_message_file.read_text(encoding="utf-8"))))
