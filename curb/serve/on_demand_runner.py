"""Work for a page that is too slow for a request: done when somebody looks and it is old, never twice at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError

logger = logging.getLogger(__name__)


class OnDemand:
    """Runs `work` in the background. What it brings is kept by the work itself; how it went is here."""

    def __init__(self, what: str, work: Callable[[], Awaitable[None]], every_s: float, clock: Clock) -> None:
        """`every_s` is how old (seconds) a result, or a failure, may be before it is done again."""
        self._what, self._work, self._every_s, self._clock = what, work, every_s, clock
        self._task: asyncio.Task[None] | None = None
        self._ended_at: float | None = None
        #: When it was last done, epoch seconds; None before the first time.
        self.done_at: float | None = None
        #: Why it failed the last time; "" where it did not.
        self.problem = ""

    @property
    def is_running(self) -> bool:
        """True while it is done."""
        return self._task is not None and not self._task.done()

    def want(self) -> None:
        """Somebody looks: begin, where it is old and nobody has begun."""
        is_old = self._ended_at is None or self._clock.now() >= self._ended_at + self._every_s
        if is_old and not self.is_running:
            self._task = asyncio.create_task(self._run(), name=self._what)

    async def wait(self) -> None:
        """Until it is done, for tests."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        try:
            await self._work()
            self.problem, self.done_at = "", self._clock.now()
        except (TransientError, PermanentError) as error:
            self.problem = str(error)
            logger.warning("not read", extra={"what": self._what, "error": str(error)})
        except Exception as error:
            # A defect here must not take a page with it, nor be lost.
            self.problem = f"{type(error).__name__}; see the log of the daemon"
            logger.exception("not read", extra={"what": self._what})
        finally:
            self._ended_at = self._clock.now()

    async def close(self) -> None:
        """Stop what runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
