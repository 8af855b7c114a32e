"""What an alert would have cost under other ways to act: the burn of its series replayed with a limit on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from curb import wiring
from curb.lab.history import History, LoggedAlert, wait_for
from curb.lab.markdown import table, text
from curb.stream.clock import WallClock
from curb.stream.money import usd
from curb.stream.records.spend import Tier
from curb.stream.time import HOUR_S
from curb.views.explanation import Explanation, Recorded, explain, read_log

#: Kinds of alerts on which no limit helps: nobody spends more because of them.
_NO_BURN = frozenset({"budget", "feed", "pricing", "silent"})


@dataclass(frozen=True)
class Policy:
    """Limits the subject of an alert at a multiple of its usual burn, some time after the alert."""

    name: str
    #: Tiers on which it acts.
    tiers: tuple[Tier, ...] = ("page",)
    #: From the alert to the limit: 0 is Curb by itself, 30 a person who is woken.
    after_minutes: float = 0.0
    #: The limit as a multiple of the expected burn.
    keeps: float = 1.5
    lease_minutes: float = 60.0


class PolicyOutcome(NamedTuple):
    """Dollars over the usual of one alert under one policy."""

    policy: str
    alert: LoggedAlert
    #: Without any limit, and with it.
    excess_usd: float
    lost_usd: float

    @property
    def refused_usd(self) -> float:
        """Dollars that would not have been spent."""
        return self.excess_usd - self.lost_usd


def incident_of(history: History, alert_id: str) -> Explanation:
    """Everything on the log about one alert, as `curb explain` shows it. Raises NoSuchAlertError."""
    return explain(alert_id, wait_for(_recorded(history, alert_id)), history.config.detector)


async def _recorded(history: History, alert_id: str) -> Recorded:
    async with wiring.open_log(history.config, WallClock()) as log:
        return await read_log(log, alert_id)


def what_if(
    history: History, policies: Iterable[Policy], alerts: Iterable[LoggedAlert] | None = None
) -> list[PolicyOutcome]:
    """Every alert on spend under every policy. `alerts`: all of the log by default; those without a burn are left out.

    The burn is what it was: that a client tries a refused call again is not in it, nor that people act as well.
    """
    chosen = [
        each
        for each in (history.alerts if alerts is None else alerts)
        if each.alert.kind not in _NO_BURN and each.alert.tier in ("notice", "page")
    ]
    ways = list(policies)
    found = []
    for each in chosen:
        points = incident_of(history, each.alert.alert_id).points
        burn = [(point.at, point.usd_per_hour, point.expected_usd_per_hour) for point in points]
        found += [PolicyOutcome(way.name, each, _excess(burn), _lost(burn, each, way)) for way in ways]
    return found


def _excess(burn: Sequence[tuple[float, float, float]]) -> float:
    return sum(max(0.0, actual - usual) * hours for _, hours, actual, usual in _steps(burn))


def _steps(burn: Sequence[tuple[float, float, float]]) -> Iterable[tuple[float, float, float, float]]:
    """Start, length in hours, $/h and $/h expected of every step; the first is as long as the second."""
    for at, (end, actual, usual) in enumerate(burn):
        before = burn[at - 1][0] if at else end - (burn[1][0] - end if len(burn) > 1 else 0.0)
        yield before, (end - before) / HOUR_S, actual, usual


def _lost(burn: Sequence[tuple[float, float, float]], judged: LoggedAlert, policy: Policy) -> float:
    alert = judged.alert
    begin = alert.fired_at + policy.after_minutes * 60 if alert.tier in policy.tiers else float("inf")
    end = begin + policy.lease_minutes * 60
    lost = 0.0
    for start, hours, actual, usual in _steps(burn):
        held = max(0.0, min(end, start + hours * HOUR_S) - max(begin, start)) / HOUR_S
        limited = min(actual, max(usual * policy.keeps, 0.0))
        lost += max(0.0, actual - usual) * (hours - held) + max(0.0, limited - usual) * held
    return lost


def policy_table(outcomes: Sequence[PolicyOutcome]) -> str:
    """Markdown, a row a policy: dollars lost and saved on what was wrong, and refused of what was not."""
    rows = []
    for name in dict.fromkeys(each.policy for each in outcomes):
        mine = [each for each in outcomes if each.policy == name]
        honest = [each for each in mine if each.alert.verdict in ("planned", "not_an_anomaly")]
        wrong = [each for each in mine if each not in honest]
        limited = sum(each.refused_usd > 0 for each in mine)
        rows.append(
            [
                text(name),
                usd(sum(each.excess_usd for each in wrong)),
                usd(sum(each.lost_usd for each in wrong)),
                usd(sum(each.refused_usd for each in wrong)),
                usd(sum(each.refused_usd for each in honest)),
                f"{limited} of {len(mine)}",
            ]
        )
    names = ["policy", "went wrong", "lost", "saved", "refused of honest spend", "alerts limited"]
    return table(names, rows)
