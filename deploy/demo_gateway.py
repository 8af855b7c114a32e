"""The demo's gateway as a service: recorded traffic in real time, limits that bite, and an agent loop after a while."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path

import aiohttp

from curb.demo.gateway import Gateway
from curb.demo.incident import AgentLoop
from curb.demo.trace import Trace
from curb.demo.traffic import drive
from curb.stream.clock import Clock, WallClock

LOOP_HOURS = 2.0


async def serve(options: argparse.Namespace, clock: Clock) -> None:
    """Run until the trace is over, days from now, or until stopped."""
    # The trace begins an hour ago, so that the loop knows what was normal before it.
    started = clock.now()
    trace = Trace.load(options.trace, start=started - 3600)
    loop_start = started + options.loop_after_minutes * 60
    loop = AgentLoop(options.loop_key, loop_start, loop_start + LOOP_HOURS * 3600)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        gateway = Gateway(trace, clock, master_key=os.environ["CURB_GATEWAY_KEY"], http=http)
        gateway.report_to(os.environ["CURB_INGEST_URL"], os.environ["CURB_INGEST_TOKEN"])
        url = await gateway.start(options.host, options.port)
        logging.info("gateway on %s; %s starts to loop in %g minutes", url, loop.key, options.loop_after_minutes)
        try:
            async with asyncio.TaskGroup() as tasks:
                report = tasks.create_task(gateway.run_callback())
                await drive(trace, loop, gateway, clock, start=started, end=trace.end)
                report.cancel()
            await gateway.flush()
        finally:
            await gateway.close()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; secrets come from the environment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", type=Path, default=None, help="directory of the recorded traffic")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4000)
    parser.add_argument("--loop-key", default="support-agent", help="alias of the key that runs away")
    parser.add_argument("--loop-after-minutes", type=float, default=10.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        asyncio.run(serve(parse(), WallClock()))
    except KeyboardInterrupt:
        logging.info("stopped")
