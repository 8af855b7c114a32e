"""Builds the parts of a daemon from its configuration; the only place that knows them all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

from curb.actions.action import Action, ActionContext, Chart, open_action
from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.actions.lifecycle.runner import ActionsRunner
from curb.actions.notify.protocol import Notifier, open_notifier
from curb.config.errors import ConfigError
from curb.config.file import CurbConfig, EmbeddedSettings
from curb.config.owners import known_tags
from curb.config.pairs import marks
from curb.connectors.connector import Context as ConnectorContext
from curb.connectors.connector import Pull, Push, PushWithBackfill, open_source
from curb.connectors.fingerprint import Fingerprints
from curb.connectors.intake.attribution import Attribution
from curb.connectors.intake.inbox import InboxSource
from curb.connectors.intake.refused_posts import RefusedPosts
from curb.connectors.intake.runner import PullRunner
from curb.connectors.kinds import KINDS as CONNECTORS
from curb.connectors.pricing.book import PriceBook, PricesSettings
from curb.detector.bills.derived import usage_settings
from curb.detector.bills.lanes import ShardWithBills
from curb.detector.bills.rollup import CostsRollup
from curb.detector.reconcile.reconciler import Reconciler
from curb.detector.rollup.relay import CommandRelay
from curb.detector.rollup.rollup import Rollup
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError, place_of
from curb.stream.kafka.log import KafkaLog
from curb.stream.log.embedded import EmbeddedLog
from curb.stream.log.protocol import Log, TopicPartition
from curb.stream.log.topics import COMMANDS, COSTS, RAW_TOPICS, SPEND
from curb.stream.work.worker import Worker
from curb.views.unit_costs import RecentUnits, resolve

logger = logging.getLogger(__name__)

ROLLUP_GROUP = "curb-rollup"
DETECTOR_GROUP = "curb-detector"
RECONCILE_GROUP = "curb-reconcile"


def make_log(config: CurbConfig, clock: Clock) -> Log:
    """The configured log, not opened yet."""
    if isinstance(config.log, EmbeddedSettings):
        return EmbeddedLog(config.log.directory, clock)
    return KafkaLog(config.log, config.instance, clock)


@asynccontextmanager
async def open_log(config: CurbConfig, clock: Clock) -> AsyncIterator[Log]:
    """The configured log, opened, and closed at the end."""
    log = make_log(config, clock)
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@dataclass
class Connectors:
    """The configured connectors: those that are polled, by runner, and those that are pushed to, by name."""

    attribution: Attribution
    runners: list[PullRunner] = field(default_factory=list)
    sources: dict[str, InboxSource] = field(default_factory=dict)
    refused_posts: RefusedPosts = field(default_factory=RefusedPosts)


def connector_context(config: CurbConfig, clock: Clock, http: aiohttp.ClientSession) -> ConnectorContext:
    """The shared parts that connectors are built with."""
    loops = Fingerprints(config.loops, clock) if config.loops.enabled else None
    return ConnectorContext(clock, http, load_prices(config.prices), config.state_dir, loops)


def make_connectors(config: CurbConfig, log: Log, clock: Clock, http: aiohttp.ClientSession) -> Connectors:
    """Every configured connector, ready to run."""
    context = connector_context(config, clock, http)
    if left_out := context.prices.left_out:
        extra = {"entries": len(left_out), "first": next(iter(left_out.values()))}
        logger.warning("entries of the price book cannot be read and are left out", extra=extra)
    made = Connectors(make_attribution(config))

    body_bytes = int(config.http.max_body_mib * 1024 * 1024)
    for_all = [each.token for each in config.http.tokens if "ingest" in each.roles]

    def pull(name: str, source: Pull) -> None:
        runner = PullRunner(
            source.connector,
            name,
            log,
            clock,
            poll_interval_s=source.poll_interval_s,
            attribution=made.attribution,
            first_read_is_past=True,
        )
        made.runners.append(runner)

    def push(name: str, source: Push) -> None:
        made.sources[name] = InboxSource(
            name,
            source.source,
            source.token,
            max_body_bytes=body_bytes,
            attribution=made.attribution,
            more_tokens=for_all,
        )

    for settings in config.connectors:
        match open_source(settings, context):
            case Pull() as source:
                pull(settings.name, source)
            case Push() as source:
                push(settings.name, source)
            case PushWithBackfill(pushed, backfill):
                push(settings.name, pushed)
                pull(f"{settings.name}/backfill", backfill)
    return made


def make_attribution(config: CurbConfig) -> Attribution:
    """How records are tagged; `open` it on the log before the first batch."""
    return Attribution(config.attribution, known_tags(config.detector), marks(config.reconcile))


def load_prices(settings: PricesSettings) -> PriceBook:
    """The configured price book, or the one shipped with Curb, with what was agreed beside it.

    Raises PermanentError for a file that is no book.
    """
    try:
        return PriceBook.load(settings.book, settings)
    except (OSError, ValueError) as error:
        raise PermanentError(f"prices.book: {str(error).removeprefix('price book: ')}") from None


def make_rollup(config: CurbConfig, log: Log, clock: Clock, *, live: bool = True) -> Worker:
    """The worker that sums raw records into series and buckets, and relays commands; replays are not `live`."""
    partitions = log.partitions(SPEND)
    ids_directory = config.state_dir / "ids" / config.instance
    overlap_s = max((each.overlap_s for each in config.connectors), default=0.0)

    def state(at: TopicPartition) -> Rollup | CommandRelay:
        name = f"{at.topic}/{at.partition}"
        if at.topic == COMMANDS:
            return CommandRelay(config.detector, partitions, name, live=live)
        if at.topic == COSTS:
            return CostsRollup(
                config.detector,
                partitions,
                name,
                live=live,
                inputs=log.partitions(COSTS),
                ids_directory=ids_directory if live else None,
                overlap_s=overlap_s,
            )
        return Rollup(
            usage_settings(config.detector),
            at.topic,
            partitions,
            name,
            live=live,
            ids_directory=ids_directory if live else None,
            overlap_s=overlap_s,
        )

    return _worker(config, log, ROLLUP_GROUP, (*RAW_TOPICS, COMMANDS), state, clock)


def make_detector(config: CurbConfig, log: Log, clock: Clock) -> Worker:
    """The worker that closes buckets, scores them and opens alerts."""
    return _worker(config, log, DETECTOR_GROUP, (SPEND,), lambda at: ShardWithBills(config.detector), clock)


def make_recent_units(config: CurbConfig) -> RecentUnits:
    """The configured unit costs that have a scope; the shipped ones may have none among a person's own scopes."""
    found = []
    for wanted in config.unit_costs:
        try:
            found.append(resolve(wanted, config.detector))
        except ValueError:
            continue
    return RecentUnits(found, run_gap_s=config.detector.jobs.gap_minutes * 60)


