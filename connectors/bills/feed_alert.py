"""The alert of a connector whose deliveries are refused: which files, why, and what stays."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from curb.connectors.bills.guard import Refusal
from curb.stream.records.revisions import alert_id_of, fingerprint_of, first_without_spend, resolved, revised
from curb.stream.records.spend import Alert

SCOPE, CHANNEL = "connectors", "feed/delivery"
#: Refusals that the text names.
_NAMED = 3


class FeedAlert(msgspec.Struct):
    """The newest revision of the alert, as it is kept; `number` counts all revisions of all episodes."""

    number: int = 0
    alert: Alert | None = None
    #: What it says, so that an unchanged state makes no revision.
    says: str = ""


def next_alert(before: FeedAlert, source: str, refusals: Sequence[Refusal], at: float) -> FeedAlert:
    """The alert after a look at the source: opened, revised, resolved, or as it was."""
    says = _text(source, refusals)
    if says == before.says:
        return before
    alert, number = before.alert, before.number + 1
    firing = alert is not None and alert.status == "firing"
    if not refusals:
        if alert is None or not firing:
            return msgspec.structs.replace(before, says=says)
        return FeedAlert(number, resolved(alert, at), says)
    alert = revised(alert, at) if alert is not None and firing else _opened(source, at)
    return FeedAlert(number, msgspec.structs.replace(alert, reason=_reason(refusals), explanation=says), says)


def _opened(source: str, at: float) -> Alert:
    fingerprint = fingerprint_of(CHANNEL, source)
    return first_without_spend(
        alert_id_of(fingerprint, at),
        at,
        fingerprint=fingerprint,
        kind="feed",
        tier="notice",
        scope=SCOPE,
        tags={"connector": source},
        channel=CHANNEL,
        money="billed",
        confidence=1.0,
        needs_warmup=False,
    )


def _reason(refusals: Sequence[Refusal]) -> str:
    return "a delivery is refused" if len(refusals) == 1 else f"{len(refusals)} deliveries are refused"


def _text(source: str, refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return ""
    shown = "; ".join(f"{each.period}: {each.why}" for each in refusals[:_NAMED])
    more = f"; and {len(refusals) - _NAMED} more" if len(refusals) > _NAMED else ""
    return f"{source}: {_reason(refusals)}, and what was counted before stays. {shown}{more}."
