"""Commands are listed without their modules, and imported when they run."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import typer.main
from typer.testing import CliRunner

from curb.cli import lazy
from curb.cli.main import COMMANDS, app

_LISTED = """
import sys
from typer.testing import CliRunner
from curb.cli.main import app

run = CliRunner().invoke
assert run(app, ["--version"]).output.startswith("curb ")
assert "check-config" in run(app, ["--help"]).output
assert "pydantic" not in sys.modules  # Typer itself imports it to complete
words = {"_CURB_COMPLETE": "complete_bash", "COMP_WORDS": "curb sta", "COMP_CWORD": "1"}
assert run(app, [], prog_name="curb", env=words).output.split() == ["status"]
print(*sys.modules)
"""


def test_version_help_and_completion_import_no_command() -> None:
    done = subprocess.run([sys.executable, "-c", _LISTED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.split())
    assert not modules & {"numpy", "aiokafka", "aiohttp", "msgspec"}
    ours = {each for each in modules if each.split(".")[0] == "curb"}
    assert ours == {"curb", "curb.cli", "curb.cli.lazy", "curb.cli.main", "curb.logs"}


@pytest.mark.parametrize("arguments", [["prices", "show", "--help"], ["resume", "--help"]])
def test_a_command_imports_its_own_module(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    imported = []
    monkeypatch.setattr(lazy, "import_module", lambda module: imported.append(module) or import_module(module))
    result = CliRunner().invoke(app, arguments, prog_name="curb")
    assert (result.exit_code, f"Usage: curb {' '.join(arguments[:-1])}" in result.output) == (0, True)
    assert imported == [COMMANDS[arguments[0]].target.partition(":")[0]]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_listed_help_is_the_command_s(name: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, lazy.LazyGroup)
    command = group.load(name)
    assert command.name == name
    assert COMMANDS[name].help == " ".join(command.help.split("\n\n")[0].split())


_WITHOUT_EXTRAS = """
import importlib, pkgutil, sys
for name in "apprise boto3 fsspec google matplotlib mcp opentelemetry prophet pyarrow river statsmodels".split():
    sys.modules[name] = None  # as if it were not installed
import curb
for module in pkgutil.walk_packages(curb.__path__, "curb."):
    if not module.name.startswith("curb.testing"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError:
            print(module.name)
"""
#: Modules of kinds and commands that a setting or an extra asks for, by how they begin.
_OF_EXTRAS = (
    "curb.connectors.bills.",
    "curb.connectors.tokens.ot",
    "curb.actions.notify.apprise",
    "curb.cli.assistant.",
)


def test_a_default_install_can_run_every_command_but_those_of_extras() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_EXTRAS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [each for each in done.stdout.split() if not each.startswith(_OF_EXTRAS)] == []


def test_an_unknown_command_is_refused_with_the_nearest() -> None:
    result = CliRunner().invoke(app, ["stats"])
    assert result.exit_code == 2
    assert "No such command 'stats'. Did you mean 'status'" in result.output
