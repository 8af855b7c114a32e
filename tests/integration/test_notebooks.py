"""Every notebook runs from top to bottom beside the example's log, as a person who opens it would run it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

from curb import lab
from curb.config.file import load_text
from tests.house.tree import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MAX_OUTPUT_BYTES = 200_000
#: What must hold of a notebook's results: a cell after its last. Tuning takes a minute, so it is not done twice.
THEN = {
    "02_tune_thresholds": """
now, lower = tried[0], min(tried, key=lambda each: each.lost_usd)
assert bench.incidents
assert lower.recall > now.recall, "lower floors find what the shipped ones miss"
assert lower.lost_usd < now.lost_usd
assert now.real[0] == now.real[1], "the alerts that people called real are raised again"
"""
}

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
    """The notebook executed in `directory`, then what `THEN` asks of it. Raises CellExecutionError."""
    directory.mkdir(exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    if path.stem in THEN:
        notebook.cells.append(nbformat.v4.new_code_cell(THEN[path.stem]))
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


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fortnight that `lab.example()` makes, once for all notebooks."""
    directory = tmp_path_factory.mktemp("example") / "curb-example"
    lab.example(directory)
    return directory


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
async def test_a_notebook_runs(path: Path, kernel: str, example: Path, tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    (directory / "curb-example").symlink_to(example)
    notebook = await run(path, kernel, directory)
    complaints = [each for each in outputs(notebook) if each.output_type == "error" or each.get("name") == "stderr"]
    assert not complaints
    assert pictures(notebook) or path.stem.startswith("07")
    assert any("text/markdown" in each.get("data", {}) for each in outputs(notebook)), "a table is shown"
    for patch in directory.glob("*.yaml"):
        text = patch.read_text(encoding="utf-8")
        assert load_text(text).detector.score.floors_usd
        assert any(text.strip() in each.get("text", "") for each in outputs(notebook)), "the patch is shown"


def test_the_example_has_what_the_notebooks_explain(example: Path) -> None:
    """What their text says of the fortnight."""
    history = lab.from_log(example / "curb.yaml")
    found = {(each.alert.kind, each.verdict) for each in history.alerts if each.alert.tier != "digest"}
    assert {("runaway", "real"), ("runaway", "planned"), ("idle", "real"), ("budget", "")} <= found
    names = {each.name: each for each in lab.node_use(history)}
    assert names["gpu-train-2"].idle_since_hours > 24 > names["gpu-train-1"].idle_since_hours
    assert 0.9 < history.total("costs").sum() / history.total().sum() < 1.1


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
    assert pictures(notebook) or path.stem.startswith("07")
    assert path.stat().st_size < MAX_OUTPUT_BYTES
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert str(ROOT) not in path.read_text(encoding="utf-8")
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom before it was committed"
