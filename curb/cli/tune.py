"""`curb tune`: the thresholds that suit one's own history, measured on it."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from curb import wiring
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption, ask, load
from curb.config.file import CurbConfig
from curb.logs import setup
from curb.stream.clock import WallClock
from curb.stream.money import usd
from curb.stream.time import DAY_S
from curb.views.alerts_and_actions import LogView

if TYPE_CHECKING:
    from curb.evaluate.tune import Bench, JudgedAlert, TriedSetting

#: Exit code of a command that Ctrl-C ended, as shells have it.
_INTERRUPTED = 130
SourceArgument = Annotated[
    Path | None,
    typer.Argument(help="A directory with events.jsonl.gz, or the file. Default: the log of the configuration."),
]
AlertsOption = Annotated[
    float | None,
    typer.Option(
        "--alerts-per-day", min=0, help="Notices and pages a day that people accept; default: as many as now, or 1."
    ),
]


def tune(
    source: SourceArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=1440, help="Longest time it may take.")] = 10.0,
    days: Annotated[float, typer.Option("--days", min=1, max=400, help="How far back the log is read.")] = 30.0,
    per_shape: Annotated[int, typer.Option("--per-shape", min=1, max=50, help="Injected incidents of a shape.")] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Other incidents in other keys at other times.")] = 1,
    alerts_per_day: AlertsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the YAML to merge here.")] = None,
    json_lines: JsonOption = False,
) -> None:
    """Tune the thresholds on your own history: inject incidents into it, back-test some settings, recommend one.

    Shows for each setting what it finds and loses of the incidents, and how many alerts a day it raises on the history
    as it is. Ctrl-C ends it and shows what was measured. Changes nothing; --out writes a YAML patch.
    """
    from curb.evaluate import tune as tuning

    setup("error", "text")
    loaded = CurbConfig() if source is not None and not config.exists() else load(config)
    console, begun = Console(stderr=json_lines), time.perf_counter()
    try:
        with _recorded(source, loaded, days) as (path, judged):
            left = minutes - (time.perf_counter() - begun) / 60
            bench = tuning.prepare(path, loaded.detector, per_shape=per_shape, seed=seed, minutes=left, judged=judged)
            _announce(console, bench, minutes)
            tried, interrupted = _measured(bench, begun + minutes * 60)
        if not tried:
            typer.echo("tune: not even the current settings were measured; give more --minutes", err=True)
            raise typer.Exit(_INTERRUPTED if interrupted else 1)
        best = tuning.recommend(tried, alerts_per_day)
        patch = tuning.patch(tried[0], best, bench.counted_days)
        if json_lines:
            print(msgspec.json.encode(_data(bench, tried, best, interrupted=interrupted)).decode())
        else:
            _show(console, bench, tried, best)
        if out is not None:
            out.write_text(patch, encoding="utf-8")
            typer.echo(f"written to {out}; merge it into {config}", err=True)
        elif not json_lines:
            console.print(Text(patch.rstrip()))
    except (OSError, ValueError) as error:
        typer.echo(f"tune: {error}", err=True)
        raise typer.Exit(2) from None
    if interrupted:
        raise typer.Exit(_INTERRUPTED)


@contextmanager
def _recorded(source: Path | None, config: CurbConfig, days: float) -> Iterator[tuple[Path, list[JudgedAlert]]]:
    """The stream, from the log in a temporary file, and the verdicts that are on the log."""
    if source is not None:
        from curb.evaluate.known import known_incidents

        yield source, known_incidents(source if source.is_dir() else source.parent)
        return
    from curb.export import export

    with tempfile.TemporaryDirectory(prefix="curb-tune-") as directory:
        path = Path(directory) / "events.jsonl"
        with path.open("wb") as file:
            count = ask(export(config, (WallClock().now() - days * DAY_S, float("inf")), {}, file))
        if not count:
            raise ValueError("the log holds no usage; give a recorded directory, or see curb backfill")
        yield path, ask(verdicts(config))


async def verdicts(config: CurbConfig) -> list[JudgedAlert]:
    """Alerts on the log with the newest verdict of a person."""
    from curb.evaluate.tune import JudgedAlert

    async with wiring.open_log(config, WallClock()) as log:
        view = await LogView().load(log)
    said = ((view.alerts.get(name), each[-1].verdict) for name, each in view.feedback.items() if each)
    found = (JudgedAlert.of(alert, verdict) for alert, verdict in said if alert is not None)
    return [each for each in found if each is not None]


def _announce(console: Console, bench: Bench, minutes: float) -> None:
    """What will be done and how long it takes, before it starts."""
    shapes = Counter(each.shape.name for each in bench.incidents)
    costs = sum(each.label.excess_usd for each in bench.incidents)
    runs = 2 * len(bench.points)
    about = min(minutes, runs * bench.run_s / 60)
    console.print(
        f"{(bench.end - bench.start) / DAY_S:.1f} days of history, of which the last {bench.counted_days:.1f} count; "
        f"{bench.bucket_s} s buckets"
    )
    console.print(
        f"{len(bench.incidents)} incidents of {usd(costs)} in all are injected: "
        + ", ".join(f"{count} {name}" for name, count in shapes.items())
    )
    if bench.judged:
        console.print(f"{len(bench.judged)} alerts have a person's verdict")
    console.print(
        f"{len(bench.points)} settings, {runs} back-tests of about {bench.run_s:.0f} s: about {about:.1f} minutes, at "
        f"most {minutes:g}. Ctrl-C ends it and shows what was measured."
    )


def _measured(bench: Bench, deadline: float) -> tuple[list[TriedSetting], bool]:
    """What was measured in time, and whether Ctrl-C ended it."""
    from curb.evaluate.tune import measure

    tried: list[TriedSetting] = []
    columns = (TextColumn("back-testing"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=2 * len(bench.points))
        try:
            for each in measure(bench, deadline, lambda done: shown.update(task, completed=done)):
                tried.append(each)
        except KeyboardInterrupt:
            return tried, True
    return tried, False


def _data(bench: Bench, tried: list[TriedSetting], best: TriedSetting, *, interrupted: bool) -> dict[str, Any]:
    from curb.evaluate.tune import as_data, frontier

    return {
        "days": (bench.end - bench.start) / DAY_S,
        "counted_days": bench.counted_days,
        "bucket_s": bench.bucket_s,
        "incidents": [
            {
                "shape": each.shape.name,
                "tags": each.label.tags,
                "start": each.label.start,
                "end": each.label.end,
                "usd": each.label.excess_usd,
            }
            for each in bench.incidents
        ],
        "tried": [as_data(each) for each in tried],
        "frontier": [tried.index(each) for each in frontier(tried)],
        "current": 0,
        "recommended": tried.index(best),
        "settings_left": len(bench.points) - len(tried),
        "interrupted": interrupted,
    }


def _show(console: Console, bench: Bench, tried: list[TriedSetting], best: TriedSetting) -> None:
    """The settings, the quietest first; what now and the recommended one find; their alerts by tier."""
    from curb.evaluate.tune import frontier

    ahead = frontier(tried)
    table = Table(title="Settings", title_justify="left", header_style="bold")
    columns = ["", "floors", "notice at", "page at", "found", "$ lost", "lost", "alerts / day", "pages / day"]
    judged = bool(sum(tried[0].real) or sum(tried[0].wrong))
    columns += ["real raised", "wrong raised"] if judged else []
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number > 1 else "left", no_wrap=True)
    for each in sorted(tried, key=lambda one: (one.alerts_per_day, one.lost_share)):
        marks = [text for text, marked in (("now", tried[0]), ("recommended", best)) if each is marked]
        cells = [
            " ".join([*(["•"] if each in ahead else []), ", ".join(marks)]),
            f"{usd(each.setting.floors_usd[0])} to {usd(each.setting.floors_usd[-1])}",
            usd(each.setting.notice_at_risk_usd),
            usd(each.setting.page_at_risk_usd),
            f"{each.recall:.0%}",
            usd(each.lost_usd),
            f"{each.lost_share:.1%}",
            f"{each.alerts_per_day:.2f}",
            f"{each.pages_per_day:.2f}",
        ]
        cells += [f"{got} of {of}" for got, of in (each.real, each.wrong)] if judged else []
        table.add_row(*cells, style="bold" if marks else "" if each in ahead else "dim")
    console.print(table)
    console.print("  •: no other setting is better in dollars lost, incidents found and alerts a day at once")
    if len(tried) < len(bench.points):
        console.print(f"  {len(bench.points) - len(tried)} settings were not measured: the time was over")
    console.print(_by_shape(tried[0], best))
    console.print(_by_tier(bench, tried[0], best))


def _by_shape(now: TriedSetting, best: TriedSetting) -> Table:
    table = Table(title="Incidents found", title_justify="left", header_style="bold")
    for name in ("shape", "now", "recommended"):
        table.add_column(name, justify="left" if name == "shape" else "right")
    for shape, (caught, of) in now.by_shape.items():
        table.add_row(shape, f"{caught} of {of}", f"{best.by_shape[shape][0]} of {of}")
    return table


def _by_tier(bench: Bench, now: TriedSetting, best: TriedSetting) -> Table:
    """Alerts on the history as it is, of the last month or what there is of it."""
    title = f"Alerts of the last {bench.counted_days:.0f} days"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("tier", "now", "recommended"):
        table.add_column(name, justify="left" if name == "tier" else "right")
    for tier, count in now.tiers.items():
        table.add_row(tier, str(count), str(best.tiers[tier]))
    return table
