"""The package as users get it: wheel and sdist, installed without extras, run in a directory with strangers in it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
import venv
import zipfile
from contextlib import suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.house.test_deploy import sources
from tests.house.tree import FLOORS, ROOT
from tests.old_logs import unpack
from tests.ports import free_port

ROOMS = sorted(FLOORS.keys() - {"curb"})
#: Libraries that only some settings use; each is an extra and 10 to 170 MB.
HEAVY = {"matplotlib", "pandas", "prophet", "pyarrow", "river", "scipy", "statsmodels"}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel, built without the network from what git has."""
    out, copy = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    build("sdist", copy, out)
    build("wheel", copy, out)
    return out


def build(what: str, source: Path, out: Path) -> None:
    run([sys.executable, "-c", f"from setuptools import build_meta as b; b.build_{what}({str(out)!r})"], source)


def run(command: list[str | Path], where: Path, code: int = 0, **environ: str) -> str:
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == code, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def default_install() -> list[Distribution]:
    """What `pip install curbd` would bring: the requirements without extras, and theirs."""
    todo, found = [Requirement(line) for line in distribution("curbd").requires or []], dict[str, Distribution]()
    for requirement in todo:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            todo += [Requirement(line) for line in found[requirement.name].requires or []]
    return list(found.values())


def test_a_default_install_holds_none_of_the_heavy_libraries() -> None:
    names = {each.metadata["Name"].lower() for each in default_install()}
    assert {"numpy", "aiohttp", "pydantic"} <= names
    assert not names & HEAVY


def test_the_wheel_holds_one_package_with_its_data(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"curb"}
    assert {f"curb/{room}/__init__.py" for room in ROOMS} <= names
    data = [
        "connectors/pricing/data/prices.json.gz",
        "demo/data/requests_10min.csv.gz",
        "report/templates/report.html",
        "serve/pages/templates/base.html",
        "serve/pages/static/page.css",
        "serve/pages/static/page.js",
    ]
    assert {f"curb/{each}" for each in ["py.typed", *data]} <= names


def test_the_sdist_is_the_repository(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        held = {each.name.split("/", 1)[1]: each for each in sdist if "/" in each.name}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    assert not {name for name in listed.split("\0") if name and (ROOT / name).exists()} - held.keys()
    assert {room: held[f"curb/{room}"].linkname for room in ROOMS} == {room: f"../{room}" for room in ROOMS}


def test_what_the_image_copies_gives_the_same_wheel(built: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for path in sources("build"):
        place = source / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, place, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, place)
    build("wheel", source, out)
    assert names_in(next(out.iterdir())) == names_in(next(built.glob("*.whl")))


def names_in(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def from_sdist(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that an installer makes of the sdist."""
    source, out = tmp_path_factory.mktemp("sdist"), tmp_path_factory.mktemp("wheel")
    unpack(next(built.glob("*.tar.gz")), source)
    build("wheel", next(source.iterdir()), out)
    return next(out.iterdir())


def test_the_sdist_gives_the_same_wheel(built: Path, from_sdist: Path) -> None:
    def content(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as wheel:
            return {each.filename: each.CRC for each in wheel.infolist() if not each.filename.endswith("/RECORD")}

    assert content(from_sdist) == content(next(built.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(from_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that has the package and what a default install brings, and nothing more."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=True)
    (site,) = home.glob("lib/python*/site-packages")
    for each in default_install():
        link(each, site)
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    run([home / "bin/python", "-m", "pip", "install", *options, from_sdist], home)
    return home / "bin"


def link(each: Distribution, site: Path) -> None:
    """Make an installed distribution importable from `site` too."""
    for top in {file.parts[0] for file in each.files or [] if file.parts[0] not in {"..", "__pycache__"}}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(str(each.locate_file(top))))


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An empty directory but for packages with the names of Curb's rooms, which must not be imported."""
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text(f"raise RuntimeError('a foreign {room} was imported')\n")
    return tmp_path


def test_it_runs_without_extras_among_foreign_packages(installed: Path, foreign: Path) -> None:
    path, version = str(foreign), distribution("curbd").version
    for command in ([installed / "curb"], [installed / "python", "-m", "curb"]):
        assert run([*command, "--version"], foreign, PYTHONPATH=path).strip() == f"curb {version}"
    assert "$" in run([installed / "curb", "prices", "show", "gpt-4o"], foreign, PYTHONPATH=path)
    (foreign / "curb.yaml").write_text("log: {kind: embedded, directory: data}\n")
    said = run([installed / "curb", "check-config"], foreign, PYTHONPATH=path)
    assert "curb.yaml: ok" in said
    assert "install curbd[prophet,forecast]" in said
    (foreign / "drift.yaml").write_text("detector: {drift: {detector: adwin}}\n")
    assert "install curbd[river]" in run([installed / "curb", "check-config", "-c", "drift.yaml"], foreign, code=2)
    heavy = "import curb.cli.main, curb.daemon, sys; print(sorted(set(sys.modules) & set(sys.argv[1].split())))"
    assert run([installed / "python", "-c", heavy, " ".join(HEAVY)], foreign).strip() == "[]"


def test_the_demo_runs_and_says_which_picture_is_missing(installed: Path, foreign: Path) -> None:
    said = run([installed / "curb", "demo", "--quick"], foreign)
    assert "limit is back at 600" in said
    assert "There is no chart.png: charts need matplotlib: install curbd[charts]" in " ".join(said.split())
    assert sorted(path.name for path in (foreign / "demo-out").glob("*.*")) == [
        "alerts.jsonl", "ledger.jsonl", "slack.json", "slack.md", "summary.json",
    ]  # fmt: skip


def test_the_daemon_answers_and_stops(installed: Path, foreign: Path) -> None:
    port = free_port()
    (foreign / "curb.yaml").write_text(f"log: {{kind: embedded, directory: data}}\nhttp: {{port: {port}}}\n")
    daemon = subprocess.Popen([installed / "curb", "run"], cwd=foreign, stderr=subprocess.PIPE, text=True)
    try:
        assert healthy(daemon, port)
        daemon.send_signal(signal.SIGTERM)
        _, said = daemon.communicate(timeout=60)
    finally:
        daemon.kill()
        daemon.wait()
    assert daemon.returncode == 0, said
    assert "install curbd[prophet,forecast]" in said


def healthy(daemon: subprocess.Popen[str], port: int) -> bool:
    """Whether /healthz answers 200 before the daemon ends or a minute is over."""
    until = time.monotonic() + 60
    while daemon.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
                return int(answer.status) == 200
        except OSError:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(0.2)
    return False
