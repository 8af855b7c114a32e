"""`curb demo` without its trace: a sentence, no traceback."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from curb.cli.main import app


def test_without_a_trace_it_says_where_to_run_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--dir", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.output.startswith(f"demo: {tmp_path} holds no demo trace: keys.csv is missing")
