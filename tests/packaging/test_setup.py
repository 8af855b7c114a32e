"""`make setup` where something is wrong: a clear sentence each, and nothing half-made is taken for an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.house.tree import ROOT

#: What the script may call; everything else, and every other Python, is hidden from it.
TOOLS = ("awk", "cat", "date", "dirname", "env", "grep", "ln", "mkdir", "rm", "sh", "sleep", "touch")
FAKE_UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
if [ "$1" = venv ]; then mkdir -p "$6/bin"; ln -s "$5" "$6/bin/python"; fi
[ "$1 $2" != "pip install" ] || exit ${UV_FAILS:-0}
"""


class Checkout:
    """As much of a checkout as the script looks at, with a PATH of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.tools, self.calls = root / "checkout", root / "bin", root / "calls"
        (self.root / "curb").mkdir(parents=True)
        self.tools.mkdir()
        self.calls.touch()
        for name in ("detector", "constraints"):
            (self.root / name).mkdir()
        (self.root / "detector/__init__.py").touch()
        (self.root / "curb/detector").symlink_to("../detector")
        (self.root / "constraints/all.txt").write_text("rich==15.0.0\n")
        (self.root / "pyproject.toml").touch()
        for name in TOOLS:
            (self.tools / name).symlink_to(str(shutil.which(name)))
        self.program("uv", FAKE_UV)
        self.program("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')

    def program(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def setup(self, **environ: str) -> tuple[int, str]:
        environ = {"PATH": str(self.tools), "CALLS": str(self.calls), "PYTHON": "", **environ}
        command = ["sh", str(ROOT / ".ci/setup"), ".venv", "constraints/all.txt"]
        done = subprocess.run(command, cwd=self.root, env=environ, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_lock_is_installed_and_then_curb(checkout: Checkout) -> None:
    code, said = checkout.setup()
    assert code == 0, said
    assert "s] ready" in said
    calls = [line for line in checkout.calls.read_text().splitlines() if line.startswith("uv pip install")]
    assert len(calls) == 2
    assert "--no-deps --require-hashes -r constraints/all.txt" in calls[0]
    assert "--no-deps --no-build-isolation -e ." in calls[1]
    assert (checkout.root / ".venv/.curb-setup").exists()
    assert not list(checkout.root.glob(".venv.*"))


def test_no_python_and_one_that_is_too_old(checkout: Checkout) -> None:
    old = '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n'
    checkout.program("python3", old)
    code, said = checkout.setup()
    assert (code, "Curb needs Python 3.11 or newer; here is Python 3.9.2." in said) == (1, True), said
    code, said = checkout.setup(PYTHON=str(checkout.tools / "python3"))
    assert (code, "is no Python 3.11 or newer (Python 3.9.2)" in said) == (1, True), said
    (checkout.tools / "python3").unlink()
    code, said = checkout.setup()
    assert (code, "here is none. Install one, or name it: make setup PYTHON=" in said) == (1, True), said


def test_no_network_is_said_and_the_next_try_starts_over(checkout: Checkout) -> None:
    code, said = checkout.setup(UV_FAILS="2")
    assert (code, "could not be installed" in said, "UV_FIND_LINKS=DIRECTORY" in said) == (1, True, True), said
    assert not (checkout.root / ".venv/.curb-setup").exists()
    code, said = checkout.setup()
    assert (code, ".venv was left half-made; starting over" in said) == (0, True), said


def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin").mkdir(parents=True)
    (checkout.root / ".venv/bin/python").symlink_to("/nowhere/python")
    code, said = checkout.setup()
    assert (code, ".venv has no Python that runs; making it again" in said) == (0, True), said


def test_an_environment_of_uv_is_made_again_where_uv_is_gone(checkout: Checkout) -> None:
    (checkout.tools / "uv").unlink()
    python = checkout.root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$2" != pip ]\n')  # runs, and has no pip
    python.chmod(0o755)
    checkout.program("python3.99", '#!/bin/sh\n[ "$2" != venv ] && echo "$0"\n')  # makes no environment
    code, said = checkout.setup(PYTHON=str(checkout.tools / "python3.99"))
    assert (code, ".venv has no pip, as uv makes it; making it again" in said) == (1, True), said
    assert "cannot create environments" in said
    assert not python.exists()


def test_two_at_once_do_the_work_once(checkout: Checkout) -> None:
    go = checkout.root / "go"
    os.mkfifo(go)
    checkout.program("uv", FAKE_UV + f'[ "$1" != venv ] || cat {go}\n')  # waits until somebody writes
    said = dict[int, tuple[int, str]]()
    threads = [threading.Thread(target=lambda n=n: said.update({n: checkout.setup()})) for n in range(2)]
    for thread in threads:
        thread.start()
    with go.open("w"):  # opens once the first is in the middle of it
        pass
    for thread in threads:
        thread.join(60)
    assert [code for code, _ in said.values()] == [0, 0], said
    assert checkout.calls.read_text().count("uv venv") == 1
    assert not list(checkout.root.glob(".venv.*"))


def test_a_lock_of_a_process_that_is_gone_is_taken(checkout: Checkout) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (checkout.root / ".venv.busy").mkdir()
    (checkout.root / ".venv.busy/pid").write_text(str(gone.pid))
    code, said = checkout.setup()
    assert code == 0, said


def test_links_that_were_lost_are_said(checkout: Checkout) -> None:
    (checkout.root / "curb/detector").unlink()
    (checkout.root / "curb/detector").write_text("../detector")
    code, said = checkout.setup()
    assert (code, "this checkout lost its symbolic links" in said) == (1, True), said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: run the tests as somebody else")
def test_a_read_only_checkout_is_said(checkout: Checkout) -> None:
    checkout.root.chmod(0o555)
    try:
        code, said = checkout.setup()
    finally:
        checkout.root.chmod(0o755)
    assert (code, "cannot be written" in said) == (1, True), said
