"""A real Prometheus for tests: the binary that is named or on the PATH, scraping what the test serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.ports import free_port
from tests.require import require

START_TIMEOUT_S = 60.0
HOW_TO = (
    "no server: set CURB_TEST_PROMETHEUS=/path/to/prometheus, or install it (Debian and Ubuntu: the package prometheus)"
)


def find_binary() -> str:
    """The program. Skips, or fails where CURB_TEST_REQUIRE asks for Prometheus."""
    named = os.environ.get("CURB_TEST_PROMETHEUS", "")
    found = shutil.which(named or "prometheus")
    if found is None:
        require("prometheus", f"{named} is no program" if named else HOW_TO)
    return found


@contextlib.asynccontextmanager
async def running(binary: str, config: str, directory: Path) -> AsyncIterator[str]:
    """The address of a server with this configuration; its data lies in `directory`."""
    address = f"127.0.0.1:{free_port()}"
    file, log = directory / "prometheus.yml", directory / "prometheus.log"
    file.write_text(config, encoding="utf-8")
    arguments = [
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(binary, *arguments, stdout=output, stderr=output, cwd=directory)
    try:
        await _until_ready(f"http://{address}/-/ready", process, log)
        yield f"http://{address}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as http:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise AssertionError(f"Prometheus did not start: {log.read_text()[-3000:]}")
