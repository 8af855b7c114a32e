"""Open connections: who is too slow, who gives up a place, and that a request in the making keeps its own."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from curb.serve.connections import Connections, Patience
from curb.serve.gate import Newcomer, is_there
from curb.serve.watched import Connection, watcher

PATIENCE = Patience(head_s=10.0, body_s=20.0)


class Pipe(asyncio.Transport):
    """A transport that only notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent, self.ended = b"", ""

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Body:
    """The content of a request."""

    def __init__(self, complete: bool) -> None:
        self.complete = complete

    def is_eof(self) -> bool:
        return self.complete


class Port:
    """Connections on a clock that is set by hand."""

    def __init__(self, most: int = 4) -> None:
        self.at = 1000.0
        self.table = Connections(most, PATIENCE, lambda: self.at)

    def open(self, peer: str = "10.0.0.1") -> tuple[Connection, Pipe]:
        connection, pipe = Connection(asyncio.Protocol(), peer, self.table), Pipe()
        connection.connection_made(pipe)
        return connection, pipe

    def after(self, seconds: float) -> None:
        self.at += seconds
        self.table.sweep()


def request(complete: bool = True) -> web.BaseRequest:
    return cast(web.BaseRequest, SimpleNamespace(content=Body(complete)))


@pytest.fixture
def port() -> Port:
    return Port()


def test_who_sends_nothing_is_closed(port: Port) -> None:
    _, pipe = port.open()
    port.after(9.9)
    assert pipe.ended == ""
    port.after(0.2)
    assert (pipe.ended, pipe.sent) == ("aborted", b"")
    assert len(port.table) == 0


def test_half_a_head_is_answered_that_it_took_too_long_however_it_drips(port: Port) -> None:
    connection, pipe = port.open()
    for _ in range(11):
        connection.data_received(b"G")
        port.after(1.0)
    assert pipe.ended == "closed"
    assert pipe.sent.startswith(b"HTTP/1.1 408 ")


def test_half_a_body_is_closed_and_a_long_answer_is_not(port: Port) -> None:
    (half, half_pipe), (whole, whole_pipe) = port.open(), port.open()
    half.begin(request(complete=False))
    whole.begin(request())
    port.after(20.5)
    assert half_pipe.ended == ""
    port.after(1.0)
    assert half_pipe.ended == "aborted"
    port.after(600.0)
    assert whole_pipe.ended == ""


def test_who_takes_nothing_of_the_answer_is_closed(port: Port) -> None:
    connection, pipe = port.open()
    connection.begin(request())
    connection.pause_writing()
    port.after(19.0)
    connection.resume_writing()
    connection.pause_writing()
    port.after(19.0)
    assert pipe.ended == ""
    port.after(2.0)
    assert pipe.ended == "aborted"


def test_a_kept_connection_may_rest_and_its_next_head_is_timed_from_its_first_byte(port: Port) -> None:
    connection, pipe = port.open()
    connection.begin(request())
    connection.end()
    port.after(300.0)
    assert pipe.ended == ""
    connection.data_received(b"GET /")
    port.after(9.0)
    assert pipe.ended == ""
    port.after(2.0)
    assert pipe.ended == "closed"


def test_a_head_that_came_during_an_answer_is_timed_from_its_end(port: Port) -> None:
    connection, pipe = port.open()
    connection.begin(request())
    connection.data_received(b"GET /next")
    port.after(60.0)
    connection.end()
    port.after(9.0)
    assert pipe.ended == ""
    port.after(2.0)
    assert pipe.ended == "closed"


def test_the_rest_of_a_body_is_no_next_head(port: Port) -> None:
    connection, pipe = port.open()
    body = request(complete=False)
    connection.begin(body)
    connection.data_received(b"rest")
    cast(Any, body.content).complete = True
    connection.end()
    port.after(100.0)
    assert pipe.ended == ""


