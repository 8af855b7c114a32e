"""What GPU nodes cost while they did nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from curb.lab.history import Floats, History
from curb.lab.markdown import table, text
from curb.stream.money import usd


class NodeUse(NamedTuple):
    """One node: percent busy per hour (NaN where it was off), dollars, and those of hours that were idle."""

    name: str
    busy: Floats
    usd: float
    idle_usd: float
    idle_hours: int
    #: Idle hours in a row up to the end of the log.
    idle_since_hours: int


def node_use(history: History, tag: str = "node", idle_pct: float = 2.0) -> list[NodeUse]:
    """Nodes by the dollars of their idle hours, most first: hours in which they were on and under `idle_pct` busy."""
    names = history.by(tag, kind="gpu")
    found = []
    for name, dollars in names.items():
        mine = [each for (kind, own), each in history.sums.items() if kind == "gpu" and dict(own).get(tag) == name]
        samples = sum((each.samples for each in mine), np.zeros(history.hours))
        busy = np.full(history.hours, np.nan)
        np.divide(sum((each.busy for each in mine), np.zeros(history.hours)), samples, out=busy, where=samples > 0)
        idle = np.nan_to_num(busy, nan=np.inf) < idle_pct
        working = np.flatnonzero(~idle)
        since = history.hours - 1 - int(working[-1]) if len(working) else history.hours
        found.append(NodeUse(name, busy, float(dollars.sum()), float(dollars[idle].sum()), int(idle.sum()), since))
    return sorted(found, key=lambda each: -each.idle_usd)


def idle_table(nodes: list[NodeUse]) -> str:
    """Markdown: cost, idle cost and how long each node has been idle."""
    rows = [
        [
            text(each.name),
            usd(each.usd),
            usd(each.idle_usd),
            f"{each.idle_hours}",
            f"{each.idle_since_hours} h" if each.idle_since_hours else "–",
            f"{np.nanmean(each.busy):.0f} %" if np.isfinite(each.busy).any() else "–",
        ]
        for each in nodes
    ]
    return table(["node", "cost", "while idle", "idle hours", "idle until now for", "mean busy"], rows)
