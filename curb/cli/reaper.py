"""`curb reaper`: ends overdue leases until a signal, or once; needs the log and the gateways, not the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import aiohttp

from curb import wiring
from curb.actions.lifecycle.reaper import Reaper
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.records.spend import LedgerEntry

logger = logging.getLogger(__name__)


async def overdue(config: CurbConfig, *, grace_s: float) -> list[LedgerEntry]:
    """The newest entry of each lease that should have ended by now; only the log is read, and nothing is written."""
    clock = WallClock()
    async with wiring.open_log(config, clock) as log:
        return await Reaper(log, clock, {}, grace_s=grace_s).overdue()


async def run_reaper(config: CurbConfig, *, every_s: float, grace_s: float, once: bool) -> int:
    """Run one pass, or one every `every_s` seconds until SIGTERM or SIGINT.

    Once: 0 when nothing is overdue any more, 1 otherwise. Until a signal: 0, or 1 when going on is of no use.
    """
    clock = WallClock()
    log = wiring.make_log(config, clock)
    try:
        async with aiohttp.ClientSession(headers={"User-Agent": "curb-reaper"}) as http:
            reaper = Reaper(log, clock, wiring.make_action_map(config, clock, http), grace_s=grace_s)
            return await _single(log, reaper) if once else await _until_signal(log, reaper, every_s)
    except (PermanentError, TransientError, OSError) as error:
        logger.error("stopped", extra={"error": str(error)})
        return 1
    finally:
        await log.close()


async def _single(log: Log, reaper: Reaper) -> int:
    await log.open()
    left = await reaper.once()
    if left:
        logger.error("leases are overdue", extra={"action_ids": left})
    return 1 if left else 0


async def _until_signal(log: Log, reaper: Reaper, every_s: float) -> int:
    """Wait for an unreachable log or gateway. A started pass is finished before it returns."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    logger.info("reaper is watching", extra={"every_s": every_s})
    is_open = False
    while not stop.is_set():
        try:
            if not is_open:
                await log.open()
                is_open = True
            await reaper.once()
        except TransientError as error:
            logger.warning("log out of reach", extra={"error": str(error)})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), every_s)
    logger.info("stopped")
    return 0
