"""Files that a gateway reads are changed in one step, by one at a time, and keep their mode."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from curb.actions.levers.locked_file import edit_text, read_text
from curb.stream.errors import PermanentError, TransientError


def test_a_change_replaces_the_file_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "limits.map"
    path.write_bytes(b"a 1\r\nb 2")
    path.chmod(0o640)
    with path.open("rb") as old:
        edit_text(path, lambda text: text + "\n\u00e4")
        assert old.read() == b"a 1\r\nb 2", "who reads the old file reads all of it"
    assert path.read_bytes() == b"a 1\r\nb 2\n\xc3\xa4"
    assert read_text(path) == "a 1\r\nb 2\n\u00e4"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["limits.map"]


def test_no_change_touches_nothing(tmp_path: Path) -> None:
    path = tmp_path / "limits.map"
    path.write_text("a 1\n")
    before = path.stat()
    edit_text(path, lambda text: text)
    assert path.stat() == before


def test_what_the_change_raises_leaves_the_file_and_the_lock_alone(tmp_path: Path) -> None:
    path = tmp_path / "limits.map"
    path.write_text("a 1\n")

    def refuse(text: str) -> str:
        raise PermanentError("no")

    with pytest.raises(PermanentError, match="no"):
        edit_text(path, refuse)
    edit_text(path, lambda text: text + "b 2\n")
    assert path.read_text() == "a 1\nb 2\n"


def test_edits_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "limits.map"
    path.write_text("")
    threads = [threading.Thread(target=edit_text, args=(path, lambda text, n=n: f"{text}{n}\n")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().split()) == sorted(str(n) for n in range(20))


def test_a_link_is_refused_because_a_rename_would_replace_it(tmp_path: Path) -> None:
    (tmp_path / "real.map").write_text("a 1\n")
    (tmp_path / "limits.map").symlink_to(tmp_path / "real.map")
    with pytest.raises(PermanentError, match="is a link"):
        edit_text(tmp_path / "limits.map", lambda text: text + "b 2\n")


def test_what_stays_wrong_is_permanent_and_what_may_pass_is_not(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"limits\.map: No such file"):
        read_text(tmp_path / "limits.map")
    (tmp_path / "latin.map").write_bytes(b"\xe4")
    with pytest.raises(PermanentError, match="not UTF-8"):
        read_text(tmp_path / "latin.map")

    def full(text: str) -> str:
        raise OSError(28, "No space left on device")

    (tmp_path / "limits.map").write_text("a 1\n")
    with pytest.raises(TransientError, match="No space left"):
        edit_text(tmp_path / "limits.map", full)
