"""What stores answer to Curb when it reads a bill: listed, read, listed again, and refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp

from curb.connectors.bills import focus_file
from curb.connectors.connector import Context
from curb.connectors.intake.runner import PullRunner
from curb.connectors.pricing.book import PriceBook
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from tests.answers import Stories
from tests.fakes import focus_file as focus
from tests.fakes.memory_log import MemoryLog
from tests.real import stores
from tests.real.capture.recorder import Recorder

#: 1 June 2025, when the bill begins.
JUNE = 1_748_736_000.0
FILES = {"focus/june.csv": focus.csv_text([focus.line(JUNE, 1.5), focus.line(JUNE + 3600, 2.25)]), "focus/readme": b"-"}


class Reading:
    """A connector of FOCUS files whose progress is kept, and what it has told."""

    def __init__(self, url: str, storage: dict[str, Any], state: Path) -> None:
        config = {"kind": "focus_file", "name": "bill", "url": url, "storage": storage}
        context = Context(WallClock(), cast(aiohttp.ClientSession, None), PriceBook.load(), state)
        self.connector = focus_file.Config.model_validate(config).build(context).connector
        self.log = MemoryLog()
        self._runner = PullRunner(self.connector, "bill", self.log, WallClock())

    async def all(self) -> None:
        while await self._runner.step():
            pass

    async def close(self) -> None:
        await self.connector.close()


async def capture_s3(name: str, directory: Path) -> tuple[str, Stories]:
    """From MinIO or ministack."""
    async with stores.running(name, directory) as server:
        client = stores.s3_client(server)
        client.create_bucket(Bucket="bill")
        for key, content in FILES.items():
            client.put_object(Bucket="bill", Key=key, Body=content)
        recorder = Recorder(server)
        async with recorder.serve() as url:
            await _tell(recorder, "s3://bill/focus", "s3://nobody/focus", partial(stores.s3_storage, url), directory)
            if name == "minio":  # the other one lets everybody in
                other = Reading("s3://bill/focus", stores.s3_storage(url, "x" * 20), directory / "other")
                await recorder.story("refused", other.all, PermanentError)
                await other.close()
    return _version(name), recorder.done()


async def capture_azurite(directory: Path) -> tuple[str, Stories]:
    """Through adlfs."""
    import fsspec

    async with stores.running("azurite", directory) as server:
        blobs = fsspec.filesystem("az", **stores.azure_storage(server)["options"])
        blobs.mkdir("bill")
        for key, content in FILES.items():
            blobs.pipe_file(f"bill/{key}", content)
        recorder = Recorder(server)
        async with recorder.serve() as url:
            await _tell(recorder, "az://bill/focus", "az://nobody/focus", partial(stores.azure_storage, url), directory)
            other = Reading("az://bill/focus", stores.azure_storage(url, "eHh4"), directory / "other")
            await recorder.story("refused", other.all, PermanentError)
            await other.close()
    return _version("azurite"), recorder.done()


async def _tell(
    recorder: Recorder, place: str, no_place: str, storage: Callable[[], dict[str, Any]], directory: Path
) -> None:
    bill = Reading(place, storage(), directory / "bill")
    await recorder.story("read", bill.all)
    assert len(bill.log.records("curb.costs")) == 2
    await recorder.story("read_again", bill.all)
    await bill.close()
    nothing = Reading(no_place, storage(), directory / "nothing")
    await recorder.story("no_such_place", nothing.all, PermanentError)
    await nothing.close()


def _version(name: str) -> str:
    if name == "ministack":
        interpreter = Path(stores.program(name)).resolve().with_name("python")
        code = "from importlib.metadata import version; print(version('ministack'))"
        return f"ministack {_said([str(interpreter), '-c', code])}"
    if name == "minio":
        return f"MinIO {_said([stores.program(name), '--version']).split()[2]}"
    from importlib.metadata import version

    return f"Azurite {_said([stores.program(name), '--version'])}, adlfs {version('adlfs')}"


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
