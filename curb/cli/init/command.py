"""`curb init`: asks, tries, proposes, writes `curb.yaml` in shadow mode, and says what to do next."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from curb.cli import render
from curb.cli.common import DEFAULT_CONFIG, ConfigOption
from curb.cli.init import answers as said
from curb.cli.init.answers import Answers, WrongAnswerError
from curb.cli.init.file_text import Draft, file_text
from curb.cli.init.look import FirstLook, look_at_chat, look_at_gateway, look_at_log
from curb.cli.init.proposal import ProposedAmounts, propose
from curb.config.errors import ConfigErrors
from curb.config.file import CurbConfig, load_text, variables
from curb.connectors.connector import Check
from curb.connectors.pricing.book import PriceBook
from curb.serve.next_steps import next_steps
from curb.stream.errors import PermanentError
from curb.stream.money import usd
from curb.wiring import load_prices

#: For the check of a file whose variables are not set yet: an address of Apprise, which any other secret may be too.
_STAND_IN = "json://localhost"
#: Written and all that was tried works; written and a test failed; nothing was written, because of an answer or of
#: Ctrl-C.
_OK, _TEST_FAILED, _NOT_WRITTEN, _INTERRUPTED = 0, 1, 2, 130

Ask = Callable[[str, str], str]


GatewayOption = Annotated[
    str | None,
    typer.Option("--gateway", help="litellm, file (JSON lines), otlp (applications export), other (posts) or none."),
]
UrlOption = Annotated[
    str | None, typer.Option("--litellm-url", envvar=said.LITELLM_URL, help="Address of the LiteLLM proxy.")
]
KeyEnvOption = Annotated[
    str | None,
    typer.Option("--litellm-key-env", metavar="NAME", help="Environment variable that holds its master key."),
]
FileOption = Annotated[
    str | None, typer.Option("--usage-file", help="File, directory or pattern of JSON lines, for `file`.")
]
DirOption = Annotated[str | None, typer.Option("--log-dir", help="Directory of the embedded log. Default: curb-data.")]
KafkaOption = Annotated[
    str | None, typer.Option("--kafka", metavar="BROKERS", help="Kafka brokers instead: host:port,host:port.")
]
SlackOption = Annotated[str | None, typer.Option("--slack", help="none, webhook or bot.")]
SlackEnvOption = Annotated[
    str | None,
    typer.Option("--slack-env", metavar="NAME", help="Environment variable with the webhook or the bot's token."),
]
ChannelOption = Annotated[
    str | None, typer.Option("--slack-channel", help="Id of the channel, for `bot`: C0123456789.")
]
MonthOption = Annotated[
    float | None, typer.Option("--monthly-usd", help="Dollars of a month of all spend, if there is a budget.")
]
PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Where Curb listens: page, API and inbox.")]
ZoneOption = Annotated[str, typer.Option("--time-zone", help="Days and months follow it.")]
DaysOption = Annotated[
    float, typer.Option("--days", min=0.1, max=7, help="Days of LiteLLM's spend logs that amounts come from.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: flags and defaults.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]
TestOption = Annotated[bool, typer.Option("--send-test", help="Send a test message to Slack.")]
OneJsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object; needs --yes.")]


def init(
    config: ConfigOption = DEFAULT_CONFIG,
    gateway: GatewayOption = None,
    litellm_url: UrlOption = None,
    litellm_key_env: KeyEnvOption = None,
    usage_file: FileOption = None,
    log_dir: DirOption = None,
    kafka: KafkaOption = None,
    slack: SlackOption = None,
    slack_env: SlackEnvOption = None,
    slack_channel: ChannelOption = None,
    monthly_usd: MonthOption = None,
    time_zone: ZoneOption = "UTC",
    port: PortOption = 8088,
    days: DaysOption = 7.0,
    yes: YesOption = False,
    force: ForceOption = False,
    send_test: TestOption = False,
    json_lines: OneJsonOption = False,
) -> None:
    """Write a first curb.yaml: ask for the gateway, the log, Slack and a budget, try each, and propose caps.

    It reads which keys and limits LiteLLM has and what they spent, and changes nothing there. Secrets stay in
    environment variables; the file is in shadow mode. Exit code 0: written, and all that was tried works; 1: written,
    and a test failed; 2: nothing was written; 130: interrupted, and nothing was written.
    """
    console = Console(stderr=json_lines)
    flags = _Flags(
        gateway, litellm_url, litellm_key_env, usage_file, log_dir, kafka, slack, slack_env, slack_channel, monthly_usd
    )
    try:
        if json_lines and not yes:
            raise WrongAnswerError("--json asks nothing: give --yes as well")
        if config.exists() and not force:
            raise WrongAnswerError(f"{config} is there already: --force overwrites it, --config FILE writes another")
        given = said.checked(replace(_answers(flags, _nothing if yes else _asked), time_zone=time_zone, port=port))
        if not yes and given.slack != "none" and not send_test:
            send_test = typer.confirm("Send a test message to Slack?", default=False)
        done = _Init(config, given, days, console).run(force=force, send_test=send_test)
    except typer.Abort:
        typer.echo("\ninit: interrupted, nothing was written", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except (WrongAnswerError, ConfigErrors, PermanentError, OSError) as error:
        typer.echo(f"init: {error}", err=True)
        raise typer.Exit(_NOT_WRITTEN) from None
    if json_lines:
        print(msgspec.json.encode(done.as_data()).decode())
    else:
        done.show(console)
    raise typer.Exit(_OK if all(check.ok for check in done.found.checks) else _TEST_FAILED)


# --- questions --------------------------------------------------------------------------------------------------------


class _Flags(NamedTuple):
    """What was given on the command line; None is asked for."""

    gateway: str | None
    litellm_url: str | None
    litellm_key_env: str | None
    usage_file: str | None
    log_dir: str | None
    kafka: str | None
    slack: str | None
    slack_env: str | None
    slack_channel: str | None
    monthly_usd: float | None

    def by_name(self) -> dict[str, object]:
        """Flags as people write them; an address from the environment is no flag."""
        found = {f"--{name.replace('_', '-')}": value for name, value in self._asdict().items()}
        if self.litellm_url == os.environ.get(said.LITELLM_URL):
            found["--litellm-url"] = None
        return found


def _nothing(question: str, default: str) -> str:
    return default


def _asked(question: str, default: str) -> str:
    answer: str = typer.prompt(question, default=default, show_default=bool(default))
    return answer.strip()


def _answers(flags: _Flags, ask: Ask) -> Answers:
    """The answers: flags, and for the others what `ask` gives."""

    def value(flag: str | None, question: str, default: str) -> str:
        return flag if flag is not None else ask(question, default)

    usual = said.default_gateway(flags.litellm_url, flags.usage_file)
    gateway: Any = said.one_of(
        value(flags.gateway, "Gateway: litellm, file, otlp, other or none", usual), said.Gateway, "--gateway"
    )
    found = Answers(gateway=gateway)
    if gateway == "litellm":
        key_env = value(flags.litellm_key_env, "Environment variable of its master key (a name)", said.LITELLM_KEY)
        url = value(flags.litellm_url, "Address of LiteLLM", "http://localhost:4000")
        found = replace(found, litellm_url=url, litellm_key_env=key_env)
    if gateway == "file":
        found = replace(found, usage_file=value(flags.usage_file, "File, directory or pattern of JSON lines", ""))
    kafka = flags.kafka
    if kafka is None and flags.log_dir is None:
        kafka = ask("Kafka brokers (empty: a directory on this machine)", "")
    directory = flags.log_dir or "curb-data"
    chat: Any = said.one_of(value(flags.slack, "Slack: none, webhook or bot", "none"), said.Chat, "--slack")
    said.fitting(gateway, chat, flags.by_name())
    found = replace(found, kafka=kafka or "", log_directory=directory, slack=chat)
    if chat != "none":
        usual_env = said.SLACK_WEBHOOK if chat == "webhook" else said.SLACK_TOKEN
        found = replace(found, slack_env=value(flags.slack_env, "Environment variable of it (a name)", usual_env))
    if chat == "bot":
        found = replace(found, slack_channel=value(flags.slack_channel, "Id of the channel (C0123456789)", ""))
    month = flags.monthly_usd
    return replace(
        found, monthly_usd=month if month is not None else _dollars(ask("Dollars a month (empty: unknown)", ""))
    )


def _dollars(given: str) -> float | None:
    try:
        return float(given.replace(",", "").removeprefix("$")) if given else None
    except ValueError:
        raise WrongAnswerError("--monthly-usd must be a number of dollars above 0") from None


# --- the work ---------------------------------------------------------------------------------------------------------


class _Init:
    """One run: look, propose, check, write."""

    def __init__(self, path: Path, answers: Answers, days: float, console: Console) -> None:
        self._path, self._answers, self._days, self._console = path, answers, days, console

    def run(self, *, force: bool, send_test: bool) -> _Done:
        """Raises ConfigErrors, PermanentError or OSError when nothing was written."""
        found, now = FirstLook(), datetime.now(UTC)
        with _progress(self._console) as report:
            asyncio.run(look_at_gateway(self._answers, os.environ, self._days, report, found))
            amounts = propose(found.spend, self._answers.monthly_usd)
            text = file_text(Draft(self._answers, amounts, found.keys, f"{now:%Y-%m-%d}"))
            environment = {**dict.fromkeys(variables(text), _STAND_IN), **os.environ}
            config = load_text(text, environment)
            report("trying the log and Slack")
            found.checks.append(asyncio.run(look_at_log(config)))
            missing = [name for name in variables(text) if name not in os.environ]
            if self._answers.slack_env not in missing:
                found.checks += asyncio.run(look_at_chat(config, send_test=send_test))
        write_whole(self._path, text, overwrite=force)
        # What counts is what is on the disk.
        config = load_text(self._path.read_text(encoding="utf-8"), environment)
        return _Done(self._path, self._answers, config, load_prices(config.prices), found, amounts, missing)


class _Done(NamedTuple):
    """What was found and written."""

    path: Path
    answers: Answers
    config: CurbConfig
    book: PriceBook
    found: FirstLook
    amounts: ProposedAmounts
    #: Environment variables that are not set yet.
    missing: list[str]

    def show(self, console: Console) -> None:
        """For people."""
        for check in self.found.checks:
            console.print(line_of(check), soft_wrap=True)
        if self.answers.gateway == "litellm":
            tries = f"not tried: changing limits (POST /key/update); curb drill throttle-key -c {self.path} tries it"
            console.print(Text(f"     {tries} on a key of your own", "dim"), soft_wrap=True)
        amounts = self.amounts
        console.print(Text(f"\nProposed {amounts.source}:"), soft_wrap=True)
        for what, amount in self._proposed():
            console.print(Text(f"  {usd(amount):>14}  {what}"))
        console.print()
        render.config_summary(console, self.path, self.config, self.book)
        console.print()
        render.next_steps(console, self.steps(), "Next:")

    def steps(self) -> list[dict[str, str]]:
        """What to do next, in order."""
        unset = [{"what": f"set {name}", "command": f"export {name}={_value_of(name)}"} for name in self.missing]
        return unset + [each._asdict() for each in next_steps(self.config, running=False, path=str(self.path))]

    def _proposed(self) -> list[tuple[str, float]]:
        amounts = self.amounts
        return [
            ("a month, all together", amounts.fleet_month_usd),
            ("a day, all together", amounts.fleet_day_usd),
            ("a day, each key", amounts.key_day_usd),
            ("an hour, a key that is not known yet", amounts.key_hour_usd),
            *((f"a month, {each.name.removesuffix('-month')}", each.amount_usd) for each in amounts.teams),
        ]

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        keys, spend = self.found.keys, self.found.spend
        return {
            "config": str(self.path),
            "mode": self.config.actions.mode,
            "gateway": self.answers.gateway,
            "checks": [check._asdict() for check in self.found.checks],
            "keys": None
            if keys is None
            else {"total": keys.total, "read": len(keys.keys), "unlimited": sum(each.unlimited for each in keys.keys)},
            "spend": None
            if spend is None
            else {"calls": spend.records, "usd": spend.usd, "days": spend.days, "complete": spend.complete},
            "proposal": {**self.amounts._asdict(), "teams": [each._asdict() for each in self.amounts.teams]},
            "missing_variables": self.missing,
            "judged": [{"after": after, "what": what} for after, what in render.judged(self.config)],
            "next_steps": self.steps(),
        }


def line_of(check: Check) -> Text:
    """One test that was made, for people."""
    text = Text("ok   " if check.ok else "FAIL ", "green" if check.ok else "bold red") + Text(check.what, "")
    text += Text(f": {check.detail}" if check.detail else "", "")
    return text + Text(f" (needs {check.permission})" if check.permission and not check.ok else "", "")


def _value_of(name: str) -> str:
    """How to get a value: tokens that Curb is shown are any long random text."""
    return "$(openssl rand -hex 24)" if name in (*said.TOKENS.values(), said.API_TOKEN) else "..."


@contextmanager
def _progress(console: Console) -> Iterator[Callable[..., None]]:
    """A line that says what is being done, on a terminal."""
    with Status("", console=console) as status:

        def report(what: str, done: int = 0, total: int | None = None) -> None:
            counted = f": {done:,}" + (f" of {total:,}" if total else "") if done else ""
            status.update(Text(f"{what}{counted}"))

        yield report


def write_whole(path: Path, text: str, *, overwrite: bool) -> None:
    """Write the file whole or not at all, for its owner alone (0600). Raises OSError, FileExistsError among them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already")
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part)
