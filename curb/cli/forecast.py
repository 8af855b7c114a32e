"""`curb forecast`: the table, the JSON lines and the chart."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from curb import wiring
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, load_figures, refuse_unknown_scope
from curb.cli.offline import NotReachableError, daemon_json
from curb.config.file import CurbConfig
from curb.detector.forecast.pool import PoolSettings
from curb.format import TOO_LITTLE_NOTE, tags_text
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.money import chance, usd
from curb.views.forecast import DaySums, Question, answer_all, billed_scopes, read_events, read_log, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS, _PANEL_PX, _DPI = 4, (600, 300), 100
#: Characters; a narrower table leaves columns out, so that names and amounts stay whole.
_WIDE = 130
# Okabe and Ito's palette: distinct for every kind of colour vision; line styles differ as well.
_SPENT, _COMING, _BUDGET, _INK, _GREY, _PALE = "#0072B2", "#0072B2", "#CC79A7", "#1d1c1d", "#6b6f76", "#e6e8eb"


def forecast(
    source: Annotated[
        Path | None,
        typer.Argument(help="Recorded events, a directory or a file. Default: the running daemon, or its log."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    scope: Annotated[str, typer.Option("--scope", help="The scope whose series to forecast.")] = "team",
    top: Annotated[int, typer.Option("--top", min=1, help="Number of series, most dollars first.")] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="No fits (Holt-Winters, Prophet): a fast answer.")] = False,
    chart: Annotated[Path | None, typer.Option("--chart", help="Write a PNG of the first four here.")] = None,
    json_lines: JsonOption = False,
) -> None:
    """Forecast the cost of each tag at the end of its period, with an interval, and when its budget is exceeded."""
    loaded = CurbConfig() if source is not None and not config.exists() else load_figures(config)
    refuse_unknown_scope("forecast", loaded, scope)
    try:
        code = run_forecast(
            loaded, source, scope=scope, top=top, quick=quick, chart=chart, json_lines=json_lines, console=Console()
        )
    except (OSError, PermanentError, TransientError) as error:
        typer.echo(f"forecast: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


def run_forecast(
    config: CurbConfig,
    source: Path | None,
    *,
    scope: str,
    top: int,
    quick: bool,
    chart: Path | None,
    json_lines: bool,
    console: Console,
) -> int:
    """Show forecasts of recorded events at `source`, or of the running daemon, or of its log; the exit code.

    Raises FileNotFoundError for a source that is not there, PermanentError and TransientError for a log.
    """
    if source is not None:
        asked, known_until = report(read_events(source, config.detector), config.detector, scope, top)
        rows = _answers(asked, quick, console)
    elif scope in billed_scopes(config.detector):  # the daemon keeps no days of bills; the log has them
        asked, known_until = report(asyncio.run(_days_of_log(config)), config.detector, scope, top)
        rows = _answers(asked, quick, console)
    else:
        try:
            found = asyncio.run(daemon_forecasts(config, scope, top))
            rows, known_until = found["rows"], found["at"]
        except NotReachableError as error:
            console.print(f"{error}; reading the log", style="dim")
            asked, known_until = report(asyncio.run(_days_of_log(config)), config.detector, scope, top)
            rows = _answers(asked, quick, console)
    if json_lines:
        for each in rows:
            print(msgspec.json.encode(each).decode())
    else:
        show(console, rows, known_until)
    if chart is not None and rows:
        chart.write_bytes(draw(rows))
        console.print(f"chart written to {chart}", style="dim")
    return 0 if rows else 1


async def _days_of_log(config: CurbConfig) -> DaySums:
    async with wiring.open_log(config, WallClock()) as log:
        return await read_log(log, config.detector)


def _answers(asked: Sequence[Question], quick: bool, console: Console) -> list[dict[str, Any]]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("forecasts", total=len(asked))
        return answer_all(
            asked, PoolSettings(), quick=quick, report_done=lambda done: progress.update(task, completed=done)
        )


async def daemon_forecasts(config: CurbConfig, scope: str, top: int) -> dict[str, Any]:
    """/v1/forecast of the daemon the configuration describes. Raises NotReachableError."""
    return await daemon_json(config, "/v1/forecast", {"scope": scope, "limit": str(top)}, timeout_s=10)


def show(console: Console, rows: Sequence[dict[str, Any]], known_until: str) -> None:
    """A table, one line per forecast."""
    if not rows:
        console.print("no spend in this scope yet")
        return
    table = Table(title=f"Forecast, known up to {known_until}", title_justify="left", header_style="bold", expand=False)
    wide = console.width >= _WIDE
    more = (["until"], ["$ imputed"], ["$ budget"], ["method"]) if wide else ([], [], [], [])
    until, imputed, budget, method = more
    columns = ["series", *until, "$ spent", *imputed, "$ forecast", "$ 80 % interval", *budget, "over", *method]
    for column in columns:
        right = column.startswith("$")
        table.add_column(
            column, justify="right" if right else "left", overflow="fold", no_wrap=right and column not in budget
        )
    for each in rows:
        period = f"{each['period']}, {each['period_end']}"
        of = "" if each["budget"] is None else f"{usd(each['budget_usd'])} {each['budget']}"
        name = tags_text(each["tags"])
        table.add_row(
            name if wide else name + Text(f"\n{period}" + (f"\nbudget {of}" if of else ""), "dim"),
            *[period] * wide,
            usd(each["spent_usd"]),
            *[usd(each["imputed_usd"]) if each.get("imputed_usd") else ""] * wide,
            Text("–" if each["forecast_usd"] is None else usd(each["forecast_usd"]), "bold"),
            "–" if each["low_usd"] is None else f"{usd(each['low_usd'])} – {usd(each['high_usd'])}",
            *[Text(of)] * wide,
            _breach(each),
            *["" if each["forecast_usd"] is None else f"{each['method']}, {each['past_errors']} past"] * wide,
        )
    console.print(table)
    if any(each["forecast_usd"] is None for each in rows):
        console.print(TOO_LITTLE_NOTE, style="yellow", soft_wrap=True)
    missing = sorted({name for each in rows for name in each["missing"]})
    if missing:
        what = "long histories are forecast by simpler methods alone"
        console.print(f"not installed: {', '.join(missing)}; {what}", style="yellow")


def _breach(each: dict[str, Any]) -> Text:
    if each["budget"] is not None and each["breach_probability"] is None:
        return Text("–")
    if each["breach_probability"] is None:
        return Text("")
    likely = chance(each["breach_probability"])
    if each["breach_date"] is None:
        return Text(f"{likely} likely")
    over = each["spent_usd"] > each["budget_usd"]
    return Text("over now" if over else f"{each['breach_date']}, {likely} likely", "bold red")


# --- the chart ----------------------------------------------------------------------------------------------------


def draw(rows: Sequence[dict[str, Any]]) -> bytes:
    """A PNG with one panel per row, four at most: dollars since the start of the period, and the forecast.

    Raises PermanentError when matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise PermanentError("charts need matplotlib: install curbd[charts]") from None
    shown = rows[:_PANELS]
    across = min(2, len(shown))
    down = -(-len(shown) // across)
    size = (max(2, across) * _PANEL_PX[0] / _DPI, (down * _PANEL_PX[1] + 40) / _DPI)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, each in zip(figure.subplots(down, across, squeeze=False).flat, shown, strict=False):
        _panel(axes, each)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    most = max(figure.axes, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    figure.legend(*most.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


def _panel(axes: Axes, each: dict[str, Any]) -> None:
    begin, end = date.fromisoformat(each["period_start"]), date.fromisoformat(each["period_end"])
    first = date.fromisoformat(each["first_day"])
    past = each["past_usd"][max(0, (begin - first).days) :]
    spent, today = each["spent_usd"], each["today_usd"] if each["coming_usd"] else 0.0
    over = min(len(past) + max(0, (first - begin).days), (end - begin).days)  # days of the period that are over
    # Days before the shown ones are in the total only.
    days = [*range(over - len(past), over + 1)]
    sums = [spent - today - sum(past[i:]) for i in range(len(past) + 1)]
    ahead = [over + each["today_elapsed"], *range(over + 1, over + 1 + len(each["coming_usd"]))]
    coming = [0.0, *accumulate(each["coming_usd"])]
    if each["coming_usd"]:
        days, sums = [*days, ahead[0]], [*sums, spent]
    axes.plot(days, sums, color=_SPENT, lw=2.4, label="spent")
    known = each["forecast_usd"] is not None
    if known:
        rest = coming[-1] or 1.0
        # What was not seen of the days that are over is expected, not spent.
        so_far = spent + each.get("imputed_usd", 0.0)
        low, high = ((each[name] - so_far) / rest for name in ("low_usd", "high_usd"))
        under, over_it = ([so_far + share * x for x in coming] for share in (low, high))
        x, line = ahead[: len(coming)], [so_far + usd_ahead for usd_ahead in coming]
        axes.fill_between(x, under, over_it, color=_GREY, alpha=0.2, lw=0, label="80 % interval")
        axes.plot(x, line, color=_COMING, lw=2, ls=(0, (4, 2)), label="forecast")
    if each["budget_usd"] is not None:
        axes.axhline(each["budget_usd"], color=_BUDGET, lw=1.8, ls="-.", label="budget")
    _style(axes, begin, (end - begin).days)
    name = " ".join(f"{key}={value}" for key, value in each["tags"].items()) or each["scope"]
    shown = usd(each["forecast_usd"]) if known else "too little history"
    axes.set_title(f"{name}: {shown}".replace("$", r"\$"), loc="left", size=11, color=_INK)


def _style(axes: Axes, begin: date, days: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(0, days)
    low, high = axes.get_ylim()
    axes.set_ylim(low if low < -0.1 * high else 0.0, high * 1.03)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color=_PALE, lw=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_GREY, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: (begin + timedelta(days=x)).strftime("%d %b")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: usd(x).removesuffix(".00").replace("$", r"\$")))