def make_reconciler(config: CurbConfig, log: Log, clock: Clock) -> Worker:
    """The worker that holds estimates against bills."""
    return _worker(config, log, RECONCILE_GROUP, (SPEND,), lambda at: Reconciler(config.reconcile), clock)


def _worker(
    config: CurbConfig,
    log: Log,
    group: str,
    topics: tuple[str, ...],
    state: Callable[[TopicPartition], Any],
    clock: Clock,
) -> Worker:
    return Worker(
        log,
        group,
        topics,
        state,
        clock,
        commit_interval_s=config.commit_interval_s,
        snapshot_interval_s=config.snapshot_interval_s,
    )


def make_actions(
    config: CurbConfig, log: Log, clock: Clock, http: aiohttp.ClientSession, chart: Chart | None = None
) -> ActionsRunner:
    """The runner with every configured action and notifier; `chart` draws for those who can show pictures."""
    actions, notifiers = make_action_map(config, clock, http), make_notifiers(config, ActionContext(clock, http, chart))
    return ActionsRunner(log, clock, config.actions, actions, notifiers)


def make_action_map(config: CurbConfig, clock: Clock, http: aiohttp.ClientSession) -> dict[str, Action]:
    """Every configured action by name."""
    # The book takes a moment to read, and only what routes to cheaper models asks for it.
    routes = any(each.cheaper_models() for each in config.actions.actions)
    part = load_prices(config.prices).part if routes else None
    context = ActionContext(clock, http, price_part=part)
    return {each.name: open_action(each, context) for each in config.actions.actions}


def make_replay_notifiers(
    config: CurbConfig, log: Log, clock: Clock, http: aiohttp.ClientSession, *, notify: bool
) -> ActionsRunner:
    """A runner for replays: it never acts, and notifies only with `notify`."""
    notifiers = make_notifiers(config, ActionContext(clock, http)) if notify else {}
    return ActionsRunner(log, clock, config.actions, {}, notifiers)


def make_notifiers(config: CurbConfig, context: ActionContext) -> dict[str, Notifier]:
    """Every configured notifier by name."""
    return {each.name: open_notifier(each, context) for each in config.actions.notifiers}


def certificate_faults(config: CurbConfig) -> list[ConfigError]:
    """Files of certificates for Kafka that cannot be used on this machine."""
    if isinstance(config.log, EmbeddedSettings):
        return []
    hint = "the user of `curb run` must be able to read it, on the machine where it runs"
    return [ConfigError(f"log.{key}", problem, hint) for key, problem in config.log.unusable_files()]


async def faults_of_own_kinds(config: CurbConfig, clock: Clock) -> list[ConfigError]:
    """Build what installed packages add, and close it again: the promises of each seam that are not kept.

    Shipped kinds keep theirs; building them may need what only the daemon's machine has.
    """
    found: list[ConfigError] = []
    async with aiohttp.ClientSession() as http:
        sources, acting = connector_context(config, clock, http), ActionContext(clock, http)
        makers: list[tuple[str, Callable[[], Any]]] = [
            *(
                (f"connectors[{number}]", partial(open_source, each, sources))
                for number, each in enumerate(config.connectors)
                if each.kind not in CONNECTORS
            ),
            *(
                (f"actions.actions[{number}]", partial(open_action, each, acting))
                for number, each in enumerate(config.actions.actions)
                if each.kind not in ACTIONS
            ),
            *(
                (f"actions.notifiers[{number}]", partial(open_notifier, each, acting))
                for number, each in enumerate(config.actions.notifiers)
                if each.kind not in NOTIFIERS
            ),
        ]
        for path, make in makers:
            try:
                await _make_and_close(make)
            except (PermanentError, TransientError) as error:
                found.append(ConfigError(path, str(error)))
    return found


async def _make_and_close(make: Callable[[], Any]) -> None:
    try:
        match make():
            case Push():
                return
            case Pull(connector=part) | PushWithBackfill(backfill=Pull(connector=part)):
                await part.close()
            case part:
                await part.close()
    except (PermanentError, TransientError):
        raise
    except Exception as error:
        # A class of others may raise anything.
        what = f"cannot be built and closed: {type(error).__name__} at {place_of(error)}"
        raise PermanentError(what) from error
