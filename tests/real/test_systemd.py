"""systemd's own check of the units, where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.house.test_systemd import FOLDER, UNITS
from tests.require import require

pytestmark = pytest.mark.real


def analyze(*arguments: str, directory: Path) -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        require("systemd", "no systemd-analyze: it is in the package systemd of Debian and Ubuntu")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, cwd=directory, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists here."""
    for unit in UNITS:
        text = (FOLDER / unit).read_text(encoding="utf-8")
        (tmp_path / unit).write_text(text.replace("/opt/curb/bin/curb", "/bin/true"), encoding="utf-8")
    return tmp_path


def test_the_units_are_valid(units: Path) -> None:
    assert analyze("verify", "--man=no", *(f"./{unit}" for unit in UNITS), directory=units) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_units_are_rated_as_the_documentation_says(units: Path, unit: str) -> None:
    output = analyze("security", "--offline=true", "--no-pager", f"./{unit}", directory=units)
    (level,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", output)
    assert float(level) <= 1.1
