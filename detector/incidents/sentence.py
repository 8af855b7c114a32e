"""What an alert says in plain sentences: who, how much, since when, what, where, and what waiting costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from curb.detector.state import wording as explain
from curb.stream.money import usd
from curb.stream.records.spend import UNTAGGED, Cause

_WHOLE = 0.995
#: Names of models are longer than those of keys are told.
_SHOWN = 40
#: A burn within this of the expected one costs nothing to wait for.
_NOTHING_USD_PER_HOUR = 0.005


class Told(NamedTuple):
    """An incident as it is told."""

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
    #: What people told of it, whole sentences.
    known: str = ""


def incident(told: Told, zone: ZoneInfo) -> str:
    """One paragraph; clock times are of `zone`."""
    who = explain.subject(told.scope, told.tags)
    over = f"{usd(told.excess_usd)} over" if told.excess_usd > 0 else "not over so far"
    began, lasting_s = since(told.started_at, told.now, zone), told.now - told.started_at
    sentences = [
        f"{who} burns {usd(told.usd_per_hour)}/h, expected {usd(told.expected_usd_per_hour)}/h, "
        f"since {began} ({explain.duration(lasting_s)}): {over}" + (f"; {told.reason}." if told.reason else "."),
        where(told.causes, told.tags),
        waiting(told.usd_per_hour, told.expected_usd_per_hour, told.dollars_at_risk),
        told.known,
        f"Confidence {told.confidence:.0%}." if told.confidence > 0 else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def since(at: float, now: float, zone: ZoneInfo) -> str:
    """The moment `at` on the clock, with the day where it was another one than `now`'s."""
    moment, today = datetime.fromtimestamp(at, zone), datetime.fromtimestamp(now, zone).date()
    return moment.strftime("%H:%M %Z" if moment.date() == today else "%Y-%m-%d %H:%M %Z")


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


def waiting(usd_per_hour: float, expected_usd_per_hour: float, dollars_at_risk: float) -> str:
    """What an hour without anybody doing anything adds, and what is at stake in all."""
    rate = usd_per_hour - expected_usd_per_hour
    if rate < _NOTHING_USD_PER_HOUR:
        return ""
    return f"Waiting costs {usd(rate)}/h; {usd(dollars_at_risk)} at risk until somebody answers."
