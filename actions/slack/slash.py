"""`/curb …` in Slack, read strictly: every mistake is answered with what was meant to stand there."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NoReturn
from zoneinfo import ZoneInfo

from curb.actions.slack.buttons import Verb

HELP = """\
/curb status: what fires, what Curb holds, whether it is halted
/curb planned team=NAME until=18:00 max=500 reason words: work that will cost up to so many dollars more
/curb snooze ALERT 4h: no messages about one alert for a time
/curb approve ACTION, /curb deny ACTION: answer what waits
/curb undo ACTION: take back what Curb did
/curb halt reason words, /curb resume: stop all new actions at once, and go on
Times: 30m, 4h, 2d from now; 18:00 today or tomorrow; 2026-03-01T18:00Z."""
#: Seconds of each unit. By definition.
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
#: Seconds of the longest time that may be asked for. By hand: a month, beyond which a configuration is the place.
_LONGEST_S = 31 * 86400.0
#: Characters of a value and a text, and dollars. By hand: typing errors are refused.
_LONGEST_VALUE, _LONGEST_TEXT, _MOST_USD = 256, 500, 1e9


class SlashError(ValueError):
    """What was typed cannot be meant; the text says why and what could be."""


class Slash(NamedTuple):
    """A command as it was meant. `subject` is the id of an alert or an action; `until` epoch seconds."""

    verb: Verb | None
    subject: str = ""
    until: float = 0.0
    tags: tuple[tuple[str, str], ...] = ()
    max_usd: float = 0.0
    text: str = ""


def parse(text: str, *, now: float, time_zone: str = "UTC") -> Slash:
    """What a person typed behind /curb. verb None asks for help. Raises SlashError."""
    words = _unescaped(text).split()
    verb, rest = (words[0].lower(), words[1:]) if words else ("help", [])
    if verb == "help":
        return Slash(None)
    if verb == "status":
        return Slash("status") if not rest else _refuse("status stands alone", "/curb status")
    if verb == "resume":
        return Slash("resume") if not rest else _refuse("resume stands alone", "/curb resume")
    if verb == "halt":
        return Slash("halt", text=_text(rest))
    if verb in ("undo", "approve", "deny"):
        return _about_action(verb, rest)
    if verb == "snooze":
        return _snooze(rest, now, time_zone)
    if verb == "planned":
        return _planned(rest, now, time_zone)
    return _refuse(f"there is no command {verb[:40]!r}", "/curb help lists all")


def _unescaped(text: str) -> str:
    """As it was typed: Slack escapes three characters."""
    return text.replace("\u00a0", " ").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def moment(given: str, *, now: float, time_zone: str = "UTC") -> float:
    """Epoch seconds of 30m, 4h, 2d, 18:00 or a time with a zone. Raises SlashError."""
    if span := re.fullmatch(r"\+?(\d{1,5})([mhd])", given):
        at = now + int(span[1]) * _UNITS[span[2]]
    elif clock := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", given):
        at = _next(int(clock[1]), int(clock[2]), now, time_zone)
    else:
        try:
            parsed = datetime.fromisoformat(given)
        except ValueError:
            return _refuse(f"{given[:40]!r} is no time", "30m, 4h, 2d, 18:00 or 2026-03-01T18:00Z")
        if parsed.tzinfo is None:
            return _refuse(f"{given[:40]!r} has no time zone", f"{given[:40]}Z for UTC")
        at = parsed.timestamp()
    if at <= now:
        return _refuse(f"{given[:40]!r} is over already", "a time to come")
    if at > now + _LONGEST_S:
        return _refuse(f"{given[:40]!r} is more than 31 days away", "something shorter, and announce it again then")
    return at


def _next(hour: int, minute: int, now: float, time_zone: str) -> float:
    """The next time the clock shows this."""
    local = datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(time_zone))
    at = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return at.timestamp() if at.timestamp() > now else (at + timedelta(days=1)).timestamp()


def _about_action(verb: str, rest: list[str]) -> Slash:
    meant: Verb = "undo" if verb == "undo" else "approve" if verb == "approve" else "deny"
    if len(rest) != 1 or not _ID.fullmatch(rest[0]):
        return _refuse(f"{verb} takes one id of an action", f"/curb {verb} 0123456789abcdef, from the message")
    return Slash(meant, subject=rest[0])


def _snooze(rest: list[str], now: float, time_zone: str) -> Slash:
    if len(rest) != 2 or not _ID.fullmatch(rest[0]):
        return _refuse("snooze takes the id of an alert and a time", "/curb snooze 890658b7470d36f8-1786627830 4h")
    return Slash("snooze", subject=rest[0], until=moment(rest[1], now=now, time_zone=time_zone))


def _planned(rest: list[str], now: float, time_zone: str) -> Slash:
    example = "/curb planned team=search until=18:00 max=500 reindexing"
    given: dict[str, str] = {}
    words = list(rest)
    while words and "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        if not _TAG.fullmatch(name) or not value or len(value) > _LONGEST_VALUE:
            return _refuse(f"{name[:40]}= needs a name and a value", example)
        if name in given:
            return _refuse(f"{name}= is given twice", example)
        given[name] = value
    until, most = given.pop("until", ""), given.pop("max", "")
    for name, value in (("until", until), ("max", most)):
        if not value:
            return _refuse(f"{name}= is missing", example)
    if not given:
        return _refuse("no tag says whose spend it is", example)
    at = moment(until, now=now, time_zone=time_zone)
    return Slash("planned", until=at, tags=tuple(given.items()), max_usd=dollars(most), text=_text(words))


def dollars(given: str) -> float:
    """An amount such as 500, 1,500.50 or $20. Raises SlashError."""
    try:
        amount = float(given.strip().removeprefix("$").replace(",", ""))
    except ValueError:
        return _refuse(f"{given[:40]!r} is no amount", "dollars such as 500")
    if not (math.isfinite(amount) and 0 < amount <= _MOST_USD):
        return _refuse(f"{given[:40]!r} is no amount that can be meant", "dollars such as 500")
    return amount


def _text(words: list[str]) -> str:
    return " ".join(words)[:_LONGEST_TEXT]


def _refuse(what: str, instead: str) -> NoReturn:
    raise SlashError(f"{what}. Try: {instead}")
