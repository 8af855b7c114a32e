"""A notice as Slack Block Kit: a pure function. Text from tags is escaped and set as code, so it is never markup."""

from __future__ import annotations

from typing import Any

from actions import wording
from actions.notifier import Notice
from stream.records import LedgerEntry

Block = dict[str, Any]
#: Slack's own limits, in characters.
_HEADER_MAX = 150
_SECTION_MAX = 3000
_TEXT_MAX = 3000


def blocks(notice: Notice) -> list[Block]:
    """Header, money, cause, what Curb did, ids."""
    alert = notice.alert
    parts: list[Block | None] = [
        {"type": "header", "text": _plain(wording.title(alert), _HEADER_MAX)},
        {"type": "section", "fields": [_field(label, value) for label, value in wording.figures(alert)]},
        _reason(notice),
        _causes(notice),
        _explanation(notice),
        *(block for entry in wording.newest_per_action(notice)[-10:] for block in _step(entry)),
        None if notice.ledger else {"type": "section", "text": _plain("Curb has not changed anything.", _SECTION_MAX)},
        _ids(notice),
    ]
    return [part for part in parts if part is not None]


def fallback_text(notice: Notice) -> str:
    """What notifications and screen readers show."""
    return _fitted(wording.title(notice.alert), _TEXT_MAX)


def escape(text: str) -> str:
    """The three characters that begin Slack's own syntax, such as <!channel> and <https://…|label>."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str, longest: int = 450) -> str:
    """`text` in which nothing is interpreted: neither markup nor an end of the code itself."""
    return "`" + _fitted(text.replace("`", "'"), longest) + "`"


def _fitted(text: str, longest: int) -> str:
    """`text` escaped, and cut so that it is then at most `longest` characters and ends in no half of an escape."""
    short = text[:longest]
    while len(escape(short)) > longest:
        short = short[:-2] + "…"
    return escape(short)


def local_time(at: float) -> str:
    """A moment in the reader's own time zone, with UTC where Slack cannot tell."""
    return f"<!date^{int(at)}^{{date_short_pretty}} {{time}}|{wording.utc(at)}>"


def _plain(text: str, longest: int) -> Block:
    return {"type": "plain_text", "text": _fitted(text, longest), "emoji": False}


def _mrkdwn(text: str) -> Block:
    return {"type": "mrkdwn", "text": text[:_SECTION_MAX], "verbatim": True}


def _field(label: str, value: str) -> Block:
    return _mrkdwn(f"*{label}*\n{escape(value)}")


def _reason(notice: Notice) -> Block | None:
    """Why it counts, which is the first thing to know after the money."""
    reason = wording.reason(notice.alert)
    return {"type": "section", "text": _plain(f"Why: {reason}", _SECTION_MAX)} if reason else None


def _causes(notice: Notice) -> Block | None:
    lines = [f"• {code(line)}" for line in wording.causes(notice.alert)]
    return {"type": "section", "text": _mrkdwn("*Where it comes from*\n" + "\n".join(lines))} if lines else None


def _explanation(notice: Notice) -> Block | None:
    """The whole sentence; small where what matters of it is above it."""
    explanation = wording.clean(notice.alert.explanation, 800)
    if not explanation:
        return None
    text = _plain(explanation, _SECTION_MAX)
    return {"type": "context", "elements": [text]} if notice.alert.reason else {"type": "section", "text": text}


def _step(entry: LedgerEntry) -> list[Block]:
    shown: list[Block] = [{"type": "section", "text": _plain(wording.step(entry), _SECTION_MAX)}]
    if wording.in_force(entry):
        parts = ["undo now: " + code(f"curb actions undo {entry.action_id}")]
        if entry.lease_expires_at is not None:
            parts.insert(0, f"ends by itself {local_time(entry.lease_expires_at)}")
        shown.append({"type": "context", "elements": [_mrkdwn(" · ".join(parts))]})
    return shown


def _ids(notice: Notice) -> Block:
    alert = notice.alert
    subject = code(wording.subject(alert), 1000)
    since = f"since {local_time(alert.started_at)}"
    parts = [subject, since, f"alert {code(alert.alert_id)}", code(alert.channel)]
    return {"type": "context", "elements": [_mrkdwn(" · ".join(parts))]}
