"""A real Alertmanager of the tests' own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from curb.actions.action import ActionContext
from curb.actions.notify.alertmanager_alerts import Alertmanager, Config
from curb.stream.clock import WallClock
from tests.ports import free_port
from tests.require import require

CONFIG = "route: {receiver: none}\nreceivers: [{name: none}]\n"


def find_binary() -> str:
    named = os.environ.get("CURB_TEST_ALERTMANAGER", "")
    found = shutil.which(named or "alertmanager") or shutil.which("prometheus-alertmanager")
    if found is None:
        require("alertmanager", "no server: set CURB_TEST_ALERTMANAGER=/path/to/alertmanager, or install it")
    return found


@contextlib.asynccontextmanager
async def running(binary: str, directory: Path) -> AsyncIterator[str]:
    """The address of a server."""
    address = f"127.0.0.1:{free_port()}"
    (directory / "am.yml").write_text(CONFIG)
    arguments = [f"--config.file={directory / 'am.yml'}", f"--storage.path={directory / 'data'}"]
    arguments += [f"--web.listen-address={address}", "--cluster.listen-address="]
    with (directory / "am.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(binary, *arguments, stdout=output, stderr=output, cwd=directory)
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://{address}/-/ready") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


def notifier(http: aiohttp.ClientSession, *urls: str) -> Alertmanager:
    config = Config.model_validate({"kind": "alertmanager", "name": "am", "urls": urls, "timeout_s": 5})
    return config.build(ActionContext(WallClock(), http))
