"""`curb explain`: the deciding figures of an alert, its sources, similar alerts, and its chart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from curb import wiring
from curb.cli import common as asking
from curb.cli import explain_table
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.cli.offline import NotReachableError
from curb.config.file import CurbConfig
from curb.evaluate.backtest import events_file
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.views import explain_chart
from curb.views.explain_files import read_files
from curb.views.explanation import Explanation, NoSuchAlertError, read_log
from curb.views.explanation import explain as explained


def explain(
    alert_id: Annotated[str, typer.Argument(help="The id from `curb alerts`, or from a back-test's output.")],
    config: ConfigOption = DEFAULT_CONFIG,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="A recorded stream: run a back-test up to the alert. Settings: --config."),
    ] = None,
    chart: Annotated[Path | None, typer.Option("--chart", help="Write a chart (PNG) to this file.")] = None,
    json_lines: JsonOption = False,
) -> None:
    """Explain an alert: the deciding figures, its sources, similar alerts, and events around it.

    Asks the running daemon, or else reads the log. With --dir it runs a recorded stream through the detector, with the
    shipped settings if there is no configuration file.
    """
    console = Console()
    try:
        if directory is None:
            explanation = asking.ask(_from_daemon_or_log(asking.load_figures(config), alert_id))
        else:
            explanation = _recorded(directory, config, alert_id)
    except NoSuchAlertError as error:
        _end(str(error), 1)
    if json_lines:
        print(msgspec.json.encode(explanation).decode())
    else:
        explain_table.show(console, explanation)
    if chart is not None:
        try:
            chart.write_bytes(explain_chart.draw(explanation))
        except (OSError, ValueError, PermanentError) as error:
            _end(f"no picture: {error}", 1)
        typer.echo(f"picture written to {chart}", err=True)


def _recorded(directory: Path, config: Path, alert_id: str) -> Explanation:
    settings = (asking.load_figures(config) if config.exists() else CurbConfig()).detector
    columns = (TextColumn("back-test"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        size = events_file(directory).stat().st_size
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=size)
            recorded = read_files(directory, alert_id, settings, lambda read: progress.update(task, completed=read))
    except (OSError, ValueError) as error:
        _end(str(error), 2)
    return explained(alert_id, recorded, settings)


async def _from_daemon_or_log(config: CurbConfig, alert_id: str) -> Explanation:
    try:
        return await from_daemon(config, alert_id)
    except NotReachableError as error:
        typer.echo(f"{error}; reading the log", err=True)
    async with wiring.open_log(config, WallClock()) as log:
        return explained(alert_id, await read_log(log, alert_id), config.detector)


async def from_daemon(config: CurbConfig, alert_id: str) -> Explanation:
    """/v1/alerts/{id}/explain of the configured daemon. Raises NotReachableError, NoSuchAlertError."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host
    url = f"http://{host}:{config.http.port}/v1/alerts"
    token = config.http.token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.get(f"{url}/{_path(alert_id)}/explain", headers=headers) as answer,
        ):
            body = await answer.read()
            if answer.status == 404:
                raise NoSuchAlertError(f"the daemon knows no alert {alert_id}; see: curb alerts --all")
            if answer.status != 200:
                raise NotReachableError(f"{url} answered HTTP {answer.status}")
            return msgspec.json.decode(body, type=Explanation)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotReachableError(f"no daemon answers at {url} ({type(error).__name__})") from None


def _path(alert_id: str) -> str:
    """The id, if its characters are those of an id: anything else must not become another path."""
    if not alert_id or not all(each.isalnum() or each in "-_." for each in alert_id) or set(alert_id) <= {"."}:
        raise NoSuchAlertError(f"{alert_id!r} is not the id of an alert")
    return alert_id


def _end(why: str, code: int) -> NoReturn:
    typer.echo(f"curb: {why}", err=True)
    raise typer.Exit(code)
