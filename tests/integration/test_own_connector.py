"""A connector of one's own, as the how-to makes it: installed, checked, run, and refused when it breaks a promise."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curb.cli.main import app
from curb.config.file import load_text
from curb.daemon import Daemon
from curb.stream.errors import PermanentError
from curb.stream.log.topics import USAGE
from curb.testing.connectors import PULL_PROMISES, PullPromise

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "docs" / "templates" / "connector"
KIND = (TEMPLATE / "acme_curb.py").read_text(encoding="utf-8")
BAD_ROW = "a_bad_row_is_a_dead_letter_and_its_neighbours_survive"
MODULES = ("acme_curb", "test_acme_curb")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The template as pip installs it; changes to the file of the kind count until it is imported."""
    root = tmp_path / "site"
    about = root / "acme_curb-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-curb\nVersion: 0.1.0\n")
    points = tomllib.loads((TEMPLATE / "pyproject.toml").read_text())["project"]["entry-points"]["curb.connectors"]
    lines = [f"{kind} = {target}" for kind, target in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[curb.connectors]", *lines]))
    for module in MODULES:
        (root / f"{module}.py").write_text((TEMPLATE / f"{module}.py").read_text(encoding="utf-8"))
    monkeypatch.syspath_prepend(str(root))
    yield root
    for module in MODULES:
        sys.modules.pop(module, None)


def bench() -> Any:
    return importlib.import_module("test_acme_curb").AcmeBench


def test_the_how_to_shows_the_template() -> None:
    page = (ROOT / "docs" / "howto" / "write-a-connector.md").read_text(encoding="utf-8")
    for file in ("acme_curb.py", "test_acme_curb.py", "pyproject.toml"):
        assert (TEMPLATE / file).read_text(encoding="utf-8") in page, f"write-a-connector.md does not show {file}"
    code = [line for line in KIND.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 40


@pytest.mark.parametrize("promise", PULL_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_every_promise(installed: Path, promise: PullPromise, tmp_path: Path) -> None:
    await promise(bench(), tmp_path / "run")


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("async def close(", "async def end(", "connector acme of kind acme: "),
        ("-> Pull:\n", "-> Pull:\n        {}['no']\n", "cannot be built and closed: KeyError at "),
    ],
)
def test_check_config_refuses_what_cannot_be_used(
    installed: Path, tmp_path: Path, good: str, bad: str, said: str
) -> None:
    assert good in KIND
    (installed / "acme_curb.py").write_text(KIND.replace(good, bad), encoding="utf-8")
    file = tmp_path / "curb.yaml"
    file.write_text(f"connectors: [{{kind: acme, name: acme, url: http://a, key: b}}]\nstate_dir: {tmp_path}\n")
    result = CliRunner().invoke(app, ["check-config", "-c", str(file)])
    assert result.exit_code == 2, result.output
    assert f"connectors[0]: {said}" in result.output
    assert "Traceback" not in result.output


async def test_it_is_configured_and_run_like_any_other(installed: Path, tmp_path: Path) -> None:
    source = bench()()
    source.fill(0, 1_750_000_000.0)
    async with source.serve(tmp_path) as address:
        text = f"""
            log: {{directory: {tmp_path / "data"}}}
            http: {{port: 0}}
            connectors: [{{kind: acme, name: acme, url: "{address}", key: secret}}]
        """
        (tmp_path / "curb.yaml").write_text(text)
        result = await asyncio.to_thread(CliRunner().invoke, app, ["check-config", "-c", str(tmp_path / "curb.yaml")])
        assert result.exit_code == 0, result.output
        assert "acme (acme)" in result.output
        daemon = Daemon(load_text(text))
        await daemon.open()
        running = asyncio.create_task(daemon.run())
        try:
            for _ in range(100):
                found = [message.value async for message in daemon.log.scan(USAGE)]
                if sum(value.count(b"\n") for value in found) >= 9:
                    break
                await asyncio.sleep(0.1)
        finally:
            daemon.stop()
            await running
            await daemon.close()
    assert sum(value.count(b"\n") for value in found) == 9


@pytest.mark.parametrize(
    ("good", "bad", "promise", "said"),
    [
        ("str(start + len(rows))", "str(start + len(rows) + 1)", "everything_arrives", "was lost"),
        ("id=row.id", "id=f'{row.id}-{id(self)}'", "restarts_and_faults_lose_and_double_nothing", "was doubled"),
        ("id=row.id", "id=f'{row.id}-{id(self)}'", "the_same_cursor_gives_the_same_records", "differs or is gone"),
        ("more=bool(rows)", "more=False", "everything_arrives", "was lost"),
        ("int(cursor or 0)", "int(cursor or 1)", "everything_arrives", "was lost"),
        (
            "dead=letters.messages()",
            "dead=()",
            BAD_ROW,
            "no dead letter",
        ),
        ("continue", "break", BAD_ROW, "was lost"),
        ("int(cursor or 0)", "int(cursor or 'x')", "everything_arrives", "read() raised ValueError"),
    ],
)
async def test_a_wrong_one_is_refused_in_a_sentence(
    installed: Path, good: str, bad: str, promise: str, said: str, tmp_path: Path
) -> None:
    assert good in KIND
    (installed / "acme_curb.py").write_text(KIND.replace(good, bad))
    (kept,) = [each for each in PULL_PROMISES if each.__name__ == promise]
    with pytest.raises(AssertionError, match=f"^kind acme: .*{re.escape(said)}"):
        await kept(bench(), tmp_path / "run")


async def test_one_without_close_does_not_start(installed: Path, tmp_path: Path) -> None:
    (installed / "acme_curb.py").write_text(KIND.replace("async def close", "async def shut"))
    with pytest.raises(PermanentError, match=r"^connector acme of kind acme: Acme has no method close$"):
        await PULL_PROMISES[0](bench(), tmp_path / "run")
