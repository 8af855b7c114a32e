"""Programs that a machine can have without being changed: from Go modules, Debian, PyPI and npm.

Each is made once and kept in the cache (`tests/real/cache.py`); nothing is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.real.cache import cache, locked, say

#: Longest time for one command. By hand: twice what the largest build took on two busy cores.
_TIMEOUT_S = 3600.0
#: Seconds between two lines that say that a build goes on. By hand.
_PROGRESS_S = 60.0


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


def python_packages(name: str, requirement: str) -> Path:
    """The directory of a Python package and all that it needs; what is here already comes first on the path."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return python(name, requirement, "python").parents[1] / "lib" / version / "site-packages"


def npm(name: str, requirement: str, program: str) -> Path:
    """A program of an npm package, in a directory of its own; no script of a package is run."""

    return _npm(name, requirement) / ".bin" / program


def npm_file(name: str, requirement: str, path: str) -> Path:
    """A file of an npm package."""
    return _npm(name, requirement) / path


def _npm(name: str, requirement: str) -> Path:
    def make(directory: Path) -> None:
        if shutil.which("npm") is None:
            raise AwayError("no npm to install it with")
        say(name, f"installing {requirement}")
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", ".", requirement]
        _run(command, directory)

    return _once(f"npm-{requirement}", make, moved=False) / "node_modules"


def go(
    module: str,
    version: str,
    packages: Iterable[str],
    *,
    staging: str = "",
    variables: Mapping[str, str] | None = None,
) -> Path:
    """The directory with the programs of these packages of a module, built with the Go that is here.

    `staging` is the version under which parts of the module are released that its go.mod replaces by directories of its
    own; `variables` of the programs are set when they are linked.
    """

    def make(directory: Path) -> None:
        if shutil.which("go") is None:
            raise AwayError("no go to build it with")
        say(module, f"building {version} from its Go module (minutes, once)")
        given = _module(directory, f"{module}@{version}")
        work = directory / "module"
        work.mkdir()
        (work / "go.mod").write_text(go_mod(module, version, given, staging))
        link = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in (variables or {}).items())])
        command = ["go", "build", "-mod=mod", "-p", "2", "-ldflags", link, "-o", f"{directory / 'bin'}/", *packages]
        _run(command, work, {"CGO_ENABLED": "0", "GOFLAGS": ""}, what=module)
        shutil.rmtree(work)

    return _once(f"go-{module.replace('/', '-')}-{version}", make) / "bin"


def go_mod(module: str, version: str, given: Mapping[str, Any], staging: str) -> str:
    """A module that needs this one and replaces what it replaces; `given` is its own go.mod as Go reads it."""
    lines = ["module bench", f"go {given['Go']}", f"require {module} {version}"]
    for each in given["Replace"] or ():
        old, new = each["Old"], each["New"]
        is_directory = new["Path"].startswith("./")
        path, of = (old["Path"], staging) if is_directory else (new["Path"], new["Version"])
        lines.append(f"replace {old['Path']} => {path} {of}")
    return "\n".join(lines) + "\n"


def go_files(module: str, version: str) -> Path:
    """The directory with the sources of a module, which Go keeps."""
    if shutil.which("go") is None:
        raise AwayError("no go to download it with")
    return Path(_download(cache(), f"{module}@{version}")["Dir"])


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


def _run(command: list[str], directory: Path, environment: Mapping[str, str] | None = None, *, what: str = "") -> str:
    """What it writes; AwayError with its last words where it fails. For `what` a line a minute says that it goes on."""
    since = time.monotonic()
    pipe, env = subprocess.PIPE, {**os.environ, **(environment or {})}
    with subprocess.Popen(command, cwd=directory, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        while True:
            try:
                said, complaints = process.communicate(timeout=_PROGRESS_S)
                break
            except subprocess.TimeoutExpired as error:
                minutes = (time.monotonic() - since) / 60
                if minutes * 60 > _TIMEOUT_S:
                    process.kill()
                    raise AwayError(f"{' '.join(command[:3])} took longer than {_TIMEOUT_S:.0f} s") from error
                if what:
                    say(what, f"still at it after {minutes:.0f} min")
    if process.returncode != 0:
        lines = [line for line in (complaints or said).splitlines() if line and "downloading" not in line]
        raise AwayError(f"{' '.join(command[:3])} failed ({process.returncode}): {' '.join(lines[-4:])[-600:]}")
    return said
