"""Markdown tables of a history: spend, budgets, alerts and verdicts, estimates against bills, settings tried."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from curb.detector.reconcile.reconciler import ratio_of
from curb.evaluate.tune import TriedSetting, frontier
from curb.lab.history import Floats, History, LoggedAlert
from curb.lab.markdown import table, text
from curb.lab.seasons import OddHour
from curb.stream.money import usd
from curb.stream.time import moment

_VERDICTS = {"real": "real", "not_an_anomaly": "no anomaly", "planned": "planned", "": "none"}


def spend_table(history: History, *tags: str, most: int = 10) -> str:
    """The most expensive values of the tags: dollars, share, and the last whole week against the week before."""
    found = history.by(*tags)
    total = float(sum(each.sum() for each in found.values()))
    rows = []
    for name, dollars in list(found.items())[:most]:
        days = history.daily(dollars).usd
        now, before = float(days[-7:].sum()), float(days[-14:-7].sum())
        change = f"{now / before - 1:+.0%}" if before > 0 and len(days) >= 14 else "–"
        share = f"{float(dollars.sum()) / total:.0%}" if total > 0 else "–"
        rows.append([text(name), usd(float(dollars.sum())), share, usd(now), change])
    rest = list(found.values())[most:]
    if rest:
        rows.append([f"{len(rest)} more", usd(sum(float(each.sum()) for each in rest)), "", "", ""])
    return table([" / ".join(tags), "spent", "share", "last 7 days", "change"], rows)


def odd_hour_table(found: Sequence[OddHour]) -> str:
    """Hours that trend and season do not explain."""
    rows = [
        [str(each.at).replace("T", " ")[:16], usd(each.usd), usd(each.expected_usd), f"{each.sigmas:.0f} σ"]
        for each in found
    ]
    return table(["hour", "spent", "expected", "over"], rows)


def budget_table(history: History) -> str:
    """Every alert on a budget: when it was crossed, how much was spent at the end of the alert."""
    rows = []
    for each in history.alerts:
        status, alert = each.alert.budget, each.alert
        if alert.kind != "budget" or status is None:
            continue
        at = moment(alert.fired_at).astimezone(history.zone)
        rows.append(
            [
                text(status.name),
                f"{at:%a %d %b %H:%M}",
                alert.tier,
                alert.channel.removeprefix("budget/"),
                usd(alert.expected_usd),
                usd(alert.actual_usd),
            ]
        )
    return table(["budget", "crossed", "tier", "threshold", "amount", "spent in the period"], rows)


def alert_table(history: History, alerts: Sequence[LoggedAlert] | None = None) -> str:
    """Alerts on spend in the order of time, with verdicts."""
    rows = []
    for each in history.alerts if alerts is None else alerts:
        alert = each.alert
        if alert.kind == "budget":
            continue
        at = moment(alert.fired_at).astimezone(history.zone)
        whose = next((alert.tags[name] for name in ("node", "api_key", "team") if name in alert.tags), alert.scope)
        minutes = (alert.fired_at - alert.started_at) / 60
        rows.append(
            [
                f"{at:%a %d %b %H:%M}",
                alert.tier,
                alert.kind,
                text(whose),
                usd(alert.excess_usd),
                f"{minutes:.0f} min",
                _VERDICTS[each.verdict],
            ]
        )
    return table(["fired", "tier", "kind", "subject", "over the usual", "after", "verdict"], rows)


def verdict_table(history: History) -> str:
    """Per tier and kind: alerts, what people said of them, and the share that was right of those judged."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for each in history.alerts:
        counts[each.alert.tier, each.alert.kind][each.verdict] += 1
    rank = ("page", "notice", "digest", "soft")
    rows = []
    for (tier, kind), said in sorted(counts.items(), key=lambda item: (rank.index(item[0][0]), -item[1].total())):
        judged = said.total() - said[""]
        right = f"{said['real'] / judged:.0%}" if judged else "–"
        per_week = said.total() / max(history.days, 1.0) * 7
        row = [str(said.total()), f"{per_week:.1f}", *(str(said[each]) for each in _VERDICTS), right]
        rows.append([tier, kind, *row])
    return table(["tier", "kind", "alerts", "a week", *_VERDICTS.values(), "right"], rows)


def capture_table(history: History, tag: str = "model") -> str:
    """Estimated and billed dollars of whole days per value of a tag that both sides carry, with the capture ratio."""
    estimated, billed = history.by(tag), history.by(tag, kind="costs")
    rows = []
    for name in dict.fromkeys([*estimated, *billed]):
        pairs = _days_of_both(history, estimated.get(name), billed.get(name))
        ratio = ratio_of(pairs)
        bounds = "–" if ratio is None or ratio.low is None else f"{ratio.low:.2f} to {ratio.high:.2f}"
        rows.append(
            [
                text(name),
                usd(sum(each for each, _ in pairs)),
                usd(sum(each for _, each in pairs)),
                "–" if ratio is None else f"{ratio.value:.2f}",
                bounds,
            ]
        )
    return table([tag, "estimated", "billed", "billed / estimated", "90 % bounds"], rows)


def _days_of_both(history: History, estimated: Floats | None, billed: Floats | None) -> list[tuple[float, float]]:
    nothing = np.zeros(history.hours)
    mine = history.daily(nothing if estimated is None else estimated).usd
    theirs = history.daily(nothing if billed is None else billed).usd
    return list(zip(mine.tolist(), theirs.tolist(), strict=True))


def setting_table(tried: Sequence[TriedSetting]) -> str:
    """Settings, the quietest first: incidents found, dollars lost, alerts a day; ● marks those that no other beats."""
    ahead = frontier(list(tried))
    rows = []
    for each in sorted(tried, key=lambda one: (one.alerts_per_day, one.lost_share)):
        setting = each.setting
        marks = " ".join(["●"] * (each in ahead) + ["now"] * (each is tried[0]))
        real = f"{each.real[0]} of {each.real[1]}"
        wrong = f"{each.wrong[0]} of {each.wrong[1]}"
        rows.append(
            [
                marks or " ",
                f"{usd(setting.floors_usd[0])} to {usd(setting.floors_usd[-1])}",
                usd(setting.notice_at_risk_usd),
                usd(setting.page_at_risk_usd),
                f"{each.recall:.0%}",
                f"{usd(each.lost_usd)} ({each.lost_share:.0%})",
                f"{each.alerts_per_day:.2f}",
                real,
                wrong,
            ]
        )
    names = ["", "floors", "notice at", "page at", "found", "lost", "alerts a day", "real raised", "wrong raised"]
    return table(names, rows)
