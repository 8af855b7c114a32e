"""Prometheus' promtool: it checks metrics, rules and expressions as a server would."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.require import require

HOW_TO = "set CURB_TEST_PROMTOOL=/path/to/promtool, or install it (Debian and Ubuntu: in the package prometheus)"


def promtool(*arguments: str, text: bytes = b"", directory: Path | None = None) -> str:
    """Run promtool; its output. Skips, or fails where CURB_TEST_REQUIRE asks for Prometheus, where there is none."""
    named = os.environ.get("CURB_TEST_PROMTOOL", "")
    found = shutil.which(named or "promtool")
    if found is None:
        require("prometheus", f"no promtool: {HOW_TO}")
    done = subprocess.run([found, *arguments], input=text, capture_output=True, cwd=directory, timeout=120, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output
    return output
