"""The results of the benchmark as plain values, for JSON: figures of each stream, of each kind, and what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.detection.bars import FIGURES
from benchmarks.detection.measure import Result
from benchmarks.detection.streams import iso
from benchmarks.detection.tables import Method
from curb.evaluate.score import IncidentResult, epoch

_MEANS = ("recall", "exact_recall", "usd_lost_share", "noise_per_day", "repeats", "median_minutes")


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry per stream. `figures` are the columns of the table, None where a stream has nothing to measure."""
    return [
        {
            "variant": result.job.variant,
            "seed": result.job.seed,
            "figures": {figure.name: figure.of(result) for figure in FIGURES},
            "page+notice": result.both.summary(),
            "page": result.page.summary(),
            "kinds": {
                name: {
                    "incidents": kind.incidents,
                    "caught": kind.caught,
                    "lost_usd": kind.lost_usd,
                    "total_usd": kind.total_usd,
                    "minutes": kind.minutes,
                }
                for name, kind in result.both.kinds.items()
            },
            "incidents": [_incident(result, outcome) for outcome in result.both.outcomes],
            "noise": [_noise(result.interrupting[i]) for i in result.both.noise],
            "flagged": result.both.benign_flagged,
        }
        for result in results
    ]


def _incident(result: Result, outcome: IncidentResult) -> dict[str, Any]:
    """What became of one incident; `told` is None for a missed one."""
    label, told = outcome.label, None
    if outcome.caught_by is not None:
        row = result.interrupting[outcome.caught_by]
        at = row.get("noticed_at") or row["fired_at"]
        told = {"minutes": (epoch(at) - label.start) / 60, "tier": row["tier"], "channel": row["channel"]}
    return {
        "id": label.id,
        "kind": label.kind,
        "start": iso(label.start),
        "hours": (label.end - label.start) / 3600,
        "excess_usd": label.excess_usd,
        "lost_usd": outcome.lost_usd,
        "told": told,
    }


def _noise(row: Mapping[str, Any]) -> dict[str, Any]:
    """An alert on nothing that was put in."""
    names = ("fired_at", "tier", "kind", "channel", "tags", "expected_usd", "actual_usd")
    return {name: row.get(name) for name in names}


def methods_as_json(methods: Mapping[str, Sequence[Method]]) -> dict[str, list[dict[str, Any]]]:
    """Means over streams, and look-alikes flagged in all of them, by variant and method."""
    return {
        variant: [
            {"method": method.name, "family": method.family, "streams": len(method.scores)}
            | {name: method.mean(name) for name in _MEANS}
            | {
                "benign": sum(score.benign for score in method.scores),
                "benign_flagged": sum(len(score.benign_flagged) for score in method.scores),
            }
            for method in several
        ]
        for variant, several in methods.items()
    }
