"""Load on a real gateway: callers with a key each at their own pace, a model server behind it, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

START_TIMEOUT_S = 60.0
#: Key → status → answers.
Answers = dict[str, Counter[int]]


@contextlib.asynccontextmanager
async def model_server() -> AsyncIterator[int]:
    """The port of a server that answers 200 to everything."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"choices": [{"message": {"content": "hello"}}]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        assert server.port is not None
        yield server.port


async def load(url: str, per_second: Mapping[str, float], seconds: float) -> Answers:
    """What each key was answered: every caller sends so many requests, evenly spread over `seconds`, and no more."""
    answers: Answers = {key: Counter() for key in per_second}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as http:

        async def one(key: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            body = {"model": "fake-gpt", "messages": [{"role": "user", "content": "again"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body, headers={"x-api-key": key}) as answer:
                await answer.read()
                answers[key][answer.status] += 1

        await asyncio.gather(
            *(one(key, number / rate) for key, rate in per_second.items() for number in range(int(rate * seconds)))
        )
    return answers


def success(answers: Answers, keys: Mapping[str, float]) -> float:
    """The part of the requests of these keys that was answered with 200."""
    every = sum((answers[key] for key in keys), Counter[int]())
    return every[200] / every.total()


def with_values(file: Path, values: Mapping[str, str]) -> str:
    """The text of an example with addresses and paths of this test in place of its own, each of which it must have."""
    text = file.read_text(encoding="utf-8")
    for found, wanted in values.items():
        assert found in text, f"{file.name} has no {found}"
        text = text.replace(found, wanted)
    return text


@contextlib.asynccontextmanager
async def running(
    name: str, command: list[str], ready: str, directory: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that is ready when this address answers anything; it is stopped at the end, if nobody did before."""
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, cwd=directory)
    try:
        await _until_ready(ready, process, log)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _until_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as http:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(url) as answer:
                    if answer.status < 500:
                        return
            await asyncio.sleep(0.1)
    raise AssertionError(f"it did not start: {log.read_text()[-3000:]}")
