"""Real stores for bills, started by the tests: S3 by MinIO and ministack, Azure's blobs by Azurite."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.ports import free_port
from tests.require import require

#: Seconds until a store must answer. By hand: each took less than 10 s on two busy cores.
_UP_S = 120
USER, PASSWORD = "curb-tests", "curb-tests-secret"
#: The account that every Azurite has, and its key, which is printed in its documentation.
ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: Delivers a bill with a function that writes a file, and reads it from a place, given a connector's `storage`.
Follow = Callable[[Path, Callable[[str, bytes], Any], str, dict[str, Any]], Awaitable[None]]


class Program(NamedTuple):
    """How a store is started at a port and a directory."""

    variable: str
    name: str
    options: tuple[str, ...]
    #: `{port}` is filled in.
    environment: dict[str, str]


PROGRAMS = {
    "minio": Program(
        "CURB_TEST_MINIO",
        "minio",
        ("server", "--quiet", "--address", "127.0.0.1:{port}", "data"),
        {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off"},
    ),
    "ministack": Program("CURB_TEST_MINISTACK", "ministack", (), {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": "{port}"}),
    "azurite": Program(
        "CURB_TEST_AZURITE",
        "azurite-blob",
        ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobPort", "{port}"),
        {},
    ),
}


def program(name: str) -> str:
    """The path of a store's program; skips where there is none."""
    of = PROGRAMS[name]
    found = shutil.which(os.environ.get(of.variable) or of.name)
    if found is None:
        require(name, f"no {of.name}: set {of.variable}=/path/to/{of.name}, or run `python -m tests.real -k {name}`")
    if name == "azurite" and importlib.util.find_spec("adlfs") is None:
        require(name, "no adlfs to reach it with: install the package")
    return found


@contextlib.asynccontextmanager
async def running(name: str, directory: Path) -> AsyncIterator[str]:
    """The address of a store that has nothing in it."""
    of, port, found = PROGRAMS[name], str(free_port()), program(name)
    options = [option.format(port=port) for option in of.options]
    env = os.environ | {key: value.format(port=port) for key, value in of.environment.items()}
    url = f"http://127.0.0.1:{port}"
    with (directory / f"{name}.log").open("wb") as output:
        given: Any = {"stdout": output, "stderr": output, "cwd": directory, "env": env}
        process = await asyncio.create_subprocess_exec(found, *options, **given)
    try:
        async with asyncio.timeout(_UP_S), aiohttp.ClientSession() as http:
            while not await _answers(http, url):
                assert process.returncode is None, (directory / f"{name}.log").read_text(errors="replace")[-500:]
                await asyncio.sleep(0.1)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            process.terminate()
        await process.wait()


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as answer:
            return answer.status < 500
    except aiohttp.ClientError:
        return False


def s3_storage(url: str, secret: str = PASSWORD) -> dict[str, Any]:
    """What a connector's `storage` holds for an S3 store."""
    return {"endpoint_url": url, "access_key_id": USER, "secret_access_key": secret, "region": "us-east-1"}


def s3_client(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": USER, "aws_secret_access_key": PASSWORD}
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)


async def follow_on_s3(name: str, directory: Path, follow: Follow) -> None:
    """A bill in the bucket `bill` of a new store."""
    async with running(name, directory) as url:
        client = s3_client(url)
        client.create_bucket(Bucket="bill")

        def put(key: str, content: bytes) -> None:
            client.put_object(Bucket="bill", Key=key, Body=content)

        await follow(directory, put, "s3://bill", s3_storage(url))


def azure_storage(url: str, key: str = _KEY) -> dict[str, Any]:
    """The same for Azurite."""
    place = f"BlobEndpoint={url}/{ACCOUNT};"
    known = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};{place}"
    return {"options": {"account_name": ACCOUNT, "connection_string": known}}
