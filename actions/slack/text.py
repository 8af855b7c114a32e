"""Text for Slack in which nothing that came from outside is interpreted: no mention, no link, no formatting."""

from __future__ import annotations

from typing import Any

from curb.stream.time import utc

Block = dict[str, Any]
#: Characters of a header, a section and a text. By definition of Slack.
HEADER_MAX, SECTION_MAX, TEXT_MAX = 150, 3000, 3000


def escape(text: str) -> str:
    """The three characters that start Slack's own syntax, such as <!channel> and <https://…|label>."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str, longest: int = 450) -> str:
    """`text` in which nothing is interpreted: neither markup nor an end of the code itself."""
    return "`" + fitted(text.replace("`", "'").replace("\n", " ") or " ", longest) + "`"


def fitted(text: str, longest: int) -> str:
    """`text` escaped, and cut so that it is then at most `longest` characters and ends in no half of an escape."""
    short = text[:longest]
    while len(escape(short)) > longest:
        short = short[:-2] + "…"
    return escape(short)


def local_time(at: float) -> str:
    """A moment in the reader's own time zone, with UTC where Slack does not know it."""
    return f"<!date^{int(at)}^{{date_short_pretty}} {{time}}|{utc(at)}>"


def link(url: str, label: str) -> str:
    """A link to an address of ours. `label` is ours as well."""
    return f"<{escape(url)}|{label}>"


def plain(text: str, longest: int = SECTION_MAX) -> Block:
    """A text object that Slack shows as it is."""
    return {"type": "plain_text", "text": fitted(text, longest), "emoji": False}


def mrkdwn(text: str) -> Block:
    """A text object of our own markup; what came from outside must be `code` in it."""
    return {"type": "mrkdwn", "text": text[:SECTION_MAX], "verbatim": True}


def section(text: str) -> Block:
    """A paragraph that Slack shows as it is."""
    return {"type": "section", "text": plain(text)}


def context(*texts: Block) -> Block:
    """Small print."""
    return {"type": "context", "elements": list(texts)}
