"""What stores answer to Curb when it reads a bill: listed, read, listed again, and refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from curb.stream.errors import PermanentError
from tests.answers import Exchange, Stories
from tests.fakes import focus_file as focus
from tests.fakes.bill_reader import BillReader
from tests.real import stores
from tests.real.capture.recorder import Recorder

#: 1 June 2025, when the bill begins.
JUNE = 1_748_736_000.0
FILES = {"focus/june.csv": focus.csv_text([focus.line(JUNE, 1.5), focus.line(JUNE + 3600, 2.25)]), "focus/readme": b"-"}


async def capture_s3(name: str, directory: Path) -> tuple[str, Stories]:
    """From MinIO or ministack."""
    async with stores.running(name, directory) as server:
        client = stores.s3_client(server)
        client.create_bucket(Bucket="bill")
        for key, content in FILES.items():
            client.put_object(Bucket="bill", Key=key, Body=content)
        recorder = Recorder(server)
        async with recorder.serve() as url:
            await _stories(recorder, "s3://bill/focus", "s3://nobody/focus", partial(stores.s3_storage, url), directory)
            if name == "minio":  # the other one lets everybody in
                other = BillReader(
                    "focus_file", "s3://bill/focus", stores.s3_storage(url, "x" * 20), directory / "other"
                )
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
            await _stories(
                recorder, "az://bill/focus", "az://nobody/focus", partial(stores.azure_storage, url), directory
            )
            other = BillReader("focus_file", "az://bill/focus", stores.azure_storage(url, "eHh4"), directory / "other")
            await recorder.story("refused", other.all, PermanentError)
            await other.close()
        shown = {"info bill/focus/june.csv": blobs.info("bill/focus/june.csv")}
        shown["find bill/focus"] = blobs.find("bill/focus", detail=True)
        recorder.stories["adlfs"] = [_shown(call, found) for call, found in shown.items()]
    return _version("azurite"), recorder.done()


def _shown(call: str, found: Any) -> Exchange:
    """What adlfs makes of the answers, for it is not among the packages with which the tests run everywhere."""
    body = json.loads(json.dumps(found, default=lambda each: getattr(each, "isoformat", type(each).__name__.lower)()))
    return Exchange(call, None, 200, {"Content-Type": "application/json"}, body)


async def _stories(
    recorder: Recorder, place: str, no_place: str, storage: Callable[[], dict[str, Any]], directory: Path
) -> None:
    bill = BillReader("focus_file", place, storage(), directory / "bill")
    assert await recorder.story("read", bill.all) == [1.5, 2.25]
    await recorder.story("read_again", bill.all)
    await bill.close()
    nothing = BillReader("focus_file", no_place, storage(), directory / "nothing")
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
