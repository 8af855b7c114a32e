"""The port over real sockets: more connections than it may hold, slow clients, no descriptors left."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import random
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from curb.connectors.intake.body import Bodies, BodyRefusedError
from curb.serve import port as port_module
from curb.serve.acceptor import health
from curb.serve.api import guarded
from curb.serve.connections import Patience
from curb.serve.port import Place, Port

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
MOST = 8


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


async def take(request: web.Request) -> web.Response:
    try:
        async with Bodies(timeout_s=0.2).read(request, 100_000) as body:
            return web.Response(body=body)
    except BodyRefusedError as refused:
        return web.Response(status=refused.status, text=refused.detail)


def application() -> web.Application:
    app = web.Application(middlewares=[guarded])
    app.router.add_get("/", hello)
    app.router.add_post("/", take)
    return app


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(application(), Place("127.0.0.1", 0, MOST, Patience(head_s=60.0, body_s=60.0)))
    await port.open()
    yield port
    await port.close()


async def send(port: Port, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
    writer.write(content)
    return reader, writer


async def ask(port: Port, content: bytes = GET) -> bytes:
    """The whole answer."""
    async with asyncio.timeout(20):
        reader, writer = await send(port, content)
        answer = await reader.read()
        writer.close()
        return answer


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_half_open_connections_do_not_keep_others_out(port: Port) -> None:
    before = count("curb_http_connections_closed_total", reason="evicted")
    held = [await send(port, b"GET / HTTP/1.1\r\nX-Half: ") for _ in range(5 * MOST)]
    assert b"hello" in await ask(port)
    async with asyncio.timeout(20):
        # The oldest have given up their places and are answered.
        for reader, _ in held[: 4 * MOST]:
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    assert len(port.connections) <= MOST
    async with asyncio.timeout(20):
        while count("curb_http_connections_closed_total", reason="evicted") < before + 4 * MOST:
            await asyncio.sleep(0.05)
    for _, writer in held:
        writer.close()


async def test_a_body_that_does_not_come_is_answered() -> None:
    port = Port(application(), Place("127.0.0.1", 0, MOST, Patience(head_s=60.0, body_s=0.2)))
    await port.open()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    assert (await ask(port, head % 9 + b"123")).startswith(b"HTTP/1.1 408 ")
    assert (await ask(port, head % 40_000 + b"x" * 35_000)).startswith(b"HTTP/1.1 408 "), "passed on, and then slow"
    assert (await ask(port, head % 9 + b"123456789")).endswith(b"123456789")
    assert (await ask(port, head % 40_000 + b"x" * 40_000)).startswith(b"HTTP/1.1 200 ")
    await port.close()


async def test_requests_come_in_pieces_one_after_the_other_and_expecting_a_word(port: Port) -> None:
    reader, writer = await send(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le")
    await asyncio.sleep(0)
    for piece in (b"ngth: 4\r\n\r\nab", b"cd" + GET[:9], GET[9:]):
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(20):
        answers = await reader.read()
    assert b"abcd" in answers
    assert answers.endswith(b"hello")
    writer.close()
    reader, writer = await send(
        port, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    async with asyncio.timeout(20):
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(b"ok")
        await reader.readuntil(b"\r\n\r\nok")
    writer.close()


async def test_slow_clients_are_swept() -> None:
    port = Port(application(), Place("127.0.0.1", 0, MOST, Patience(head_s=0.01, body_s=60.0)))
    await port.open()
    assert (await ask(port, b"GET / HTTP")).startswith(b"HTTP/1.1 408 ")
    assert await ask(port, b"") == b""
    assert b"hello" in await ask(port)
    await port.close()


@contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    """Nothing can be opened in that process until the block ends."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # The lowest free number is the limit.
    taken = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
    lowest = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
async def test_without_a_descriptor_clients_are_refused_and_do_not_wait(port: Port) -> None:
    before = count("curb_http_accept_errors_total")
    assert b"hello" in await ask(port)
    assert port.acceptor_pid is not None
    with no_descriptor_left(port.acceptor_pid):
        opened = [await asyncio.open_connection("127.0.0.1", port.number) for _ in range(5)]
        async with asyncio.timeout(20):
            answers = [await reader.read() for reader, _ in opened]
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in answer for answer in answers)
    for _, writer in opened:
        writer.close()
    assert b"hello" in await ask(port)
    async with asyncio.timeout(20):
        while count("curb_http_accept_errors_total") < before + len(opened):
            await asyncio.sleep(0.05)


def ask_health(number: int, method: str = "GET") -> tuple[int, dict[str, Any]]:
    """The answer, while this thread, and so the port's loop, waits for it."""
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=20)
    connection.request(method, "/healthz?x=1")
    answer = connection.getresponse()
    read = answer.read()
    connection.close()
    return answer.status, json.loads(read) if read else {}


async def test_health_is_answered_while_the_loop_stands_still_and_says_for_how_long() -> None:
    port = Port(application(), Place("127.0.0.1", 0, MOST, Patience(60.0, 60.0), open_health=True))
    await port.open()
    assert b"hello" in await ask(port)
    assert ask_health(port.number, "HEAD") == (200, {})
    held = [socket.create_connection(("127.0.0.1", port.number)) for _ in range(3 * MOST)]
    while (found := ask_health(port.number))[1]["stalled_s"] < 0.5:
        assert found[0] == 200
    for each in held:
        each.close()
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(ask_health, port.number))[1]["stalled_s"] > 0.2:
            continue
    await port.close()


