"""`curb demo`: real traffic, one agent loop, and the same daemon as in production, on a faster clock."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import shutil
from pathlib import Path

import aiohttp
from rich.console import Console

from curb.config.file import CurbConfig, load_file
from curb.daemon import Daemon
from curb.demo.console import DemoConsole
from curb.demo.gateway import Gateway
from curb.demo.observed import Observed
from curb.demo.pace import PacedClock
from curb.demo.report import write_report
from curb.demo.speeds import alone
from curb.demo.stage import Stage, set_stage
from curb.demo.trace import as_event, default_directory
from curb.demo.traffic import Tally, counterfactual, drive
from curb.feed import feed
from curb.logs import setup
from curb.stream.records.spend import Alert, LedgerEntry, NoticeEntry
from curb.views.alerts_and_actions import LogView

#: Real seconds between two samples of the daemon; in between the clock may run as long and no longer.
_FRAME_S = 0.15
#: Event seconds by which the daemon may be late before the clock waits for it. An incident's steps are minutes apart.
_SLACK_S = 240.0


async def run_demo(
    directory: Path | None, out: Path, speed: float | None, console: Console, *, quick: bool = False
) -> int:
    """Run the demo and write `out`. 0 when the loop was found, throttled, verified and the limit restored; 2 without a
    trace in `directory`, which is the shipped one unless given."""
    setup("error", "text")
    directory = directory or default_directory()
    try:
        stage = set_stage(directory, quick)
    except FileNotFoundError as error:
        console.print(f"demo: {error}", markup=False, soft_wrap=True)
        return 2
    data = out / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        config, keys = _configure(directory, data)
        console.print(f"[bold]Curb demo[/bold]: feeding {stage.script.history_days:g} days of history")
        await _history(config, stage, data, console)
        clock = PacedClock(stage.live_start, speed or (600.0 if quick else 240.0))
        gateway = Gateway(stage.trace, clock, master_key=keys["master"], http=http, limits=stage.limits)
        os.environ["CURB_DEMO_GATEWAY_URL"] = await gateway.start()
        try:
            config = load_file(directory / "curb.yaml")
            observed = Observed(stage)
            tally, view = await _live(config, stage, clock, gateway, keys["ingest"], observed, console)
        finally:
            await gateway.close()
        limit_now = gateway.limit(stage.loop.key)
    without = counterfactual(stage.trace, stage.loop, stage.live_start, stage.live_end, stage.limits)
    speeds = alone(stage, observed.soft_cap(view))
    summary = observed.summary(view, tally, without, limit_now, speeds)
    no_chart = write_report(out, observed, view, tally, without, summary)
    _summarise(console, summary, out, no_chart)
    return 0 if summary["effect_verified"] and summary["restored"] else 1


def _configure(directory: Path, data: Path) -> tuple[CurbConfig, dict[str, str]]:
    keys = {"ingest": secrets.token_hex(16), "master": f"sk-{secrets.token_hex(16)}"}
    os.environ |= {
        "CURB_DEMO_DATA": str(data),
        "CURB_DEMO_INGEST_TOKEN": keys["ingest"],
        "CURB_DEMO_MASTER_KEY": keys["master"],
        "CURB_DEMO_GATEWAY_URL": "http://127.0.0.1:1",  # known once the gateway listens
    }
    return load_file(directory / "curb.yaml"), keys


async def _history(config: CurbConfig, stage: Stage, data: Path, console: Console) -> None:
    file = data / "history.jsonl"
    with file.open("wb") as lines:
        for line in stage.trace.history(stage.history_start, stage.live_start):
            lines.write(as_event(line) + b"\n")
    await feed(config, file, "event_stream", console)


async def _live(
    config: CurbConfig,
    stage: Stage,
    clock: PacedClock,
    gateway: Gateway,
    token: str,
    observed: Observed,
    console: Console,
) -> tuple[Tally, LogView]:
    screen = DemoConsole(console, stage)

    def record_and_show(record: Alert | LedgerEntry | NoticeEntry) -> None:
        observed.record(record)
        screen.record(record)

    daemon = Daemon(config, clock, view=LogView(record_and_show))
    await daemon.open()
    gateway.report_to(f"http://127.0.0.1:{daemon.port}/v1/ingest/gateway", token)
    running = asyncio.create_task(daemon.run())
    callback = asyncio.create_task(gateway.run_callback())
    traffic = asyncio.create_task(
        drive(stage.trace, stage.loop, gateway, clock, start=stage.live_start, end=stage.live_end)
    )
    try:
        with screen:
            screen.say(stage.live_start, f"live traffic through the gateway, {len(stage.trace.keys)} keys")
            await _watch(daemon, clock, traffic, observed, screen, running)
    finally:
        clock.let_run(math.inf)
        callback.cancel()
        daemon.stop()
        await running
        await daemon.close()
    return await traffic, daemon.view


async def _watch(
    daemon: Daemon,
    clock: PacedClock,
    traffic: asyncio.Task[Tally],
    observed: Observed,
    screen: DemoConsole,
    running: asyncio.Task[None],
) -> None:
    loop, shown = observed.stage.loop, 0
    moments = [
        (loop.start, f"an agent starts to loop on key {loop.key}", "bold magenta"),
        (loop.end, "the agent's owner fixes the loop", "magenta"),
    ]
    while not traffic.done():
        if running.done():
            await running
            raise RuntimeError("the daemon stopped before the demo was over")
        clock.let_run(_FRAME_S, is_behind=_is_behind(daemon, observed))
        now = clock.now()
        while shown < len(moments) and moments[shown][0] <= now:
            screen.say(*moments[shown])
            shown += 1
        observed.sample(daemon)
        screen.show(daemon)
        await asyncio.sleep(_FRAME_S)


def _is_behind(daemon: Daemon, observed: Observed) -> bool:
    """Whether a shard has scored less than it could have by now, or a page waits for its action."""
    detector, now = daemon.config.detector, daemon.clock.now()
    scored = min((shard.event_time or 0.0 for shard in daemon.shards()), default=0.0)
    return now - scored > detector.bucket_s + detector.grace_s + _SLACK_S or observed.waits(daemon.view, now)


def _speeds_apart(summary: dict[str, object]) -> str:
    ceiling = (
        f"A ceiling of {summary['ceiling_rpm']} requests a minute, twice the key's highest, would have held it at "
        f"${summary['lost_with_ceiling_usd']:,.2f} ({summary['others_rejected_with_ceiling']} normal requests refused)"
    )
    soft = summary["lost_with_soft_caps_usd"]
    if soft is None:
        return f"{ceiling}."
    refused = summary["others_rejected_with_soft_caps"]
    return f"{ceiling}; soft caps alone, one after the other, at ${soft:,.2f} ({refused})."


def _summarise(console: Console, summary: dict[str, object], out: Path, no_chart: str) -> None:
    def minutes(name: str) -> str:
        seconds = summary[name]
        return f"{seconds / 60:.0f} minutes" if isinstance(seconds, float | int) else "never"

    lost, without = float(str(summary["lost_usd"])), float(str(summary["counterfactual_usd"]))
    console.rule("Summary")
    console.print(f"An agent looped on key [bold]{summary['key']}[/bold].")
    console.print(
        f"Curb saw it after {minutes('detected_after_s')} and throttled it after {minutes('throttled_after_s')},"
    )
    console.print(
        f"to {summary['rpm_limit_during']} requests a minute, the key's own normal level "
        f"(its limit was {summary['rpm_limit_before']})."
    )
    console.print(f"On-call was notified after {minutes('notified_after_s')}.")
    verified = "The burn fell (verified)" if summary["effect_verified"] else "The effect could not be verified"
    back = f"the limit is back at {summary['rpm_limit_after']}" if summary["restored"] else "the limit is NOT back"
    console.print(f"{verified}; the lease ended and {back}.")
    console.print(
        f"The loop cost [bold]${lost:,.2f}[/bold]; with actions off the same traffic would have cost "
        f"[bold]${without:,.2f}[/bold]. On that key {summary['other_requests_rejected']} normal requests were refused."
    )
    console.print(_speeds_apart(summary))
    if summary["saved_usd"] is not None:
        console.print(f"Curb's own count of what it saved, in the ledger and on Slack: ${summary['saved_usd']:,.2f}.")
    chart = "" if no_chart else f"{out}/chart.png, "
    console.print(f"Files: {chart}{out}/slack.md, {out}/summary.json", highlight=False)
    if no_chart:
        console.print(f"There is no chart.png: {no_chart}", markup=False, style="yellow")
