"""What an alert says in plain sentences: who, how much, since when, what, where, and what waiting costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from curb.detector.state import wording as explain
from curb.stream.money import usd
from curb.stream.records.spend import UNTAGGED, Cause
from curb.stream.time import moment

_WHOLE = 0.995
#: Characters of a name that are shown; names of models are long.
_SHOWN = 40
#: A burn within this of the expected one costs nothing to wait for.
_NOTHING_USD_PER_HOUR = 0.005


class Summary(NamedTuple):
    """The figures and words of an incident."""

    scope: str
    tags: Mapping[str, str]
    usd_per_hour: float
    expected_usd_per_hour: float
    #: Epoch seconds.
    started_at: float
    now: float
    excess_usd: float
    #: What was seen and why it counts, a clause.
    reason: str
    causes: Sequence[Cause]
    #: With what comes until somebody answers.
    dollars_at_risk: float
    confidence: float
    #: People's knowledge of it, whole sentences.
    known: str = ""
    #: It is about a bill, whose time is counted in days.
    by_day: bool = False


def incident(about: Summary, zone: ZoneInfo) -> str:
    """One paragraph; clock times are of `zone`."""
    who = explain.subject(about.scope, about.tags)
    over = f"{usd(about.excess_usd)} over" if about.excess_usd > 0 else "not over so far"
    lasting_s = about.now - about.started_at
    if about.by_day:
        began, lasts = moment(about.started_at, zone).strftime("%Y-%m-%d"), explain.days(lasting_s)
    else:
        began, lasts = since(about.started_at, about.now, zone), explain.duration(lasting_s)
    burn, expected = (
        explain.rate(each, by_day=about.by_day) for each in (about.usd_per_hour, about.expected_usd_per_hour)
    )
    sentences = [
        f"{who} burns {burn}, expected {expected}, since {began} ({lasts}): {over}"
        + (f"; {about.reason}." if about.reason else "."),
        where(about.causes, about.tags),
        waiting(about),
        about.known,
        f"Confidence {about.confidence:.0%}." if about.confidence > 0 else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def since(at: float, now: float, zone: ZoneInfo) -> str:
    """The moment `at` on the clock, with the day where it was another one than `now`'s."""
    began, today = moment(at, zone), moment(now, zone).date()
    return began.strftime("%H:%M %Z" if began.date() == today else "%Y-%m-%d %H:%M %Z")


def where(causes: Sequence[Cause], own: Mapping[str, str]) -> str:
    """The causes in words, such as "93 % of it is model large, region us."; empty where nothing finer is known."""
    parts = []
    for cause in causes:
        finer = {tag: value for tag, value in cause.tags.items() if own.get(tag) != value and value != UNTAGGED}
        if finer:
            share = "all" if cause.share >= _WHOLE else f"{100 * cause.share:.0f} %"
            parts.append((share, ", ".join(f"{tag} {explain.short(value, _SHOWN)}" for tag, value in finer.items())))
    if not parts:
        return ""
    (share, first), *others = parts
    return f"{share.capitalize()} of it is {first}" + "".join(f"; {share} {words}" for share, words in others) + "."


def waiting(about: Summary) -> str:
    """What an hour, or a day, without anybody doing anything adds, and what is at stake in all."""
    over = about.usd_per_hour - about.expected_usd_per_hour
    if over < _NOTHING_USD_PER_HOUR:
        return ""
    costs = explain.rate(over, by_day=about.by_day)
    return f"Waiting costs {costs}; {usd(about.dollars_at_risk)} at risk until somebody answers."
