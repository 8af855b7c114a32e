"""What the HTTP API, the dashboard and the views read from a running daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from curb.config.file import CurbConfig
from curb.detector.shard import Shard
from curb.stream.clock import Clock
from curb.stream.log.protocol import Log
from curb.stream.records.reconciliation import Reconciliation
from curb.views.alerts_and_actions import LogView
from curb.views.forecast_runner import ForecastRunner
from curb.views.recent_burn import RecentBurn
from curb.views.unit_view import UnitView
from curb.wiring import Connectors


class Running(Protocol):
    """A daemon that is open. Readers change nothing; a command is a record that they append to the log."""

    @property
    def config(self) -> CurbConfig: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def log(self) -> Log: ...
    @property
    def view(self) -> LogView: ...
    @property
    def connectors(self) -> Connectors: ...
    @property
    def units(self) -> UnitView: ...
    @property
    def forecasts(self) -> ForecastRunner: ...
    @property
    def recent(self) -> RecentBurn: ...

    def shards(self) -> Sequence[Shard]:
        """The detector's shards that this process owns."""

    def reconciliations(self) -> Sequence[Reconciliation]:
        """The state of each pair of sources that this process owns."""

    def caught_up(self) -> Mapping[str, bool]:
        """Whether each worker has read once everything that was on the log."""

    def log_problem(self) -> str:
        """Why the log cannot be read or written now; empty while it can."""

    def lag_s(self) -> Mapping[str, float]:
        """Per worker: all that was on the log so many seconds ago has been processed."""

    def action_state(self) -> Mapping[str, Any]:
        """Leases, proposals, problems and the kill switch, as plain data."""
