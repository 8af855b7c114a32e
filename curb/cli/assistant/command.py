"""`curb mcp`: a Model Context Protocol server on standard input and output, for assistants on one's own machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from yarl import URL

from curb.cli.common import load

_MISSING = "curb mcp needs the extra `mcp`: pip install 'curbd[mcp]'"


def mcp(
    url: Annotated[str, typer.Option("--url", envvar="CURB_URL", help="The daemon.")] = "http://127.0.0.1:8088",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="A file with the token. Default: the variable CURB_TOKEN.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="With it, `exposure` reads the gateways of this file. Default: without."),
    ] = None,
) -> None:
    """Serve spend, alerts, budgets and leases to an assistant over MCP, read-only; its one verb proposes an action.

    To read takes the role `read`, to propose the role `propose`. Nobody can approve over MCP.
    """
    try:
        from curb.cli.assistant.tools import make_server
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("mcp"):
            raise
        typer.echo(_MISSING, err=True)
        raise typer.Exit(2) from None
    from curb.cli.assistant.api import DaemonApi

    server = make_server(DaemonApi(_checked(url), _token(token_file)), _exposure_of(config) if config else None)
    asyncio.run(server.run_stdio_async())


def _checked(url: str) -> str:
    try:
        given = URL(url)
    except ValueError:
        given = URL()
    if given.scheme not in ("http", "https") or not given.host:
        typer.echo(f"mcp: --url {url!r} is no address such as https://curb.example.org", err=True)
        raise typer.Exit(2)
    return url


def _token(path: Path | None) -> str:
    import os

    if path is None:
        return os.environ.get("CURB_TOKEN", "").strip()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        typer.echo(f"mcp: the token cannot be read: {error}", err=True)
        raise typer.Exit(2) from None


def _exposure_of(path: Path) -> Any:
    """Reads the exposure of the keys of the gateways in a configuration."""
    from curb.cli.exposure import read_exposures
    from curb.views.exposure import total

    loaded = load(path)

    async def read(top: int) -> dict[str, Any]:
        found = await read_exposures(loaded)
        return {"total": total(found), "keys": [each.as_data() for each in found[: max(1, top)]]}

    return read
