"""The documentation builds as a site without a warning: every page, link and anchor has its place."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.house.tree import ROOT

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra site: make setup")


def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("INFO")]
    assert done.returncode == 0, "\n".join(said)
    page = (tmp_path / "site" / "howto" / "point-curb-at-your-gateway.html").read_text(encoding="utf-8")
    assert "(<code>deploy/envoy</code>)" in page, "what lies beside docs/ is named, not linked"
