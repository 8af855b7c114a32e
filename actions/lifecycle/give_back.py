"""An undo that was in vain: when it is tried again, and what the ledger says until it is done.

No refusal ends a lease. Whatever the other side answers (a token that expired, a right that was taken away, an API
version that went away, a policy that denies, a time-out), the change is still in force, so it is tried again until it
is given back, the target is gone, somebody else has changed it, or a person says that it stays.
"""

from __future__ import annotations

from typing import Any

from curb.actions.calls.bounded import Backoff
from curb.actions.ledger.ledger import NOT_UNDONE, ActionState
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import LedgerEntry
from curb.stream.retry import RetryPolicy
from curb.stream.time import utc

#: Seconds between tries of an undo that failed in passing. By hand: soon for a blip, then as seldom as a refusal.
_SOON = RetryPolicy(first_s=1.0, cap_s=900.0)
#: Seconds between tries of an undo that was refused. By hand: a minute for a token that is renewed, then a quarter of
#: an hour: four lines an hour on the ledger, and a limit that comes back at most so late after the cause is gone.
_REFUSED = RetryPolicy(first_s=60.0, cap_s=900.0)
#: Characters of the other side's reason that are kept. By hand: a sentence or two.
_LONGEST = 300


class NotGivenBackError(Exception):
    """An undo was in vain; it is on the ledger, and when it is tried again is decided."""


def undo_backoff(clock: Clock) -> Backoff:
    """When each undo may be tried again."""
    return Backoff(clock, _SOON, refused=_REFUSED)


def refusal_of(error: Exception) -> str:
    """The reason in one line, with the type of what nobody foresaw."""
    text = " ".join(str(error).split())
    if not isinstance(error, TransientError | PermanentError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def in_vain(entry: LedgerEntry, error: Exception, *, by: str, why: str, now: float, wait_s: float) -> dict[str, Any]:
    """The fields of the ledger's next entry about an action, which stays in its state."""
    refusal, tries, again_at = refusal_of(error), entry.tries + 1, now + wait_s
    times = "once" if tries == 1 else f"{tries} times"
    head = NOT_UNDONE if entry.state == "failed" else ""
    return {
        "by": by,
        "detail": f"{head}{why}; still in force: {refusal} (tried {times}, again at {utc(again_at)})",
        "overdue": True,
        "ending": True,
        "ending_why": why,
        "tries": tries,
        "refusal": refusal,
        "next_try_at": again_at,
    }


def why_ending(state: ActionState) -> tuple[str, str] | None:
    """Who wants an action given back that was tried in vain or not confirmed, and why; None when nobody does yet."""
    entry = state.last
    if state.is_stuck:
        return entry.by, entry.ending_why or "the lease ended"
    return (entry.by, entry.ending_why or entry.detail) if entry.ending else None
