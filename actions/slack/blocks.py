"""A notice as Slack Block Kit: pure functions. Text from tags is plain or set as code, so it is never markup."""

from __future__ import annotations

from curb.actions.notify import wording
from curb.actions.notify.protocol import DayDigest, Letter, Notice, Reply
from curb.actions.slack.buttons import Buttons
from curb.actions.slack.text import (
    HEADER_MAX,
    TEXT_MAX,
    Block,
    code,
    context,
    fitted,
    link,
    local_time,
    mrkdwn,
    plain,
    section,
)
from curb.stream.money import usd
from curb.stream.records.spend import Alert, LedgerEntry

#: Actions with lines of their own. By hand: Slack takes 50 blocks, and an action has two to four.
_MOST_ACTIONS = 10
#: Lines of a letter, and characters of one. By hand: a screen; the file has all.
_MOST_LINES, _LINE_MAX = 20, 400


def blocks(notice: Notice, buttons: Buttons | None = None) -> list[Block]:
    """Who and how much, why, what Curb did or asks, buttons, ids; the figures are in the thread.

    Without `buttons` nobody can press anything.
    """
    alert = notice.alert
    entries = wording.newest_per_action(notice)[-_MOST_ACTIONS:]
    parts: list[Block | None] = [
        {"type": "header", "text": plain(wording.title(alert), HEADER_MAX)},
        section(_money(alert)),
        _reason(notice),
        _causes(notice),
        _others(notice),
        *(block for entry in entries for block in _step(entry, notice)),
        None if notice.ledger else section("Curb has not changed anything."),
        *(buttons.of(notice) if buttons else []),
        _ids(notice),
    ]
    return [part for part in parts if part is not None]


def fallback_text(notice: Notice) -> str:
    """What notifications and screen readers show."""
    return fitted(wording.title(notice.alert), TEXT_MAX)


def reply_blocks(reply: Reply) -> list[Block]:
    """One line of the thread, with the end of a lease or of the time to answer in the reader's own time zone.

    The figures are a table, and the whole sentence.
    """
    if reply.kind == "figures":
        pairs = wording.figures(reply.alert, reply.notice.telling)
        return [{"type": "section", "fields": [_field(*pair) for pair in pairs]}, section(wording.reply(reply))]
    shown = [section(wording.reply(reply))]
    if reply.entry is not None and (times := _times(reply.entry)):
        shown.append(context(mrkdwn(" · ".join(times))))
    return shown


def reply_text(reply: Reply) -> str:
    """What notifications show of a reply."""
    return fitted(wording.reply(reply), TEXT_MAX)


def digest_blocks(digest: DayDigest) -> list[Block]:
    """The day in lines; as many as Slack takes in one message."""
    listed, done = wording.digest_lines(digest)
    shown: list[Block] = [{"type": "header", "text": plain(wording.digest_title(digest), HEADER_MAX)}]
    for heading, lines in (("Small alerts", listed), ("What Curb did", done)):
        if lines:
            shown.append({"type": "section", "text": mrkdwn(f"*{heading}*")})
            shown += [context(plain(line)) for line in lines]
    return shown


def digest_text(digest: DayDigest) -> str:
    """What notifications show of a digest."""
    return fitted(wording.digest_title(digest), TEXT_MAX)


def letter_blocks(letter: Letter) -> list[Block]:
    """The title and the lines; the file comes into the thread."""
    title: Block = {"type": "header", "text": plain(wording.clean(letter.title, HEADER_MAX), HEADER_MAX)}
    return [title, *(section(wording.clean(line, _LINE_MAX)) for line in letter.lines[:_MOST_LINES])]


def letter_text(letter: Letter) -> str:
    """What notifications show of a letter."""
    return fitted(wording.clean(letter.title, 200), TEXT_MAX)


def _field(label: str, value: str) -> Block:
    return mrkdwn(f"*{label}*\n{code(value, 200)}" if label == "Budget" else f"*{label}*\n{value}")


def _money(alert: Alert) -> str:
    """One line: the burn against the usual one, what is over, and what is at risk."""
    firing = alert.status == "firing"
    over = wording.over(alert, " so far" if firing else " in all") or wording.dollars(alert)
    risk = f"{usd(alert.dollars_at_risk)} at risk until somebody answers" if firing else ""
    return ", ".join(each for each in (wording.instead(alert), over, risk) if each) or "No dollars are known of it"


def _reason(notice: Notice) -> Block | None:
    """Why it counts, which is the first thing to know after the money."""
    reason = wording.reason(notice.alert) or wording.clean(notice.alert.explanation, 400)
    return section(reason) if reason else None


def _causes(notice: Notice) -> Block | None:
    lines = [f"• {code(line)}" for line in wording.causes(notice.alert)]
    return {"type": "section", "text": mrkdwn("*Where it comes from*\n" + "\n".join(lines))} if lines else None


def _others(notice: Notice) -> Block | None:
    lines = [f"• {code(line, 300)}" for line in wording.others(notice)]
    if not lines:
        return None
    more = len(notice.others) - len(lines)
    heading = "*In the same message*" + (f" (and {more} more)" if more > 0 else "")
    return {"type": "section", "text": mrkdwn(heading + "\n" + "\n".join(lines))}


def _step(entry: LedgerEntry, notice: Notice) -> list[Block]:
    words = wording.step(entry)
    if entry.state in ("proposed", "shadow") and (worth := wording.worth(entry, notice.alert_of(entry))):
        words += f". It {worth}."
    if wording.waits(entry) and entry.plan.warning:
        words += f" {wording.clean(entry.plan.warning, 300)}"
    shown: list[Block] = [section(words)]
    parts = _times(entry)
    if wording.in_force(entry):
        parts.append("undo now: " + code(f"curb actions undo {entry.action_id}"))
    return [*shown, context(mrkdwn(" · ".join(parts)))] if parts else shown


def _times(entry: LedgerEntry) -> list[str]:
    if wording.in_force(entry) and entry.lease_expires_at is not None:
        return [f"ends by itself {local_time(entry.lease_expires_at)}"]
    if wording.waits(entry) and entry.answer_by is not None:
        return [f"waits for an answer until {local_time(entry.answer_by)}"]
    return []


def _ids(notice: Notice) -> Block:
    alert = notice.alert
    began = alert.started_at
    since = wording.shown_time(alert, began) if wording.is_by_day(alert) else local_time(began)
    parts = [code(wording.subject(alert), 1000), f"since {since}"]
    if notice.snoozed_until is not None:
        parts.append(f"quiet until {local_time(notice.snoozed_until)}")
    parts += [f"alert {code(alert.alert_id)}", code(alert.channel)]
    if url := wording.link(notice):
        parts.append(link(url, "dashboard"))
    return context(mrkdwn(" · ".join(parts)))
