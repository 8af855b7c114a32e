"""When an alert on a budget is worth a revision beside a new threshold: rarely, for people read each of them."""

from __future__ import annotations

from typing import NamedTuple

from curb.stream.records.revisions import needs_revision
from curb.stream.records.spend import Alert
from curb.stream.time import HOUR_S

#: Change of the spend, as a share of the amount or of the spend where that is more. Chosen by hand: an alert on ten
#: times its amount has had 24 revisions for it.
_SPENT_SHARE = 0.1
#: Seconds in which the rate of a hard cap is followed closely, and the factor by which it must move after that. Chosen
#: by hand: actions are verified within minutes, and a limit that is set or given back at least halves or doubles it.
_FOLLOWED_S, _FACTOR = HOUR_S, 2.0
#: $/h that count as none.
_NONE_USD_PER_HOUR = 0.1


class RowFigures(NamedTuple):
    """Those of a row now: dollars spent, the amount, and $/h."""

    spent_usd: float
    amount_usd: float
    usd_per_hour: float


def is_material(alert: Alert, now: RowFigures, at: float, every_s: float) -> bool:
    """Whether figures have moved enough since the newest revision, which is at least `every_s` seconds old.

    The rate counts for hard caps alone, because actions on them are verified by it.
    """
    budget = alert.budget
    if budget is None or at - alert.updated_at < every_s:
        return False
    said_usd, amount_usd = budget.spent_usd, budget.amount_usd
    if abs(now.spent_usd - said_usd) >= _SPENT_SHARE * max(amount_usd, abs(said_usd)):
        return True
    if abs(now.amount_usd - amount_usd) >= _SPENT_SHARE * amount_usd:
        return True
    if not budget.hard:
        return False
    rate = now.usd_per_hour
    if at - (alert.tier_since or alert.fired_at) <= _FOLLOWED_S:
        return needs_revision(alert, alert.updated_at, rate, every_s)
    low, high = sorted((rate, alert.usd_per_hour))
    return high > _NONE_USD_PER_HOUR and high >= _FACTOR * low
