"""What others do with the same events: polars and duckdb in one batch, without buckets, lateness or scores.

They are the ceiling that the data allow, with all of a batch at hand at once, in CPU time of all their threads. Each is
measured only where it is installed: `pip install polars duckdb`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Totals by scope and tags.
Totals = dict[str, dict[tuple[str, ...], float]]
Scopes = Mapping[str, tuple[str, ...]]
_COLUMNS = ("id", "effective_cost", "tags")


class Polars:
    """Lines to a frame, duplicates dropped, one group-by per scope."""

    def __init__(self, scopes: Scopes) -> None:
        self._polars, self._scopes = importlib.import_module("polars"), scopes
        self._sums: dict[str, Any] = {}

    def run(self, lines: Sequence[bytes]) -> None:
        """Sum the events of `lines`."""
        polars = self._polars
        frame = polars.read_ndjson(io.BytesIO(b"\n".join(lines))).select(_COLUMNS)
        frame = frame.unique("id", keep="first").unnest("tags")
        usd = polars.col("effective_cost").sum()
        self._sums = {name: frame.group_by(list(tags)).agg(usd) for name, tags in self._scopes.items()}

    def totals(self) -> Totals:
        """What the last run found."""
        return {name: {tuple(row[:-1]): row[-1] for row in sums.rows()} for name, sums in self._sums.items()}


class Duckdb:
    """The same in SQL. It reads files: `path` holds the lines."""

    def __init__(self, scopes: Scopes, path: Path) -> None:
        self._query = importlib.import_module("duckdb").connect().execute
        self._scopes, self._path = scopes, path

    def run(self, lines: Sequence[bytes]) -> None:
        """Sum the events of the file; `lines` are what it holds."""
        tags = sorted({tag for group in self._scopes.values() for tag in group})
        kind = f"STRUCT({', '.join(f'{tag} VARCHAR' for tag in tags)})"
        columns = f"{{id: 'VARCHAR', effective_cost: 'DOUBLE', tags: '{kind}'}}"
        named = ", ".join(f"any_value(tags.{tag}) AS {tag}" for tag in tags)
        self._query(
            f"CREATE OR REPLACE TEMP TABLE events AS SELECT any_value(effective_cost) AS usd, {named} "
            f"FROM read_json('{self._path}', format = 'newline_delimited', columns = {columns}) GROUP BY id"
        )
        for name, group in self._scopes.items():
            by = ", ".join(group)
            self._query(
                f"CREATE OR REPLACE TEMP TABLE sums_{name} AS SELECT {by}, sum(usd) AS usd FROM events GROUP BY {by}"
            )

    def totals(self) -> Totals:
        """What the last run found."""
        rows = {name: self._query(f"FROM sums_{name}").fetchall() for name in self._scopes}
        return {name: {tuple(row[:-1]): row[-1] for row in some} for name, some in rows.items()}


def installed(scopes: Scopes, path: Path) -> dict[str, Polars | Duckdb]:
    """By name, those that there are; `path` holds the lines for those that read files."""
    found: dict[str, Polars | Duckdb] = {}
    if importlib.util.find_spec("polars") is not None:
        found["polars"] = Polars(scopes)
    if importlib.util.find_spec("duckdb") is not None:
        found["duckdb"] = Duckdb(scopes, path)
    return found


def agree(found: Totals, others: Totals) -> bool:
    """Whether all series of all scopes have the same dollars."""
    return all(
        found[name].keys() == others[name].keys()
        and all(math.isclose(usd, others[name][tags], rel_tol=1e-9) for tags, usd in found[name].items())
        for name in found
    )
