"""Every notebook runs from top to bottom in an empty directory, as a person who opens it would run it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

from curb.config.file import load_text
from tests.house.tree import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_OUTPUT_BYTES = 200_000

#: More than a minute of work for one core; a busy machine may take several times that.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel of this very interpreter, whatever kernels, profiles and settings the machine has."""
    name = "of-this-test"
    write_kernel_spec(str(tmp_path / "jupyter" / "kernels" / name))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return name


async def run(path: Path, kernel: str, directory: Path) -> Any:
    """The notebook executed in `directory`. Raises CellExecutionError."""
    directory.mkdir()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(directory)}}
    await NotebookClient(notebook, kernel_name=kernel, timeout=500, resources=resources).async_execute()
    return notebook


def outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def pictures(notebook: Any) -> list[str]:
    return [each.data["image/png"] for each in outputs(notebook) if "image/png" in each.get("data", {})]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
async def test_a_notebook_runs(path: Path, kernel: str, tmp_path: Path) -> None:
    notebook = await run(path, kernel, tmp_path / "empty")
    complaints = [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"]
    assert not complaints
    assert pictures(notebook)
    (patch,) = (tmp_path / "empty").glob("*.yaml")
    text = patch.read_text(encoding="utf-8")
    assert load_text(text).detector.score.notice_threshold == 2.0
    assert any(text.strip() in each.get("text", "") for each in outputs(notebook)), "the patch is shown"
    assert [chart.read_bytes()[:4] for chart in (tmp_path / "empty").glob("*.png")] == [b"\x89PNG"]


async def test_the_kernel_is_this_interpreter(kernel: str, tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell("import sys, curb; print(sys.executable, curb.__file__)")
    path = tmp_path / "which.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (output,) = outputs(await run(path, kernel, tmp_path / "empty"))
    assert output.text.split() == [sys.executable, str(ROOT / "curb" / "__init__.py")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed_shows_pictures_and_no_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert pictures(notebook)
    assert path.stat().st_size < MAX_OUTPUT_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert str(ROOT) not in path.read_text(encoding="utf-8")
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom before it was committed"
