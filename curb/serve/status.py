"""How the daemon is doing: what /readyz and `curb status` show."""

from __future__ import annotations

import math
from typing import Any

from msgspec import to_builtins

from curb.config.bills import bills_alone, hollow, promise
from curb.detector.day_one import abilities
from curb.detector.state.view import Raised
from curb.serve.next_steps import next_steps
from curb.serve.running import Running
from curb.stream.time import iso

#: Rows of a budget of a shard, the fullest. By hand: a page; a budget on every key may have 100,000.
_BUDGETS = 100
#: Series in the list of what is watched.
_WATCHED = 10


def is_ready(daemon: Running) -> bool:
    """Everything on the log has been read once, what is sent is read within `http.max_lag_s`, and the log can be
    written."""
    behind_s = max(daemon.lag_s().values(), default=0.0)
    return all(daemon.caught_up().values()) and behind_s <= daemon.config.http.max_lag_s and not daemon.log_problem()


def readiness(daemon: Running) -> dict[str, Any]:
    """Whether it is ready, and why not. Connectors that are behind are named, not fatal."""
    return {
        "ready": is_ready(daemon),
        **daemon.caught_up(),
        "log": daemon.log_problem(),
        "lag_s": {part: round(seconds, 1) for part, seconds in daemon.lag_s().items()},
        "connectors": _connectors(daemon),
    }


def status(daemon: Running) -> dict[str, Any]:
    """Everything a person asks for first: freshness, series, who spends, what fires, what Curb holds."""
    shards = daemon.shards()
    times = [shard.event_time for shard in shards if shard.event_time]
    top = sorted((row for shard in shards for row in shard.top(10)), key=lambda row: -row.usd_per_hour)[:10]
    fullest = (each for shard in shards for each in shard.fullest_budgets(_BUDGETS)[0])
    budgets = [{"tags": tags, **to_builtins(budget)} for tags, budget in fullest]
    actions = daemon.action_state()
    series = sum(shard.series_count for shard in shards)
    first_in_s = None if series else _first_bucket_in_s(daemon)
    return {
        "instance": daemon.config.instance,
        "now": iso(daemon.clock.now()),
        "event_time": iso(min(times)) if times else None,
        "ready": is_ready(daemon),
        "mode": daemon.config.actions.mode,
        "halted": actions["halted"] is not None,
        "halted_by": "" if actions["halted"] is None else _who_and_why(actions["halted"]),
        "series": series,
        # While nothing was spent yet: from here to spend on the page.
        "next_steps": [step._asdict() for step in next_steps(daemon.config, running=True)]
        if not series and first_in_s is None
        else [],
        # Spend came, and nothing of it is summed yet.
        "first_bucket_in_s": first_in_s,
        # The highest of all partitions: where statistics alert too often, what they need more of a score.
        "threshold_rise": {
            tier: round(max((getattr(shard.raised, tier) for shard in shards), default=0.0), 2)
            for tier in Raised._fields
        },
        "connectors": _connectors(daemon),
        # What arrived and was not counted, and how far a bill is known, by connector.
        "notes": _notes(daemon),
        # What senders posted that no connector took.
        "refused_posts": refused_posts(daemon),
        # What became of the records of each source, and dollars that no series of their own shows.
        "feeds": feeds(daemon),
        "scopes": [row._asdict() for shard in shards for row in shard.feeds.scope_rows()],
        # What is judged already, and in how many seconds the rest is; and what is far over its usual without an alert.
        "judged": judged(daemon),
        "watching": [row._asdict() for shard in shards for row in shard.watching(_WATCHED)][:_WATCHED],
        "top": [row._asdict() for row in top],
        "budgets": budgets,
        "firing": len(daemon.view.firing()),
        "leases": actions["open"],
        "proposed": actions["proposed"],
        # Standing ceilings, which are not among the leases.
        "ceilings": len(actions["ceilings"]),
        "problems": _problems(daemon) | actions["problems"],
    }


def _notes(daemon: Running) -> dict[str, list[str]]:
    found = {each.name: list(each.notes()) for each in daemon.connectors.runners}
    found |= {each.name: list(each.notes()) for each in daemon.connectors.sources.values()}
    for each in daemon.config.connectors:
        if each.reads_bills:
            found[each.name] = [promise(each), *found.get(each.name, [])]
    return {name: notes for name, notes in found.items() if notes}


def _problems(daemon: Running) -> dict[str, str]:
    found = {"log": daemon.log_problem() or "", "bills": "; ".join(hollow(daemon.config))}
    return {subject: problem for subject, problem in found.items() if problem}


def _first_bucket_in_s(daemon: Running) -> float | None:
    """Seconds until the bucket of the first record closes; None where nothing came, or where it is closed."""
    settings = daemon.config.detector
    found = []
    for shard in daemon.shards():
        if shard.feeds.first_at is None:
            continue
        end = (shard.feeds.first_at // settings.bucket_s + 1) * settings.bucket_s
        if shard.event_time is None or shard.event_time < end:
            found.append(max(0.0, end + settings.grace_s - daemon.clock.now()))
    return math.ceil(min(found)) if found else None


def judged(daemon: Running) -> list[dict[str, Any]]:
    """What is judged, with the seconds until the stream is long enough for it; 0 where it is."""
    known_s = max((shard.known_s for shard in daemon.shards()), default=0.0)
    found = [] if bills_alone(daemon.config) else abilities(daemon.config.detector)
    return [{"what": each.what, "in_s": max(0.0, round(each.needs_s - known_s))} for each in found]


def feeds(daemon: Running) -> list[dict[str, Any]]:
    """What became of the records of each source that this process keeps, by name."""
    rows = [row for shard in daemon.shards() for row in shard.feeds.rows()]
    return [{**row._asdict(), "last_at": iso(row.last_at)} for row in sorted(rows, key=lambda row: row.source)]


def refused_posts(daemon: Running) -> list[dict[str, Any]]:
    """Posts of the last day that reached no connector, newest first, each with a sentence for people."""
    made, now = daemon.connectors, daemon.clock.now()
    paths = [path for source in made.sources.values() for path in source.paths()]
    return [
        {
            "path": each.path,
            "why": each.why,
            "count": each.count,
            "last_at": iso(each.last_at),
            "says": each.says(paths),
        }
        for each in made.refused_posts.rows(now)
    ]


def _who_and_why(halted: dict[str, Any]) -> str:
    return f"{halted['by']}: {halted['reason']}" if halted["reason"] else str(halted["by"])


def _connectors(daemon: Running) -> dict[str, Any]:
    found = {runner.name: iso(runner.last_success) for runner in daemon.connectors.runners}
    found |= {source.name: iso(source.last_success) for source in daemon.connectors.sources.values()}
    return found
