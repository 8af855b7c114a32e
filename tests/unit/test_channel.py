"""Frames with descriptors over a socket: whole, in order, each with its own connection, however they are cut."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.serve.channel import CONNECTION, COUNTS, FrameReader, FrameWriter


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def read_on(reader: FrameReader) -> None:
    while True:
        assert reader.read() == []


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40_000)), max_size=12))
def test_every_frame_comes_whole_with_its_own_connection(wanted: list[tuple[bool, int]]) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    writer, reader, ends = FrameWriter(ours), FrameReader(theirs), []
    for each in (ours, theirs):
        each.setblocking(False)
    sizes = []
    for number, (has_connection, size) in enumerate(wanted):
        near, far = socket.socketpair() if has_connection else (None, None)
        if far is not None:
            ends.append(far)
            far.send(b"%d" % number)
        writer.put(CONNECTION if has_connection else COUNTS, b"%d " % number + bytes(size), near)
        sizes.append(size)
    came = []
    while len(came) < len(wanted):
        writer.flush()
        came += reader.read()
    assert len(writer) == 0
    for number, (frame, size) in enumerate(zip(came, sizes, strict=True)):
        assert frame.payload == b"%d " % number + bytes(size)
        assert (frame.connection is not None) is (frame.kind == CONNECTION)
        if frame.connection is not None:
            assert frame.connection.recv(10) == b"%d" % number
            frame.connection.close()
    for each in (ours, theirs, *ends):
        each.close()


def test_a_closed_channel_is_an_end_and_its_connections_are_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    writer, reader = FrameWriter(ours), FrameReader(theirs)
    (near, far), (unsent, its_far) = socket.socketpair(), socket.socketpair()
    writer.put(CONNECTION, bytes(5_000_000), near)
    writer.put(CONNECTION, b"", unsent)
    assert not writer.flush()
    assert reader.read() == []
    writer.close()
    ours.close()
    with pytest.raises(EOFError):
        read_on(reader)
    reader.close()
    assert far.recv(1) == b""
    assert its_far.recv(1) == b""
    far.close()
    its_far.close()


def test_nobody_reads_any_more(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    writer = FrameWriter(ours)
    writer.put(COUNTS, b"{}")
    with pytest.raises(BrokenPipeError):
        writer.flush()
