"""Sends the report of each week or month, once: what was sent is on the log before the first channel gets it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from curb.config.file import CurbConfig
from curb.report.figures import make_report
from curb.report.letter import send_report
from curb.report.span import ReportSpan, span_of
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import STATE
from curb.stream.time import HOUR_S

T = TypeVar("T")

logger = logging.getLogger(__name__)
#: How the keys of what was sent begin, on the topic of state.
PREFIX = b"report/"
#: Seconds between two looks at the clock. By hand: a report is of days.
_LOOK_S = 60.0


class ReportRunner:
    """The scheduled report of one daemon. Only the process whose actions are active sends.

    A crash between the record and the last channel loses that report; two of them would be worse, and
    `curb report --send` sends it again.
    """

    def __init__(self, config: CurbConfig, log: Log, clock: Clock, is_active: Callable[[], bool]) -> None:
        settings = config.report
        self._config, self._settings, self._log, self._clock = config, settings, log, clock
        self._is_active = is_active
        self._zone = ZoneInfo(config.detector.time_zone)
        what = "\0".join([str(settings.schedule), *settings.by, "", *settings.notify])
        #: Of this report: another schedule, other tags or channels are another one.
        self.key = PREFIX + hashlib.sha256(what.encode()).hexdigest()[:16].encode()

    async def run(self, stop: asyncio.Event) -> None:
        """Look at the clock until `stop`."""
        stopped = asyncio.create_task(stop.wait())
        try:
            while self._settings.schedule is not None and not stopped.done():
                try:
                    await self.look()
                except (TransientError, PermanentError) as error:
                    logger.warning("the report is looked at later", extra={"error": str(error)})
                pause = asyncio.create_task(self._clock.sleep(_LOOK_S))
                await asyncio.wait([stopped, pause], return_when=asyncio.FIRST_COMPLETED)
                pause.cancel()
            await stopped
        finally:
            stopped.cancel()

    async def look(self) -> bool:
        """Send the report that is due, if there is one; True where it was tried. Raises TransientError."""
        if self._settings.schedule is None or not self._is_active():
            return False
        late_s = self._settings.after_hours * HOUR_S
        due = span_of(self._settings.schedule, None, None, self._clock.now() - late_s, self._zone)
        day = str(due.first_day).encode()
        sent = (await self._log.table(STATE)).get(self.key)
        if sent is not None and sent >= day:
            return False
        await self._log.append([Message(STATE, day, key=self.key)])
        if sent is None:
            # The first start: what ended before Curb was asked is not reported.
            logger.info("the first report is that of the next period", extra={"schedule": self._settings.schedule})
            return False
        await self._send(due)
        return True

    async def _send(self, span: ReportSpan) -> None:
        by, money = list(self._settings.by), self._settings.money
        made, _ = await apart(lambda: make_report(self._config, span, by, [], money, lines=False))
        channels = {each.name: each for each in self._config.actions.notifiers}
        failed = await send_report(made, [channels[name] for name in self._settings.notify], self._clock)
        for name in self._settings.notify:
            if name in failed:
                logger.error("the report was not sent", extra={"notifier": name, "error": failed[name]})
            else:
                logger.info("the report was sent", extra={"notifier": name, "of": str(span)})


async def apart(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of `work` on a loop of its own: it reads the whole log, and the daemon's loop goes on meanwhile.

    The end of the process does not wait for it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def give(set_it: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            set_it(value)

    def run() -> None:
        try:
            result = asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 (it is raised where it is awaited)
            loop.call_soon_threadsafe(give, done.set_exception, error)
        else:
            loop.call_soon_threadsafe(give, done.set_result, result)

    threading.Thread(target=run, name="report", daemon=True).start()
    return await done
