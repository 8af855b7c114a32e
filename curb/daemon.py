"""The process as an object: open → run → drain → close."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

import aiohttp

from curb import wiring
from curb.config.file import CurbConfig, EmbeddedSettings
from curb.detector.reconcile.reconciler import Reconciler
from curb.detector.shard import Shard
from curb.report.runner import ReportRunner
from curb.row_grid import RowGrid
from curb.serve import slack_people
from curb.serve.api import make_app
from curb.serve.connections import Patience
from curb.serve.port import Place, Port
from curb.stream.clock import Clock, WallClock
from curb.stream.errors import TransientError
from curb.stream.log.codec import encode
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import ALERTS
from curb.stream.records.reconciliation import Reconciliation
from curb.stream.records.spend import Alert
from curb.views.alerts_and_actions import LogView
from curb.views.bill_forecasts import BillForecasts
from curb.views.explain_chart import IncidentChart
from curb.views.explanation import BudgetLine
from curb.views.forecast_runner import ForecastRunner
from curb.views.recent_burn import RecentBurn
from curb.views.unit_view import UnitView

logger = logging.getLogger(__name__)

#: How long draining may take before what is left is cancelled; positions are safe either way.
_DRAIN_S = 20.0
_PRUNE_EVERY_S = 3600.0
#: How often the rows that came are looked at. By hand: the shortest period of rows is a minute.
_LOOK_EVERY_S = 1.0
#: Seconds until clean-up is tried again after a fault. By hand: a backup takes minutes.
_PRUNE_AGAIN_S = 60.0
_USER_AGENT = "curb"


class Daemon:
    """Connectors, rollup, detector, actions and the HTTP port over one log.

    `run` ends when `stop` is called or a part fails; a failure of a part is raised after the others were drained.
    """

    def __init__(self, config: CurbConfig, clock: Clock | None = None, *, view: LogView | None = None) -> None:
        self.config = config
        self.clock: Clock = clock or WallClock()
        self.view = view or LogView()
        self.port = config.http.port
        self.started_at = time.time()
        self.log: Log = wiring.make_log(config, self.clock)
        self._stop = asyncio.Event()
        self._stop_sources = asyncio.Event()
        self._stop_rooms, self._stop_judges = asyncio.Event(), asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.http: aiohttp.ClientSession | None = None
        detector = config.detector
        self.forecasts = ForecastRunner(
            detector,
            detector.forecast,
            self.shards,
            self._publish,
            self.clock,
            lambda: list(self.view.alerts.values()),
            BillForecasts(self.log, detector),
        )
        self._port: Port | None = None
        self.slack = slack_people.Doors()

    async def open(self) -> None:
        """Open the log and the HTTP port. Raises what makes running impossible."""
        await self.log.open()
        timeout = aiohttp.ClientTimeout(total=30, connect=10)
        self.http = aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": _USER_AGENT})
        self.connectors = wiring.make_connectors(self.config, self.log, self.clock, self.http)
        await self.connectors.attribution.open(self.log)
        self._rows = RowGrid(self.config, self.log)
        await self._rows.open()
        self._make_judges()
        self.reconciler = (
            wiring.make_reconciler(self.config, self.log, self.clock) if self.config.reconcile.pairs else None
        )
        self.units = UnitView(wiring.make_recent_units(self.config))
        self.recent = RecentBurn(self.shards, self.clock)
        self._chart = IncidentChart(self.log, self.recent, self.config.detector)
        self.actions = wiring.make_actions(self.config, self.log, self.clock, self.http, self.chart)
        self.slack = slack_people.make_doors(self.config, self.view, self.log, self.clock, self.http)
        self._reports = ReportRunner(self.config, self.log, self.clock, lambda: self.actions.is_up_to_date)
        http = self.config.http
        patience = Patience(http.head_timeout_s, http.body_timeout_s)
        place = Place(http.host, http.port, http.max_connections, patience, "healthz" in http.open_paths)
        self._port = Port(make_app(self, self.slack), place)
        await self._port.open()
        self.port = self._port.number
        logger.info("listening", extra={"host": self.config.http.host, "port": self.port})

    async def run(self) -> None:
        """Run every part until `stop` is called or one of them fails, then drain."""
        for runner in self.connectors.runners:
            self._start(f"connector {runner.name}", runner.run(self._stop_sources))
        self._start("rollup and detector", self._judge())
        if not isinstance(self.log, EmbeddedLog):
            self._start("grid", self._rows.follow(f"curb-grid-{self.config.instance}", self._stop_rooms))
        self._start("unit costs", self.units.follow(self.log, f"curb-units-{self.config.instance}", self._stop_rooms))
        if self.reconciler is not None:
            self._start("reconciler", self.reconciler.run(self._stop_rooms))
        self._start("forecasts", self.forecasts.run(self._stop_rooms))
        self._start("recent burn", self.recent.follow(self._stop_rooms))
        self._start("actions", self.actions.run(self._stop_rooms))
        self._start("report", self._reports.run(self._stop_rooms))
        for name, socket in self.slack.sockets.items():
            self._start(f"slack {name}", socket.run(self._stop_rooms))
        self._start("view", self.view.follow(self.log, f"curb-view-{self.config.instance}", self._stop_rooms))
        if isinstance(self.log, EmbeddedLog) and isinstance(self.config.log, EmbeddedSettings):
            self._start("retention", self._prune(self.log, self.config.log.retention_days * 86400))
        if self._port is not None:
            self._start("http port", self._port.serve())
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopped, *self._tasks.values()], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        await self.drain()

    def _make_judges(self) -> None:
        config = self._rows.config
        self.rollup = wiring.make_rollup(config, self.log, self.clock)
        self.detector = wiring.make_detector(config, self.log, self.clock)

    async def _judge(self) -> None:
        """Run rollup and detector; they are made again, with all that is on the log, where other buckets fit."""
        again = True
        while again:
            parts = [asyncio.create_task(each.run(self._stop_judges)) for each in (self.rollup, self.detector)]
            looking = asyncio.create_task(self._look_at_rows())
            try:
                await asyncio.wait([*parts, looking], return_when=asyncio.FIRST_COMPLETED)
                again = looking.done() and not looking.cancelled() and looking.result()
                self._stop_judges.set()
                await asyncio.wait(parts)
                for part in parts:
                    part.result()
            finally:
                for task in (*parts, looking):
                    task.cancel()
            if again and not self._stop_rooms.is_set():
                self._stop_judges.clear()
                self._make_judges()
            else:
                return

    async def _look_at_rows(self) -> bool:
        """True as soon as other buckets fit the rows; False at the end."""
        while not self._stop_judges.is_set():
            try:
                if await self._rows.look(self.rollup.states, alone=self.rollup.owns_all):
                    self._rows.take()
                    return True
            except TransientError as error:  # a backup holds the lock, or Kafka is away
                logger.warning("buckets are fitted to the rows later", extra={"error": str(error)})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_judges.wait(), _LOOK_EVERY_S)
        return False

    def stop(self) -> None:
        """Ask `run` to drain and return; safe to call more than once and from a signal handler."""
        self._stop.set()

    async def drain(self) -> None:
        """Stop intake, then let every part commit its progress. Raises the first part's failure."""
        logger.info("draining")
        self._stop.set()
        if self._port is not None:
            await self._port.close()
        self._stop_sources.set()
        await self._finish([name for name in self._tasks if name.startswith("connector ")])
        self._stop_rooms.set()
        self._stop_judges.set()
        await self._finish(list(self._tasks))

    async def close(self) -> None:
        """Release what `open` took, also when it failed half way."""
        if self._port is not None:
            await self._port.close()
        self.slack.close()
        await self.forecasts.close()
        if self.http is not None:
            await self.http.close()
        await self.log.close()

    def shards(self) -> list[Shard]:
        """The detector's shards this process owns, for reading."""
        return [state for state in self.detector.states.values() if isinstance(state, Shard)]

    def reconciliations(self) -> list[Reconciliation]:
        """How the pairs that this process owns stand."""
        states = self.reconciler.states.values() if self.reconciler is not None else ()
        return [summary for state in states if isinstance(state, Reconciler) for summary in state.summaries()]

    async def chart(self, alert_id: str) -> bytes | None:
        """The picture of an incident (PNG), with the budgets as they stand; None where there is nothing to draw."""
        budgets = [BudgetLine(tags, budget) for shard in self.shards() for tags, budget in shard.budgets()]
        return await self._chart(alert_id, budgets)

    def caught_up(self) -> dict[str, bool]:
        """Whether each worker has read once everything that was on the log."""
        return {"rollup": self.rollup.caught_up, "detector": self.detector.caught_up}

    def log_problem(self) -> str:
        """Why the log cannot be read or written now, such as a full disk; empty while it can."""
        return self.rollup.problem or self.detector.problem or self.actions.problem

    def lag_s(self) -> dict[str, float]:
        """Per worker: all that was on the log so many seconds ago has been processed."""
        return {"rollup": self.rollup.lag_s, "detector": self.detector.lag_s}

    def action_state(self) -> dict[str, Any]:
        """Leases, proposals, problems and the kill switch, as plain data."""
        return self.actions.view()

    async def _publish(self, alert: Alert) -> None:
        await self.log.append([Message(ALERTS, encode(alert), key=alert.fingerprint.encode())])

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[name] = asyncio.create_task(work, name=name)

    async def _finish(self, names: list[str]) -> None:
        tasks = {name: self._tasks.pop(name) for name in names}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks.values(), timeout=_DRAIN_S)
        for task in late:
            logger.warning("did not drain in time", extra={"part": task.get_name()})
            task.cancel()
        results = await asyncio.gather(*tasks.values(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _prune(self, log: EmbeddedLog, retention_s: float) -> None:
        while not self._stop_rooms.is_set():
            wait_s = _PRUNE_EVERY_S
            try:
                if not await log.keep_spare():
                    logger.warning("the disk is nearly full: no room for the spare file that leases need on a full one")
                if not self.config.reconcile.pairs:  # its old position must not keep messages from being deleted
                    await log.forget(wiring.RECONCILE_GROUP)
                deleted = await log.prune(self.clock.now() - retention_s)
                if deleted:
                    logger.info("old messages deleted", extra={"messages": deleted})
            except TransientError as error:  # a backup holds the lock, or the disk is full
                wait_s = _PRUNE_AGAIN_S
                logger.warning("old messages are deleted later", extra={"error": str(error), "wait_s": wait_s})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop_rooms.wait(), wait_s)