def test_a_loop_that_stands_still_for_long_is_no_health() -> None:
    assert health(9.94) == (200, {"ok": True, "stalled_s": 9.9})
    assert health(10.0) == (503, {"ok": False, "stalled_s": 10.0})


async def test_health_that_is_not_open_is_for_the_application(port: Port) -> None:
    assert (await ask(port, GET.replace(b"/ ", b"/healthz "))).startswith(b"HTTP/1.1 404 ")


async def test_of_many_that_wait_at_once_none_waits_for_one_more_to_come() -> None:
    port = Port(application(), Place("127.0.0.1", 0, 512, Patience(head_s=60.0, body_s=60.0)))
    await port.open()
    pid = port.acceptor_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    waiting = [await send(port, GET) for _ in range(3 * 64 + 1)]
    os.kill(pid, signal.SIGCONT)
    async with asyncio.timeout(20):
        for reader, writer in waiting:
            assert b"hello" in await reader.read()
            writer.close()
    await port.close()


async def test_an_acceptor_that_ends_is_followed_by_another(port: Port) -> None:
    first = port.acceptor_pid
    assert b"hello" in await ask(port)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while port.acceptor_pid in (first, None):
            await asyncio.sleep(0.05)
    assert b"hello" in await ask(port)


async def test_an_acceptor_that_cannot_be_started_is_tried_again(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, failures, popen = asyncio.create_task(port.serve()), iter(range(2)), subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if next(failures, None) is not None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    first = port.acceptor_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(20):
        while port.acceptor_pid in (first, None):
            assert not serving.done()
            await asyncio.sleep(0.05)
    assert b"hello" in await ask(port)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_port_that_is_freed_in_a_moment_is_waited_for(port: Port) -> None:
    following = Port(application(), Place("127.0.0.1", port.number, MOST, Patience(60.0, 60.0)))
    opening = asyncio.create_task(following.open())
    await asyncio.sleep(0)
    await port.close()
    await opening
    assert b"hello" in await ask(following)
    await following.close()


async def test_an_address_that_is_taken_is_named(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curb.serve.port._TAKEN_S", 0.0)
    app, patience = application(), Patience(1.0, 1.0)
    taken = Port(app, Place("127.0.0.1", port.number, MOST, patience))
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port.number}: address already in use"):
        await taken.open()
    await taken.close()


async def test_closing_finishes_what_is_being_answered() -> None:
    app, began, go_on = web.Application(), asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        began.set()
        await go_on.wait()
        return web.Response(text="done")

    app.router.add_get("/", slow)
    port = Port(app, Place("127.0.0.1", 0, MOST, Patience(60.0, 60.0)))
    await port.open()
    number = port.number
    answer, (idle, writer) = asyncio.create_task(ask(port)), await send(port, b"GET / HT")
    await began.wait()
    closing = asyncio.create_task(port.close())
    await asyncio.sleep(0)
    go_on.set()
    assert (await answer).endswith(b"done")
    await closing
    assert (await idle.read()).startswith(b"HTTP/1.1 503 ")
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)


async def test_closing_in_the_middle_of_a_body_is_answered_that_it_may_come_again(port: Port) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    # The first still waits for its body with the acceptor, the other with the application.
    starts = [head % 30_000 + b"x" * 9_000, head % 90_000 + b"x" * 40_000]
    sent = [await send(port, start) for start in starts]
    async with asyncio.timeout(20):
        while len(port.connections) < 1:
            await asyncio.sleep(0.01)
    closing = asyncio.create_task(port.close())
    for (reader, writer), start in zip(sent, starts, strict=True):
        writer.write(start[-1000:])
        async with asyncio.timeout(20):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in answer
        assert answer.count(b"HTTP/1.1") == 1
        writer.close()
    await closing


class Rests:
    """In place of the policy: does not rest, and notes after how many ends it was asked."""

    def __init__(self) -> None:
        self.asked = list[int]()

    def wait(self, attempt: int, retry_after: float | None, rng: random.Random) -> float:
        self.asked.append(attempt)
        return 0.0


async def test_an_acceptor_that_ends_at_every_start_is_started_again_after_longer_and_longer_rests(
    port: Port, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, popen, rests, policy = port.acceptor_pid, subprocess.Popen, Rests(), port_module._AGAIN
    assert b"hello" in await ask(port)
    assert first is not None

    def start(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        code = [arguments[0], "-c", "raise SystemExit(7)"] if len(rests.asked) < 4 else arguments
        return popen(code, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(port_module, "_AGAIN", rests)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(60):
        while len(rests.asked) < 4:
            await asyncio.sleep(0.02)
    assert b"hello" in await ask(port)
    ended = [each.__dict__ for each in caplog.records if "has ended" in each.message]
    assert [(each["code"], each["times"]) for each in ended] == [(-9, 1), (7, 2), (7, 3), (7, 4)]
    assert rests.asked == [0, 1, 2, 3]
    waits = [policy.wait(attempt, None, random.Random(1)) for attempt in range(12)]
    assert waits[0] <= 0.5
    assert max(waits) <= 30.0 <= 2 * waits[-1]
