"""The safety nets of the tests hold: what nobody awaits or sees fails, what is required cannot be skipped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT
from tests.require import REQUIRED_VARIABLE, require

UNSEEN = """
import asyncio

async def fails():
    raise ValueError("nobody looks")

async def test_coroutine_never_awaited():
    fails()

async def test_task_died_unseen():
    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task

def test_warns():
    import warnings
    warnings.warn("careful")
"""


def test_what_nobody_sees_fails(tmp_path: Path) -> None:
    (tmp_path / "test_unseen.py").write_text(UNSEEN, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-c",
        str(ROOT / "pyproject.toml"),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.M)
    assert set(summary) == {"test_coroutine_never_awaited", "test_task_died_unseen", "test_warns"}, done.stdout


def test_a_missing_component_skips_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRED_VARIABLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match="start a broker"):
        require("kafka", "start a broker")


def test_a_missing_component_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRED_VARIABLE, "litellm, kafka")
    with pytest.raises(pytest.fail.Exception, match="start a broker"):
        require("kafka", "start a broker")
