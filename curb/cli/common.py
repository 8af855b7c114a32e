"""What commands share: the configuration file, the person, and failures in one line."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Coroutine, Set
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from curb.config.errors import ConfigErrors
from curb.config.file import FIGURE_PARTS, LOG_PARTS, CurbConfig, load_file
from curb.stream.errors import PermanentError, TransientError

T = TypeVar("T")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="CURB_CONFIG", help="The configuration file (YAML).", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for other programs.")]
DEFAULT_CONFIG = Path("curb.yaml")


def load(path: Path, needs: Set[str] | None = None) -> CurbConfig:
    """The configuration, or the parts of it in `needs`; its errors are printed, exit code 2."""
    try:
        return load_file(path, needs)
    except ConfigErrors as errors:
        typer.echo(f"{path}: {errors}", err=True)
        raise typer.Exit(2) from None


def load_log(path: Path) -> CurbConfig:
    """The configuration as far as the log needs it: other parts may be wrong, or lack their secrets on this machine."""
    return load(path, LOG_PARTS)


def load_figures(path: Path) -> CurbConfig:
    """The configuration as far as sums and forecasts of the log need it; other parts may lack their secrets."""
    return load(path, FIGURE_PARTS)


def ask(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` on the log; a log that cannot be read is one line and exit code 1."""
    try:
        return asyncio.run(work)
    except (PermanentError, TransientError) as error:
        typer.echo(f"curb: {error}", err=True)
        raise typer.Exit(1) from None


def refuse_unknown_scope(command: str, config: CurbConfig, scope: str) -> None:
    """One line with the scopes there are, and exit code 2, for the name of none; for a command that found nothing."""
    known = [each.name for each in config.detector.scopes]
    if scope not in known:
        typer.echo(f"{command}: no scope {scope}; configured: {', '.join(known)}", err=True)
        raise typer.Exit(2)


def person() -> str:
    """The user who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        return "unknown"
