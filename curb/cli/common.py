"""What commands share: the configuration file, the person, and failures in one line."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from curb.config.errors import ConfigErrors
from curb.config.file import CurbConfig, load_file
from curb.stream.errors import PermanentError, TransientError

T = TypeVar("T")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="CURB_CONFIG", help="The configuration file (YAML).", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line, for other programs.")]
DEFAULT_CONFIG = Path("curb.yaml")


def load(path: Path) -> CurbConfig:
    """The configuration; its errors are printed, exit code 2."""
    try:
        return load_file(path)
    except ConfigErrors as errors:
        typer.echo(f"{path}: {errors}", err=True)
        raise typer.Exit(2) from None


def ask(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` on the log; a log that cannot be read is one line and exit code 1."""
    try:
        return asyncio.run(work)
    except (PermanentError, TransientError) as error:
        typer.echo(f"curb: {error}", err=True)
        raise typer.Exit(1) from None


def person() -> str:
    """The user who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name
        return "unknown"
