"""`curb prices`: prices of models, and updates of the price book."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb.cli import common as asking
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, JsonOption
from curb.cli.render import left_out
from curb.connectors.pricing.book import PriceBook
from curb.connectors.pricing.update import Update, figures, prepare, write

app = typer.Typer(no_args_is_help=True, help="Prices of models, and updates of the price book.")
_PER_MILLION = 1e6
#: Changes shown one by one; all of them with --json.
_SHOWN = 40


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Name of a model, with or without its provider.")],
    config: ConfigOption = DEFAULT_CONFIG,
    at: Annotated[str, typer.Option("--at", metavar="DATE", help="The price on this day, YYYY-MM-DD (UTC).")] = "",
    organization: Annotated[str, typer.Option("--organization", help="Apply its terms; the tag `org` of usage.")] = "",
    json_lines: JsonOption = False,
) -> None:
    """Show the price of a model, after discounts and overrides. Exit code 1 for a model without a price.

    Without a configuration file it uses the book shipped with Curb.
    """
    book = _book(config)
    time = _midnight(at) if at else datetime.now(UTC).timestamp()
    price = book.find(model, at=time, organization=organization)
    if price is None:
        typer.echo(
            f"no price for {model} in book {book.hash} of {book.as_of}: its usage is priced as unknown", err=True
        )
        raise typer.Exit(1)
    found = figures(price)
    if json_lines:
        shown = {"model": model, "book": book.hash, "as_of": book.as_of, "provider": price.provider, "usd": found}
        print(json.dumps({**shown, "surcharges": dict(price.uplifts), "left_out": book.left_out}))
        return
    table = Table(title_justify="left", header_style="bold")
    table.title = Text(f"{model}, book {book.hash} of {book.as_of}")
    table.add_column("price")
    table.add_column("$ per million tokens, or each", justify="right")
    for name, usd in found.items():
        table.add_row(Text(name), f"{usd:,.6g}" if name.startswith("per ") else f"{usd * _PER_MILLION:,.6g}")
    console = Console()
    console.print(table)
    for name, factor in price.uplifts.items():
        console.print(f"  surcharge {name}: tokens cost {factor:g} times as much", markup=False)
    for sentence in left_out(book):
        console.print(f"  left out: {sentence}", style="yellow", markup=False, soft_wrap=True)


@app.command()
def update(
    file: Annotated[Path, typer.Argument(help="A price map in LiteLLM's format, .json or .json.gz.")],
    config: ConfigOption = DEFAULT_CONFIG,
    starts: Annotated[
        str, typer.Option("--from", metavar="DATE", help="First day of the new prices; default: the map's own date.")
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Also remove models that the map lacks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the changes.")] = False,
    json_lines: JsonOption = False,
) -> None:
    """Check a newer price map, show the changes, and write the configured book (`prices.book`) in one step.

    The old file stays beside it, under its hash. Old prices stay in the book with their last day, so that late usage is
    priced correctly. A running daemon loads the new book at its next start.
    """
    settings = asking.load(config).prices
    if settings.book is None:
        typer.echo("prices.book is not set: name the file there that Curb may write", err=True)
        raise typer.Exit(2)
    target = settings.book.expanduser()
    try:
        found = prepare(target if target.exists() else None, file, starts=starts, remove=remove)
        kept = None if dry_run else write(target, found)
    except (OSError, ValueError) as error:
        typer.echo(f"prices: {error}", err=True)
        raise typer.Exit(2) from None
    if json_lines:
        for change in found.changes:
            print(json.dumps(change._asdict()))
        return
    _show_update(Console(), found, removed=remove)
    if dry_run:
        typer.echo("nothing written (--dry-run)")
    else:
        typer.echo(f"{target} written, book {found.hash_after}" + (f"; the old one is {kept}" if kept else ""))


def _show_update(console: Console, found: Update, *, removed: bool) -> None:
    if found.changes:
        table = Table(title=f"Prices from {found.starts}", title_justify="left", header_style="bold")
        for name in ("model", "price", "$ before", "$ after", "change"):
            table.add_column(name, justify="right" if name in ("$ before", "$ after", "change") else "left")
        largest = sorted(found.changes, key=lambda change: -abs(_change(change.before, change.after) or 1e9))
        for change in largest[:_SHOWN]:
            part = _change(change.before, change.after)
            table.add_row(
                Text(change.model),
                Text(change.price),
                "-" if change.before is None else f"{change.before:.6g}",
                "-" if change.after is None else f"{change.after:.6g}",
                "" if part is None else f"{part:+.0%}",
            )
        console.print(table)
        if len(largest) > _SHOWN:
            console.print(f"  and {len(largest) - _SHOWN} more; see --json")
    changed = len({change.model for change in found.changes})
    lacking = "removed" if removed else "missing in the map and kept"
    for fault in found.left_out.values():
        console.print(f"left out: {fault}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"{len(found.added)} models added, {changed} changed, {len(found.missing)} {lacking}")


def _change(before: float | None, after: float | None) -> float | None:
    return (after - before) / before if before and after is not None else None


def _book(config: Path) -> PriceBook:
    settings = asking.load(config).prices if config.exists() else None
    try:
        return PriceBook.load() if settings is None else PriceBook.load(settings.book, settings)
    except (OSError, ValueError) as error:
        typer.echo(f"prices: {error}", err=True)
        raise typer.Exit(2) from None


def _midnight(day: str) -> float:
    try:
        found = date.fromisoformat(day)
    except ValueError:
        typer.echo(f"--at: {day} is no date (YYYY-MM-DD)", err=True)
        raise typer.Exit(2) from None
    return datetime(found.year, found.month, found.day, tzinfo=UTC).timestamp()
