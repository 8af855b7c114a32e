"""`curb reaper`: ends overdue leases until a signal, or once; needs the log and the gateways, not the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import Annotated

import aiohttp
import typer
from rich.console import Console

from curb import wiring
from curb.actions.lifecycle.reaper import Reaper
from curb.cli.actions import DryRunOption, would_restore
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load
from curb.config.file import CurbConfig
from curb.logs import setup
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.log.protocol import Log
from curb.stream.records.spend import LedgerEntry

console = Console()
logger = logging.getLogger(__name__)


def reaper(
    config: ConfigOption = DEFAULT_CONFIG,
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two checks of the ledger.")] = 30.0,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds to wait after a lease; a running daemon is faster."),
    ] = 120.0,
    once: Annotated[
        bool, typer.Option("--once", help="Check once, for cron; exit code 1 when a lease is still overdue.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Restore limits at the end of their lease, also while the daemon is dead. It never sets a limit of its own.

    Run it beside the daemon, with the same configuration, where the same fault does not stop both. It needs the log
    and the gateways. With --dry-run it checks once and lists overdue leases; exit code 1 when there is one.
    """
    loaded = load(config)
    if dry_run:
        found = ask(overdue(loaded, grace_s=grace))
        for entry in found:
            console.print(would_restore(entry), soft_wrap=True)
        raise typer.Exit(1 if found else 0)
    setup(loaded.logging.level, loaded.logging.format)
    raise typer.Exit(asyncio.run(run_reaper(loaded, every_s=every, grace_s=grace, once=once)))


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
