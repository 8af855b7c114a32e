"""Forecasts and the slow lane of the daemon: due fits go to the pool, results are kept for people."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Protocol

import numpy as np

from curb.detector.forecast.month_end import MEDIAN_FROM_DAYS, Forecast, forecast
from curb.detector.forecast.pool import FitFailedError, ForecastPool, urgency
from curb.detector.forecast.prophet import advice, missing
from curb.detector.forecast.slow_lane import CHANNEL, Band, BandSeries, SlowLane, fit_band, key_of, plan
from curb.detector.forecast.spend_history import SpendHistory
from curb.detector.settings import DetectorSettings, ForecastSettings
from curb.stream.clock import Clock
from curb.stream.errors import TransientError
from curb.stream.records.spend import Alert
from curb.stream.time import HOUR_S, iso
from curb.views.bill_forecasts import BillForecasts
from curb.views.forecast import Question, SeriesDays, billed_scopes, questions, row

logger = logging.getLogger(__name__)

_LOOK_S = 60.0
#: Forecasts kept; one per question and day.
_KEEP = 10_000
#: Seconds until a failed fit is tried again.
_RETRY_S = 3600.0
#: Series read before other tasks get a turn on the event loop.
_SLICE = 100
#: Seconds. A shard that is further behind has a backlog: advice on its hours would be too late.
_BEHIND_S = 3 * 3600


class HasHistory(Protocol):
    """A shard, as far as forecasts need it: its history, and scope and tags of a series."""

    history: SpendHistory

    def subject(self, i: int) -> tuple[str, dict[str, str]]: ...


class ForecastRunner:
    """Runs beside the detector on the same event loop and only reads it. Fits run in other processes."""

    def __init__(
        self,
        detector: DetectorSettings,
        settings: ForecastSettings,
        holders: Callable[[], Iterable[HasHistory]],
        publish: Callable[[Alert], Awaitable[None]],
        clock: Clock,
        alerts: Callable[[], Iterable[Alert]] = tuple,
        bills: BillForecasts | None = None,
    ) -> None:
        """`holders` gives the shards of this process; `publish` appends an alert to the log; `alerts` gives the newest
        revisions of all alerts, of which findings from before a restart are continued; `bills` has the days of bills,
        which no shard keeps."""
        self._detector, self._settings = detector, settings
        self._holders, self._publish, self._clock, self._alerts = holders, publish, clock, alerts
        self._bills = bills
        self._pool = ForecastPool(settings.pool)
        self.lane = SlowLane(settings.lane, detector.time_zone)
        self._bands: dict[str, Band] = {}
        #: By question: the last midnight of event time it was made for, and the forecast made then.
        self._made: dict[str, tuple[int, Forecast]] = {}
        #: Fits that are not queued before a time: running ones, and failed ones.
        self._blocked_until: dict[str, float] = {}
        #: The hour up to which each series was judged.
        self._judged: dict[str, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Look for due work every minute, until `stop`."""
        if gone := missing():
            logger.warning("forecasts are plainer", extra={"why": advice(gone)})
        while not stop.is_set():
            try:
                await self.look()
            except TransientError as error:
                logger.warning("findings of the slow lane wait", extra={"error": str(error)})
            try:
                await asyncio.wait_for(stop.wait(), _LOOK_S)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """End the worker processes."""
        await self._pool.aclose()

    async def look(self) -> None:
        """Judge closed hours, then queue the bands and forecasts that are due."""
        for holder in list(self._holders()):
            if self._settings.lane.enabled and self._clock.now() - holder.history.end < _BEHIND_S:
                await self._judge(holder)
            for question in await self._questions(holder):
                self._queue_forecast(question)
        if self._settings.lane.enabled:
            self._queue_bands()

    async def report(self, scope: str, limit: int) -> dict[str, Any]:
        """The response of /v1/forecast: known forecasts of the series of `scope` that spend most."""
        if self._bills is not None and scope in self._bills.scopes:
            asked, known_until = await self._bills.questions(scope, limit)
            made = [row(each, await asyncio.to_thread(each.answer, thorough=False)) for each in asked]
            return {"scope": scope, "at": known_until, "rows": made}
        holders = list(self._holders())
        found = [each for holder in holders for each in await self._questions(holder) if each.series.scope == scope]
        found.sort(key=lambda question: -question.series.recent_usd)
        rows = [row(question, await self._forecast(question)) for question in found[:limit]]
        ends = [holder.history.end for holder in holders if holder.history.end]
        return {"scope": scope, "at": iso(min(ends)) if ends else "", "rows": rows}

    def band(self, scope: str, tags: dict[str, str]) -> Band | None:
        """The hours expected of a series, for charts; None without one."""
        return self._bands.get(key_of(scope, tags))

    # --- forecasts --------------------------------------------------------------------------------------------------

    async def _questions(self, holder: HasHistory) -> list[Question]:
        """Every question on the series of one shard, which keeps no days of bills."""
        history, series = holder.history, []
        for number, i in enumerate(history.held(), 1):
            days = history.daily(i)
            if days is not None:
                series.append(SeriesDays(*holder.subject(i), days, history.today(i)))
            if number % _SLICE == 0:
                await asyncio.sleep(0)
        # Midnight may have passed in between; sums need the same days.
        newest = max((each.days.end_day for each in series), default=0)
        series = [each for each in series if each.days.end_day == newest]
        billed = billed_scopes(self._detector)
        scopes = dict.fromkeys(each.scope for each in series if each.scope not in billed)
        return [each for scope in scopes for each in questions(series, self._detector, history.end, scope)]

    async def _forecast(self, question: Question) -> Forecast:
        made = self._made.get(question.key)
        if made is not None and made[0] == question.series.days.end_day:
            in_period = made[1].next_day == question.series.days.end_day
            return made[1].during(question.series.today) if in_period else made[1]
        return await asyncio.to_thread(question.answer, thorough=False)

    def _queue_forecast(self, question: Question) -> None:
        """Queue a forecast for the new day, if it needs a fit and has none yet."""
        days, key = question.series.days, question.key
        made = self._made.get(key)
        if len(days.usd) < MEDIAN_FROM_DAYS or (made is not None and made[0] == days.end_day):
            return
        age_s = np.inf if made is None else (days.end_day - made[0]) * 86400.0
        worth = urgency(age_s, question.series.recent_usd / 30)
        self._queue(key, worth, lambda found: self._keep(key, days.end_day, found), forecast, days, question.period)

    def _keep(self, key: str, day: int, found: Forecast) -> None:
        self._made.pop(key, None)
        self._made[key] = (day, found)
        while len(self._made) > _KEEP:
            del self._made[next(iter(self._made))]

    # --- the slow lane ----------------------------------------------------------------------------------------------

    async def _judge(self, holder: HasHistory) -> None:
        """Compare the newest hour that is over with the band of its series."""
        hour = holder.history.open_hour
        findings = [each for each in self._alerts() if each.channel == CHANNEL and each.status == "firing"]
        firing = {key_of(each.scope, each.tags): each for each in findings}
        for i in holder.history.held():
            target = self._target(holder, i)
            spend = holder.history.hourly(i) if self._judged.get(target.key, 0) < hour else None
            if spend is None or not len(spend.usd):
                continue
            self._judged[target.key] = hour
            if target.key in firing:
                self.lane.adopt(target.key, firing[target.key])
            newest = spend.first_hour + (len(spend.usd) - 1) * HOUR_S
            band = self._bands.get(target.key)
            alert = self.lane.judge(target, band, newest, float(spend.usd[-1]), self._clock.now())
            if alert is not None:
                await self._publish(alert)

    def _queue_bands(self) -> None:
        """Queue the fits of the most urgent bands."""
        lane, now, zone = self._settings.lane, self._clock.now(), self._detector.time_zone
        of: dict[str, tuple[SpendHistory, int]] = {}
        targets = []
        for holder in self._holders():
            for i in holder.history.held():
                target = self._target(holder, i)
                of[target.key] = holder.history, i
                targets.append(target)
        for fit in plan(targets, self._bands, now, lane):
            history, i = of[fit.key]
            spend = history.hourly(i)
            if spend is None or int(np.sum(~np.isnan(spend.usd))) < lane.min_history_hours:
                continue
            take = partial(self._bands.__setitem__, fit.key)
            self._queue(f"band/{fit.key}", fit.urgency, take, fit_band, spend, zone, now, lane.min_history_hours)

    def _target(self, holder: HasHistory, i: int) -> BandSeries:
        scope, tags = holder.subject(i)
        return BandSeries(key_of(scope, tags), scope, tags, holder.history.usual_usd(i))

    # --- the pool ---------------------------------------------------------------------------------------------------

    def _queue(
        self, key: str, worth: float, take: Callable[[Any], None], function: Callable[..., Any], *args: Any
    ) -> None:
        """Queue `function(*args)`, then pass the result to `take` on the event loop."""
        if self._blocked_until.get(key, 0.0) > self._clock.now():
            return
        loop = asyncio.get_running_loop()
        self._blocked_until[key] = np.inf

        def done(future: Future[Any]) -> None:
            self._blocked_until.pop(key, None)
            try:
                take(future.result())
            except CancelledError:
                return
            except FitFailedError as error:
                self._blocked_until[key] = self._clock.now() + _RETRY_S
                logger.info("a fit failed", extra={"fit": key, "error": str(error)})

        def hand_over(future: Future[Any]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, future)

        self._pool.submit(key, function, *args, urgency=worth).add_done_callback(hand_over)
