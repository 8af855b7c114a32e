"""`curb forget`: replace a person's name in all that Curb keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from curb import wiring
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load_figures
from curb.config.file import CurbConfig, EmbeddedSettings
from curb.config.owners import known_tags
from curb.forget import Forgotten, Redaction, forget, left_in
from curb.stream.clock import WallClock

console = Console()


def forget_command(
    who: Annotated[str, typer.Argument(metavar="TAG=VALUE", help="Such as end_user=u-123; any tag.")],
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be replaced, and stop.")] = False,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also inside longer words, such as ids of records and addresses.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
) -> None:
    """Replace a value of a tag, such as a person, by a random name in all that Curb keeps. Stop every daemon first.

    Sums stay what they are. It cannot be undone. On Kafka, topics with a retention forget when it is over.
    """
    loaded = load_figures(config)
    tag, _, name = who.partition("=")
    try:
        redaction = Redaction(tag, name, known_tags(loaded.detector), parts=parts)
    except ValueError as error:
        typer.echo(f"forget: {error}", err=True)
        raise typer.Exit(2) from None
    found = ask(_forget(loaded, redaction, dry_run=True))
    _show(found, "would be replaced")
    _say_what_remains(loaded, found)
    left = _left_in(loaded, redaction)
    if left and not found.changed:
        typer.echo("No message holds it, but files do: as another tag, in a longer word, or deleted and still there.")
    if dry_run or not (found.changed or left):
        return
    if not yes and not typer.confirm(f"Replace {name!r} by {redaction.replacement!r} for good?"):
        raise typer.Exit(1)
    redaction.other_tags.clear()
    found = ask(_forget(loaded, redaction, dry_run=False))
    _show(found, f"replaced by {redaction.replacement}")
    if not isinstance(loaded.log, EmbeddedSettings):
        return
    if left := _left_in(loaded, redaction):
        typer.echo("These files still hold it, as another tag, or as a part of a longer word (--parts):")
        for path in left:
            typer.echo(f"  {path}")
        raise typer.Exit(1)
    typer.echo(f"No file in {loaded.log.directory} or {loaded.state_dir} holds it any more.")


def _left_in(config: CurbConfig, redaction: Redaction) -> list[Path]:
    """Files that hold it, of an embedded log."""
    if not isinstance(config.log, EmbeddedSettings):
        return []
    return [path for each in {config.log.directory, config.state_dir} for path in left_in(each, redaction)]


async def _forget(config: CurbConfig, redaction: Redaction, *, dry_run: bool) -> Forgotten:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("reading the log", total=None)

        def progress(topic: str, count: int) -> None:
            shown.update(task, description=f"{topic}: {count:,}" if count else topic)

        async with wiring.open_log(config, WallClock()) as log:
            return await forget(log, redaction, WallClock().now(), progress, dry_run=dry_run)


def _show(found: Forgotten, what: str) -> None:
    for topic, count in sorted(found.changed.items()):
        typer.echo(f"  {topic:20} {count:>9,}")
    typer.echo(f"{sum(found.changed.values()):,} messages: {what}")
    for tag, count in sorted(found.other_tags.items()):
        typer.echo(f"{count:,} times it is the value of {tag} and stays: curb forget {tag}=...")


def _say_what_remains(config: CurbConfig, found: Forgotten) -> None:
    if not isinstance(config.log, EmbeddedSettings) and found.remains:
        typer.echo(f"Kafka deletes these by their retention, {config.log.retention_days} days after they were written:")
        for topic, count in sorted(found.remains.items()):
            typer.echo(f"  {topic:20} {count:>9,}")
