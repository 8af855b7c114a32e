"""What alerts on feeds say: what was seen, a clause, and what to do next, a sentence."""

from __future__ import annotations

from curb.detector.incidents.feed_sources import TOO_LATE, Figures, Habit
from curb.detector.state import wording as explain
from curb.stream.money import usd
from curb.stream.records.spend import OTHER, ScopeTally

#: Characters of the name of a source that are shown.
_SHOWN = 64
#: Reasons that are named in one sentence.
_NAMED = 3
#: Reason → what people call it. The reasons are those of dead letters, and TOO_LATE.
_CALLED = {
    "not_json": "no JSON",
    "not_utf8": "no UTF-8",
    "too_large": "too large",
    "wrong_type": "a field of a wrong type",
    "missing_field": "a field is missing",
    "not_finite": "a number that is not finite",
    "negative_cost": "a negative cost",
    "too_old": "too old to be counted",
    "in_the_future": "dated in the future",
    "invalid": "a value that cannot be",
    TOO_LATE: "counted, too late to be scored",
}
_LOOK = "`curb connectors list` shows the last one, and the answer to a post names each line."
_NEXT = {
    "not_json": f"Look at what the sender writes: {_LOOK}",
    "not_utf8": f"Let the sender write UTF-8: {_LOOK}",
    "too_large": "Let the sender post smaller bodies, or raise http.max_body_mib.",
    "negative_cost": "Send credits as bills, with a connector for bills; usage costs nothing or more.",
    "too_old": "Raise detector.max_age_days, or check the unit of the sender's times (seconds, not milliseconds).",
    "in_the_future": "Check the sender's clock and the unit of its times (seconds, not milliseconds).",
    TOO_LATE: "Where it is a history, nothing is to be done: totals and budgets have it. Else look why the sender "
    "holds records back; those that are late by a usual time are scored by it.",
}
_DEFAULT_NEXT = f"Compare the sender's fields with the page of its connector: {_LOOK}"


def lost(name: str, found: Figures) -> tuple[str, str]:
    """Records that were not counted or not scored."""
    reasons = found.lost.most_common()
    records, received = sum(found.lost.values()), found.received - found.duplicates
    listed = ", ".join(f"{count:,} {_CALLED.get(reason, reason)}" for reason, count in reasons[:_NAMED])
    more = sum(count for _, count in reasons[_NAMED:])
    listed += f", {more:,} for other reasons" if more else ""
    dollars = f" and {usd(found.lost_usd)} of {usd(found.received_usd - found.duplicate_usd)}"
    seen = (
        f"source {_called(name)}: {records:,} of {received:,} records{dollars if found.lost_usd else ''} of an hour "
        f"({found.lost_share:.1%}) were not counted or not scored: {listed or 'a part of some'}"
    )
    return seen, _NEXT.get(reasons[0][0] if reasons else TOO_LATE, _DEFAULT_NEXT)


def clock(name: str, found: Figures) -> tuple[str, str]:
    """Records that are dated ahead of their receipt."""
    seen = (
        f"source {_called(name)}: {found.skewed:,} of {found.counted:,} records of an hour are dated up to "
        f"{explain.duration(found.skew_s)} ahead of their receipt; those over the limit count at their receipt"
    )
    return seen, "Set the sender's clock (NTP), and check that it sends UTC."


def quiet(name: str, habit: Habit, known_s: float) -> tuple[str, str]:
    """A source from which nothing comes."""
    longest = max(habit.longest_s, habit.longest_gap_s)
    seen = (
        f"source {_called(name)} has sent nothing for {explain.duration(habit.quiet_s)}, longer than it usually is "
        f"silent at this time; the longest silence in {explain.duration(known_s)} was {explain.duration(longest)}"
    )
    return seen, "Look whether the sender runs, `curb connectors list` for errors, and `curb connectors check NAME`."


def folded(tally: ScopeTally, of_all: float) -> tuple[str, str]:
    """Spend of an hour that the cardinality guard put together."""
    dollars = tally.folded_usd
    largest = ", ".join(f"{explain.short(values, _SHOWN)} {usd(each)}" for values, each in tally.largest)
    seen = (
        f"scope {tally.scope}: {usd(dollars)} of {usd(of_all)} of an hour ({min(1.0, dollars / of_all):.1%}; "
        f"{tally.folded:,} records) are in {OTHER}: new tag values came faster than detector.guard allows, or there are"
        f" too many{'; the largest so far, at most: ' + largest if largest else ''}"
    )
    return seen, "Raise detector.guard, or leave tags with a value per request out of the scope."


def _called(name: str) -> str:
    return explain.short(name, _SHOWN) or "without a name"
