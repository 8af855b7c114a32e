"""`curb preflight`: prices a run, compares it with every budget that would count it, and answers with an exit code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curb import wiring
from curb.actions.notify.wording import clean
from curb.cli import budgets, offline
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, load
from curb.cli.preflight.cost import ANY, GpuHours, RunCost, calls_cost, gpu_cost
from curb.cli.preflight.fit import BudgetFit, Compared, FitVerdict, PlannedRun, compare
from curb.cli.preflight.manifest import JobRequest, ManifestError, read_jobs
from curb.config.file import FIGURE_PARTS, CurbConfig, EmbeddedSettings
from curb.format import TOO_LITTLE_NOTE, tags_text
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.money import usd
from curb.stream.records.spend import UsageRecord
from curb.stream.time import iso, moment

#: What of the configuration must be right: the secrets of gateways and notifiers are not in a CI job.
_PARTS = FIGURE_PARTS | {"attribution", "prices", "http"}
_START = "start `curb run`, or give a recording (--from)"
#: Exit codes; 2 is an error, as everywhere.
_CODES: dict[FitVerdict, int] = {"fits": 0, "over": 1, "crosses": 3}
_ERROR = 2
#: Characters; a narrower output leaves columns out, so that names and amounts stay whole.
_WIDE = 130
_STYLES: dict[FitVerdict, str] = {"fits": "green", "crosses": "yellow", "over": "bold red"}

TagOption = Annotated[
    list[str] | None, typer.Option("--tag", "-t", help="A tag of the run, such as team=search; repeat for more.")
]
UsdOption = Annotated[float | None, typer.Option("--usd", min=0, help="Dollars of the run, where they are known.")]
GpuOption = Annotated[str | None, typer.Option("--gpu", help="Model of its GPUs, such as h100 or A100-80GB.")]
CountOption = Annotated[float | None, typer.Option("--count", min=0, help="Number of GPUs; default: 1.")]
HoursOption = Annotated[float | None, typer.Option("--hours", min=0, help="How long it runs.")]
InstanceOption = Annotated[str, typer.Option("--instance", help="Instance type of its nodes, which has the price.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model that it calls, as in `curb prices`.")]
InputOption = Annotated[int, typer.Option("--input-tokens", min=0, help="Input tokens of one request.")]
OutputOption = Annotated[int, typer.Option("--output-tokens", min=0, help="Output tokens of one request.")]
RequestsOption = Annotated[int, typer.Option("--requests", min=0, help="Number of requests.")]
ManifestOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="A manifest with Kubernetes Jobs or CronJobs, instead of the above.")
]
RunsOption = Annotated[int, typer.Option("--runs", min=1, help="How often it runs, such as runs of a CronJob.")]
SourceOption = Annotated[
    Path | None, typer.Option("--from", help="A recorded directory (or file) instead of the daemon or its log.")
]
PreflightJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for other programs.")]


class _Ask(NamedTuple):
    """What was asked on the command line."""

    tags: dict[str, str]
    usd: float | None
    gpu: str | None
    gpus: float | None
    hours: float | None
    instance: str
    model: str | None
    input_tokens: int
    output_tokens: int
    requests: int
    runs: int


class _Wrong(Exception):
    """It cannot be compared; the text says why."""


def preflight(
    config: ConfigOption = DEFAULT_CONFIG,
    tag: TagOption = None,
    dollars: UsdOption = None,
    gpu: GpuOption = None,
    count: CountOption = None,
    hours: HoursOption = None,
    instance: InstanceOption = "",
    model: ModelOption = None,
    input_tokens: InputOption = 0,
    output_tokens: OutputOption = 0,
    requests: RequestsOption = 1,
    file: ManifestOption = None,
    runs: RunsOption = 1,
    source: SourceOption = None,
    json_lines: PreflightJsonOption = False,
) -> None:
    """Ask whether a run fits its budgets before it starts: by dollars, GPU hours, calls of a model, or a manifest.

    It asks the running daemon, or else counts the log, and changes nothing. Exit code 0: it fits. 1: with it, a budget
    is exceeded. 3: it fits now, and by the forecast the budget is exceeded before its period ends. 2: an error.
    """
    loaded = load(config, _PARTS)
    try:
        ask = _Ask(
            _pairs(tag or []), dollars, gpu, count, hours, instance, model, input_tokens, output_tokens, requests, runs
        )
        rows, now, behind = _standing(loaded, source)
        costs = _costs(loaded, ask, file, now)
        planned = [PlannedRun(cost.usd, cost.hours, _tags(loaded, tags), cost.sources) for cost, tags in costs]
    except (_Wrong, ManifestError, OSError, PermanentError, TransientError) as error:
        typer.echo(f"preflight: {error}", err=True)
        raise typer.Exit(_ERROR) from None
    found = compare(planned, rows, loaded.detector, now)
    answer = _Answer([cost for cost, _ in costs], found, _missing(loaded, planned), behind)
    if json_lines:
        print(msgspec.json.encode(answer.as_data()).decode())
    else:
        answer.show(Console())
    raise typer.Exit(_CODES[found.verdict])


def _standing(config: CurbConfig, source: Path | None) -> tuple[list[dict[str, Any]], float, bool]:
    """Where budgets stand, when (epoch seconds), and whether more may be spent than is counted yet.

    Raises _Wrong where there is nothing to compare with, rather than saying that it fits.
    """
    now = WallClock().now()
    if not config.detector.budgets:
        raise _Wrong("no budget is configured (detector.budgets), so there is nothing to compare with")
    if source is not None:
        recorded = budgets.recorded(source, config.detector)
        return recorded.rows, recorded.until or now, False
    try:
        status = asyncio.run(offline.daemon_status(config))
        rows = asyncio.run(offline.daemon_json(config, "/v1/budgets"))["budgets"]
    except offline.NotReachableError as error:
        log = config.log
        if isinstance(log, EmbeddedSettings) and not log.directory.is_dir():  # opening it would make it
            raise _Wrong(f"{error}, and there is no log in {log.directory}: {_START}") from None
        typer.echo(f"{error}; counted from the log", err=True)
    else:
        return rows, now, not status["ready"]
    counted = asyncio.run(budgets.on_the_log(config, config.detector))
    if counted.until is None:
        raise _Wrong(f"no daemon answers, and no spend is on the log: {_START}")
    return counted.rows, now, False


def _costs(config: CurbConfig, ask: _Ask, file: Path | None, now: float) -> list[tuple[RunCost, dict[str, str]]]:
    """The parts of the run with their tags."""
    if file is not None:
        if ask.usd is not None or ask.model is not None or ask.gpus is not None:
            raise _Wrong("--file says what runs: --usd, --count and --model do not go with it")
        found = [_job_cost(config, ask, job, now) for job in read_jobs(file, config)]
    else:
        found = [(each, ask.tags) for each in _parts(config, ask, now)]
    if not found:
        raise _Wrong("say what it costs: --usd, --gpu with --hours, --model with --input-tokens, or --file")
    return [(cost._replace(usd=cost.usd * ask.runs), tags) for cost, tags in found]


def _parts(config: CurbConfig, ask: _Ask, now: float) -> list[RunCost]:
    found = []
    if ask.usd is not None:
        found.append(RunCost("as given", ask.usd, ANY, ask.hours))
    if ask.gpu is not None or ask.instance or ask.gpus is not None:
        if ask.hours is None:
            raise _Wrong("GPUs need --hours")
        wanted = GpuHours(ask.gpu or "", 1.0 if ask.gpus is None else ask.gpus, ask.hours, ask.instance)
        found.append(gpu_cost(config, wanted, now))
    if ask.model is not None:
        book, organization = wiring.load_prices(config.prices), ask.tags.get("org", "")
        calls = calls_cost(book, ask.model, ask.input_tokens, ask.output_tokens, ask.requests, now, organization)
        found.append(calls._replace(hours=ask.hours))
    return found


def _job_cost(config: CurbConfig, ask: _Ask, job: JobRequest, now: float) -> tuple[RunCost, dict[str, str]]:
    """A Job ends at its deadline, or before when --hours says so."""
    known = [each for each in (job.hours, ask.hours) if each is not None]
    if not known and job.gpus:
        raise _Wrong(f"{job.name} has no activeDeadlineSeconds: say with --hours how long it runs")
    wanted = GpuHours(
        ask.gpu or job.gpu, job.gpus, min(known, default=0.0), ask.instance or job.instance, region=job.region
    )
    cost = gpu_cost(config, wanted, now) if job.gpus else RunCost("no GPUs", 0.0, ANY)
    return cost._replace(what=f"{job.name}: {cost.what}"), {**job.tags, **ask.tags}


def _tags(config: CurbConfig, tags: dict[str, str]) -> dict[str, str]:
    """The tags after attribution, as the records of the run will have them."""
    record = UsageRecord(id="preflight", charge_period_start=0.0, received_at=0.0, effective_cost=0.0, tags=dict(tags))
    return dict(wiring.make_attribution(config).verdict(record, "preflight").tags)


def _missing(config: CurbConfig, runs: list[PlannedRun]) -> list[str]:
    """Tags that all spend should carry and a run does not."""
    return [tag for tag in config.attribution.required if any(tag not in run.tags for run in runs)]


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise _Wrong(f"--tag {each!r} is not name=value")
        pairs[name.strip()] = value.strip()
    return pairs


# --- the answer -------------------------------------------------------------------------------------------------------


class _Answer(NamedTuple):
    """Costs, budgets and what is missing."""

    costs: list[RunCost]
    compared: Compared
    required: list[str]
    #: The daemon has not read all that is on the log yet.
    behind: bool

    @property
    def usd(self) -> float:
        return sum(cost.usd for cost in self.costs)

    def warnings(self) -> list[str]:
        """Prices that are not sure, and tags without which no budget holds the run."""
        found = [cost.doubt for cost in self.costs if cost.doubt]
        if self.behind:
            found.append("the daemon is behind its log: more may be spent than is counted here")
        for tag, names in self.compared.missing.items():
            what = f"not compared with {', '.join(names)}" if self.compared.fits else "nobody's budget holds it"
            found.append(f"no {tag}: {what}")
        found += [
            f"no {tag}: attribution.required asks for it" for tag in self.required if tag not in self.compared.missing
        ]
        if not self.compared.fits and not self.compared.missing:
            found.append("no budget matches these tags: nobody's budget holds it")
        return found

    def sentence(self) -> str:
        """The verdict."""
        fits = self.compared.fits
        if not fits:
            return f"{usd(self.usd)}: it fits, as no budget holds it."
        verdict = self.compared.verdict
        tight = max((each for each in fits if each.verdict == verdict), key=_tightness)
        name = f"{tight.name} {tags_text(tight.tags).plain}".strip()
        if verdict == "over":
            later = tight.with_usd <= tight.amount_usd
            spent = tight.later_usd if later else tight.with_usd
            what = "a later period of " if later else ""
            over = usd(spent - tight.amount_usd)
            return (
                f"It does not fit: with it, {what}{name} comes to {usd(spent)} of {usd(tight.amount_usd)}, {over} over."
            )
        if verdict == "crosses":
            until = iso(tight.period_end)[:10]
            alone = ", which it is without it as well" if (tight.forecast_usd or 0.0) > tight.amount_usd else ""
            return (
                f"It fits now, but {name} is forecast at {_usd(tight.forecast_with_usd)} of {usd(tight.amount_usd)} by "
                f"{until}: over{alone}."
            )
        return (
            f"It fits: {usd(self.usd)} leaves {usd(tight.amount_usd - tight.with_usd)} of {name}, the tightest budget."
        )

    def show(self, console: Console) -> None:
        """For people."""
        for cost in self.costs:
            console.print(Text(f"{usd(cost.usd)}  ", "bold") + Text(clean(cost.what, 200)), soft_wrap=True)
        if self.compared.fits:
            console.print(_table(self.compared.fits, wide=console.width >= _WIDE))
            if any(each.forecast_usd is None for each in self.compared.fits):
                console.print(TOO_LITTLE_NOTE, style="yellow", soft_wrap=True)
        for warning in self.warnings():
            console.print(Text(warning, "yellow"), soft_wrap=True)
        console.print(Text(self.sentence(), _STYLES[self.compared.verdict]), soft_wrap=True)

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "verdict": self.compared.verdict,
            "exit_code": _CODES[self.compared.verdict],
            "usd": self.usd,
            "costs": [{"what": cost.what, "usd": cost.usd, "hours": cost.hours} for cost in self.costs],
            "budgets": [each.as_data() for each in self.compared.fits],
            "warnings": self.warnings(),
            "sentence": self.sentence(),
        }


def _tightness(fit: BudgetFit) -> float:
    return max(fit.forecast_with_usd or 0.0, fit.with_usd, fit.later_usd) / fit.amount_usd


def _usd(value: float | None) -> str:
    return "–" if value is None else usd(value)


def _table(fits: list[BudgetFit], *, wide: bool) -> Table:
    table = Table(title="Budgets that would count it", title_justify="left", header_style="bold")
    left = ("$ left", "$ forecast") if wide else ()
    names = ("budget", *["until"] * wide, "$ amount", "$ spent", *left, "$ spent\nwith it", "$ forecast\nwith it", "")
    for name in names:
        right = name.startswith("$")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "budget")
    for each in sorted(fits, key=_tightness, reverse=True):
        cap = " (hard cap) " if each.hard else " "
        until = moment(each.period_end).strftime("%Y-%m-%d")
        name = Text(each.name, "bold") + Text(cap) + tags_text(each.tags)
        table.add_row(
            name if wide else name + Text(f"\nuntil {until}", "dim"),
            *[until] * wide,
            usd(each.amount_usd),
            usd(each.spent_usd),
            *([usd(each.left_usd), _usd(each.forecast_usd)] if wide else []),
            usd(each.with_usd),
            _usd(each.forecast_with_usd),
            Text(each.verdict, _STYLES[each.verdict]),
        )
    return table
