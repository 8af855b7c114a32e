"""Whether a delivery may replace the last good one: a broken export must not look like a bill of zero."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from curb.connectors.bills.restate_store import Comparison, DeliveryVerdict
from curb.connectors.decode import Rejected
from curb.stream.errors import PermanentError
from curb.stream.money import usd
from curb.stream.time import DAY_S

#: Share of lines that may be unreadable. Chosen by hand: one line in a small file may be, a change of format may not.
_MAX_BAD_SHARE = 0.2
#: Shares of the known dollars: missing because whole days or keys of usage are, because keys are, and missing in all.
#: Chosen by hand: vendors restate rates, re-date charges and withdraw fees, but usage does not vanish.
_MAX_LOST_SHARE, _MAX_VANISHED_SHARE, _MAX_SHRUNK_SHARE = 0.15, 1 / 3, 0.6
#: Share of the smaller of two deliveries that equals the other to the cent, and keys that this takes at least.
_TWIN_SHARE, _TWIN_KEYS = 0.8, 2


class Unusable(PermanentError):
    """Something that is no delivery of a bill, or may not be taken for one; the message says why."""


class Refusal(NamedTuple):
    """A delivery that is not taken: its billing period or file, its version, and the reason."""

    period: str
    version: str
    why: str


@dataclass
class LineCounts:
    """Lines of one delivery."""

    rows: int = 0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def refuse(self, rejected: Rejected) -> None:
        """Count one line that cannot be read."""
        self.bad += 1
        self.reasons[rejected.detail] += 1

    @property
    def why(self) -> str:
        """How many lines cannot be read, and the commonest reason."""
        reason = self.reasons.most_common(1)[0][0] if self.reasons else ""
        return f"{self.bad} of {self.rows} lines cannot be read: {reason}"


def judge(found: Comparison, counts: LineCounts, *, rolling: bool) -> DeliveryVerdict:
    """Whether a delivery is taken, and from when on it replaces what is known.

    No more keys gone than lines unreadable: these are the lines, and their charges stay as they were.

    `rolling` is a file that may be written over with later days only: what lies before its first day stays.
    """
    if not found.known:
        if counts.bad and counts.bad == counts.rows:
            return DeliveryVerdict(counts.why)
        twin = found.twin_usd >= _TWIN_SHARE * min(found.twin_of_usd, found.usd) and found.twin_keys >= _TWIN_KEYS
        if found.twin and twin:
            return DeliveryVerdict(f"it holds the charges of {found.twin} again ({usd(found.twin_usd)} are the same)")
        return DeliveryVerdict()
    if counts.bad > _MAX_BAD_SHARE * counts.rows:
        return DeliveryVerdict(counts.why)
    if not found.known_usd:
        return DeliveryVerdict()
    if not found.keys:
        return DeliveryVerdict(f"it holds no charge, and the one before held {usd(found.known_usd)}")
    if rolling and found.first_day is not None and found.known_first_day is not None:
        moved = found.first_day > found.known_first_day
        if moved and found.lost_later_usd <= _MAX_LOST_SHARE * found.known_usd:
            return DeliveryVerdict(since=float(found.first_day * DAY_S))
    if 0 < found.vanished <= counts.bad:
        return DeliveryVerdict(keep=True)
    return _judged_size(found)


def _judged_size(found: Comparison) -> DeliveryVerdict:
    """By what is missing. Only as much is missing as the whole has shrunk: charges that move to other keys are not."""
    known, shrunk = found.known_usd, found.known_usd - found.usd
    if min(found.lost_usd, shrunk) > _MAX_LOST_SHARE * known:
        return DeliveryVerdict(f"{found.lost_days} days with {usd(found.lost_usd)} are no longer in it")
    gone = min(found.vanished_usd, shrunk) > _MAX_VANISHED_SHARE * known
    if gone or min(found.vanished_usage_usd, shrunk) > _MAX_LOST_SHARE * known:
        return DeliveryVerdict(f"charges of {usd(found.vanished_usd)} are no longer in it, of {usd(known)}")
    if shrunk > _MAX_SHRUNK_SHARE * known:
        return DeliveryVerdict(f"it holds {usd(found.usd)} of charges, and the one before {usd(known)}")
    return DeliveryVerdict()
