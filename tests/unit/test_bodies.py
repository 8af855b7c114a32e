"""Bodies of requests: what was compressed comes out whole, in every way it is sent, and a bomb stays small."""

from __future__ import annotations

import gzip
import sys
import zlib
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.connectors.intake.body import BodyRefusedError, inflate

zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
MOST = 8 * 1024 * 1024


def bare_deflate(content: bytes) -> bytes:
    """Without the header of zlib, as some senders send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


PACKERS: dict[str, tuple[str, Any]] = {
    "gzip": ("gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "bare deflate": ("deflate", bare_deflate),
    "zstd": ("zstd", zstd.compress),
}
PACKED = pytest.mark.parametrize("packed", PACKERS)


@PACKED
@given(st.binary(max_size=2000), st.integers(1, 300))
def test_what_was_compressed_comes_out(packed: str, content: bytes, times: int) -> None:
    encoding, pack = PACKERS[packed]
    assert inflate(pack(content * times), encoding, MOST) == content * times


@PACKED
@pytest.mark.parametrize("size", [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 512 * 1024])
def test_nothing_is_lost_where_a_step_ends(packed: str, size: int) -> None:
    encoding, pack = PACKERS[packed]
    assert inflate(pack(b" " * size), encoding, MOST) == b" " * size


def test_several_files_in_one_body_are_one_text() -> None:
    assert inflate(gzip.compress(b"one\n") + gzip.compress(b"two\n"), "gzip", MOST) == b"one\ntwo\n"
    assert inflate(zstd.compress(b"one\n") + zstd.compress(b"two\n"), "zstd", MOST) == b"one\ntwo\n"


@PACKED
@given(st.data())
def test_what_is_cut_off_is_refused(packed: str, data: st.DataObject) -> None:
    encoding, pack = PACKERS[packed]
    whole = pack(bytes(range(256)) * 20)
    with pytest.raises(BodyRefusedError) as refused:
        inflate(whole[: data.draw(st.integers(1, len(whole) - 1))], encoding, MOST)
    assert (refused.value.status, refused.value.reason) == (400, "invalid")


@PACKED
@given(st.binary(min_size=1, max_size=400))
def test_junk_is_refused_or_short(packed: str, junk: bytes) -> None:
    try:
        length = len(inflate(junk, PACKERS[packed][0], MOST))
    except BodyRefusedError:
        return
    assert length <= MOST


@PACKED
def test_a_bomb_is_refused(packed: str) -> None:
    encoding, pack = PACKERS[packed]
    for content in (b" " * (MOST + 1), bytes(range(256)) * (1 + MOST // 256)):
        with pytest.raises(BodyRefusedError) as refused:
            inflate(pack(content), encoding, MOST)
        assert (refused.value.status, refused.value.reason) == (413, "too_large")
    assert inflate(pack(bytes(range(256)) * 100), encoding, 25_600) == bytes(range(256)) * 100


def test_a_body_that_grows_without_measure_is_refused_before_it_is_too_long() -> None:
    with pytest.raises(BodyRefusedError, match="grows more than 400 times"):
        inflate(gzip.compress(b" " * (3 * 1024 * 1024), 9), "gzip", MOST)