def test_a_new_one_takes_the_place_of_the_one_that_waited_longest(port: Port) -> None:
    opened = [port.open(f"10.0.0.{n}") for n in range(4)]
    opened[0][0].begin(request())
    rest_s = port.table.make_room("10.0.0.9")
    assert rest_s == pytest.approx(0.25), "it had no time yet to send what it has"
    port.at += 0.25
    assert port.table.make_room("10.0.0.9") == 0.0
    assert [pipe.ended for _, pipe in opened] == ["", "aborted", "", ""]
    assert len(port.table) == 3
    opened[1][0].connection_lost(None)
    assert len(port.table) == 3


def test_without_one_that_waits_a_new_one_is_refused(port: Port) -> None:
    opened = [port.open(f"10.0.0.{n}") for n in range(4)]
    for connection, _ in opened:
        connection.begin(request())
    assert port.table.make_room("10.0.0.9") is None
    opened[2][0].end()
    port.at += 1
    assert port.table.make_room("10.0.0.9") == 0.0
    assert [pipe.ended for _, pipe in opened] == ["", "", "aborted", ""]


def test_who_holds_most_places_gives_up_its_own(port: Port) -> None:
    other, others_pipe = port.open("10.0.0.2")
    mine = [port.open("10.0.0.1") for _ in range(3)]
    port.at += 1
    assert port.table.make_room("10.0.0.1") == 0.0
    assert (others_pipe.ended, mine[0][1].ended) == ("", "aborted")
    assert other.waits


def test_who_sends_something_keeps_its_place_before_who_does_not(port: Port) -> None:
    opened = [port.open(f"10.0.0.{n}") for n in range(4)]
    port.at += 1
    opened[0][0].data_received(b"GET / HTTP/1.1")
    assert port.table.make_room("10.0.0.9") == 0.0
    assert [pipe.ended for _, pipe in opened] == ["", "aborted", "", ""]


async def test_what_came_while_the_loop_was_busy_is_read_before_a_place_is_given_away(port: Port) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    passed: list[bytes] = []
    for ours, _ in pairs:
        ours.setblocking(False)
        Newcomer(ours, "10.0.0.1", port.table, lambda newcomer, read: passed.append(read))
    port.table.most = 3
    whole, gone, silent = (theirs for _, theirs in pairs)
    whole.sendall(b"GET / HTTP/1.1\r\n\r\n")
    gone.close()
    port.at += 1
    assert port.table.make_room("10.0.0.9") == 0.0
    assert (passed, len(port.table)) == ([b"GET / HTTP/1.1\r\n\r\n"], 2)
    port.table.most = 2
    assert port.table.make_room("10.0.0.9") == 0.0
    assert silent.recv(10) == b""
    port.table.most = 1
    assert port.table.make_room("10.0.0.9") is None, "it is on its way to the server"
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    ("read", "there"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", True),
        (b"GET / HTTP/1.1\nHost: x\n\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\ncontent-length:3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + bytes(1000), False),
        (b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + bytes(33_000), True),
        (b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: nine\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nX: 1\r\n\r\nContent-Length: 9\r\n\r\n", True),
        (b"X" * 33_000, True),
    ],
)
def test_a_request_is_passed_on_when_it_is_there(read: bytes, there: bool) -> None:
    assert is_there(read) is there


async def test_a_request_is_in_hand_while_its_handler_runs(port: Port) -> None:
    connection, pipe = port.open()
    other, _ = port.open()
    asked = cast(web.Request, SimpleNamespace(transport=pipe, content=Body(True)))
    seen = []

    async def handler(_: web.Request) -> web.StreamResponse:
        seen.append(connection.waits)
        return web.Response()

    await watcher(port.table)(asked, handler)
    assert seen == [False]
    assert connection.waits
    # It has now waited for the shorter time.
    port.table.most = 2
    port.at += 1
    port.table.make_room("10.0.0.9")
    assert (cast(Pipe, other.transport).ended, pipe.ended) == ("aborted", "")


def test_closing_leaves_what_is_being_answered(port: Port) -> None:
    (busy, busy_pipe), (_, idle_pipe) = port.open(), port.open()
    busy.begin(request())
    assert port.table.turn_away_waiting() == []
    assert (busy_pipe.ended, idle_pipe.ended) == ("", "aborted")
