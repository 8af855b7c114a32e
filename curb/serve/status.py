"""How the daemon is doing: what /readyz and `curb status` show."""

from __future__ import annotations

from typing import Any

from msgspec import to_builtins

from curb.detector.state.view import Raised
from curb.serve.running import Running
from curb.stream.time import iso


def readiness(daemon: Running) -> dict[str, Any]:
    """Ready when everything on the log has been read once; connectors that are behind are named, not fatal."""
    parts = daemon.caught_up()
    return {"ready": all(parts.values()), **parts, "connectors": _connectors(daemon)}


def status(daemon: Running) -> dict[str, Any]:
    """Everything a person asks for first: freshness, series, who spends, what fires, what Curb holds."""
    shards = daemon.shards()
    times = [shard.event_time for shard in shards if shard.event_time]
    top = sorted((row for shard in shards for row in shard.top(10)), key=lambda row: -row.usd_per_hour)[:10]
    budgets = [{"tags": tags, **to_builtins(budget)} for shard in shards for tags, budget in shard.budgets()]
    actions = daemon.action_state()
    return {
        "instance": daemon.config.instance,
        "now": iso(daemon.clock.now()),
        "event_time": iso(min(times)) if times else None,
        "ready": readiness(daemon)["ready"],
        "mode": daemon.config.actions.mode,
        "halted": actions["halted"] is not None,
        "halted_by": "" if actions["halted"] is None else _who_and_why(actions["halted"]),
        "series": sum(shard.series_count for shard in shards),
        # The highest of all partitions: where statistics alert too often, what they need more of a score.
        "threshold_rise": {
            tier: round(max((getattr(shard.raised, tier) for shard in shards), default=0.0), 2)
            for tier in Raised._fields
        },
        "connectors": _connectors(daemon),
        "top": [row._asdict() for row in top],
        "budgets": budgets,
        "firing": len(daemon.view.firing()),
        "leases": actions["open"],
        "proposed": actions["proposed"],
        "problems": actions["problems"],
    }


def _who_and_why(halted: dict[str, Any]) -> str:
    return f"{halted['by']}: {halted['reason']}" if halted["reason"] else str(halted["by"])


def _connectors(daemon: Running) -> dict[str, Any]:
    found = {runner.name: iso(runner.last_success) for runner in daemon.connectors.runners}
    found |= {source.name: iso(source.last_success) for source in daemon.connectors.sources.values()}
    return found
