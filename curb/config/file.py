"""The configuration file: one YAML document, checked as a whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, SerializeAsAny, ValidationError

from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.actions.settings import ActionsSettings
from curb.config.check_ladders import impossible_rungs, unknown_environments
from curb.config.errors import ConfigError, ConfigErrors, from_validation
from curb.config.owners import known_tags, unreachable_owners, with_owners
from curb.config.pairs import with_scope
from curb.config.yaml_source import expand_environment, parse_yaml
from curb.connectors.connector import ConnectorConfig
from curb.connectors.intake.attribution import AttributionSettings
from curb.connectors.kinds import KINDS as CONNECTORS
from curb.connectors.pricing.book import PricesSettings
from curb.detector.reconcile.reconciler import ReconcileSettings
from curb.detector.settings import DetectorSettings
from curb.stream.kafka.settings import KafkaSettings
from curb.stream.kinds import KindError, Kinds
from curb.stream.settings import Settings
from curb.views.unit_costs import DEFAULT_UNIT_COSTS, WantedUnitCost, resolve

C = TypeVar("C", bound=Settings)


class EmbeddedSettings(Settings):
    """The log in one SQLite file, for one machine."""

    kind: Literal["embedded"] = "embedded"
    directory: Path = Field(default=Path("curb-data"), description="Where the log and all state live.")
    retention_days: float = Field(default=14.0, gt=0, description="Messages older than this are deleted once read.")


class HttpSettings(Settings):
    """The daemon's one HTTP port: health, metrics, the API and the inbox of push connectors."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8088, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    token: SecretStr | None = Field(
        default=None,
        description="Bearer token of /v1 (not of the inbox, nor of what Slack signs). Without it /v1 only reads, "
        "only on loopback.",
    )
    max_body_mib: float = Field(default=8.0, gt=0, le=256, description="Largest push body after decompression.")


class LoggingSettings(Settings):
    """The daemon's own log lines."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")
    format: Literal["json", "text"] = Field(default="json", description="One JSON object a line, or plain text.")


class CurbConfig(Settings):
    """Everything `curb run -c FILE` reads."""

    instance: str = Field(
        default="curb-0",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this process: stable over restarts, different from every other on the same log.",
    )
    log: Annotated[EmbeddedSettings | KafkaSettings, Field(discriminator="kind")] = Field(
        default=EmbeddedSettings(), description="Where records live: `embedded` (one machine) or `kafka`."
    )
    commit_interval_s: float = Field(
        default=0.5, gt=0, le=60, description="How often sums, alerts and positions are written, in seconds."
    )
    snapshot_interval_s: float = Field(
        default=300.0, gt=0, description="How often state is written whole; a restart replays at most this much."
    )
    http: HttpSettings = Field(default=HttpSettings(), description="Health, metrics, API and inbox.")
    logging: LoggingSettings = Field(default=LoggingSettings(), description="The daemon's own log lines.")
    prices: PricesSettings = Field(default=PricesSettings(), description="The price book.")
    state_dir: Path = Field(
        default=Path("curb-data/connectors"),
        description="Files of the bill connectors with the rows they have reported; back it up with the log.",
    )
    connectors: list[SerializeAsAny[ConnectorConfig]] = Field(
        default=[], description="Where spend comes from; one kind each."
    )
    attribution: AttributionSettings = Field(
        default=AttributionSettings(), description="Whose spend is whose: tags, owners, rules, shares."
    )
    reconcile: ReconcileSettings = Field(
        default=ReconcileSettings(), description="Estimates against bills, per pair of sources."
    )
    unit_costs: tuple[WantedUnitCost, ...] = Field(
        default=DEFAULT_UNIT_COSTS, description="Dollars per unit that are kept as a metric and in /v1/unit-costs."
    )
    detector: DetectorSettings = Field(default=DetectorSettings(), description="Sums, scores, budgets and alerts.")
    actions: ActionsSettings = Field(default=ActionsSettings(), description="Notifiers, actions, routes and limits.")


def load_file(path: Path) -> CurbConfig:
    """Read and check a configuration file. Raises ConfigErrors with every error found."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "curb run -c FILE; deploy/curb.example.yaml is a commented start"
        raise ConfigErrors([ConfigError("", f"cannot read {path}: {error}", hint)]) from None
    return load_text(text)


def load_text(text: str) -> CurbConfig:
    """Check a configuration given as YAML text. Raises ConfigErrors with every error found."""
    errors: list[ConfigError] = []
    data = expand_environment(parse_yaml(text), errors)
    log = data.get("log")
    if isinstance(log, dict) and "kind" not in log:
        data["log"] = {"kind": "kafka" if "bootstrap_servers" in log else "embedded", **log}
    data["connectors"] = _kinds(data.get("connectors"), "connectors", CONNECTORS, errors)
    actions = data.get("actions")
    if isinstance(actions, dict):
        actions = data["actions"] = dict(actions)
        actions["actions"] = _kinds(actions.get("actions"), "actions.actions", ACTIONS, errors)
        actions["notifiers"] = _kinds(actions.get("notifiers"), "actions.notifiers", NOTIFIERS, errors)
    try:
        config = _derived(CurbConfig.model_validate(data), errors)
    except ValidationError as error:
        known = {found.path for found in errors}
        errors += [found for found in from_validation(error, CurbConfig) if found.path not in known]
    if errors:
        raise ConfigErrors(errors)
    return config


def _derived(config: CurbConfig, errors: list[ConfigError]) -> CurbConfig:
    """The configuration with what follows from one part of it for another."""
    try:
        detector = with_scope(config.detector, config.reconcile)
    except ValueError as error:
        errors.append(ConfigError("detector.scopes", str(error), "give your scope another name"))
        return config
    config = config.model_copy(update={"detector": detector})
    errors += _unknown_tags(config)
    errors += _unknown_units(config)
    wrong = [*impossible_rungs(config.actions), *unknown_environments(config.actions, known_tags(detector))]
    errors += [ConfigError(*found) for found in wrong]
    unreachable = unreachable_owners(config.attribution, config.actions, detector)
    errors += [ConfigError(*found) for found in unreachable]
    if unreachable:
        return config
    return config.model_copy(update={"actions": with_owners(config.actions, config.attribution.owners, detector)})


def _unknown_units(config: CurbConfig) -> list[ConfigError]:
    errors = []
    for number, wanted in enumerate(config.unit_costs):
        try:
            resolve(wanted, config.detector)
        except ValueError as error:
            if wanted not in DEFAULT_UNIT_COSTS:
                errors.append(ConfigError(f"unit_costs[{number}]", str(error), "add a scope with these tags"))
    return errors


def _unknown_tags(config: CurbConfig) -> list[ConfigError]:
    """Matchers on tags that no alert can carry: they would match nothing, silently."""
    known = known_tags(config.detector)
    matchers = {f"actions.routes[{i}].match.tags": route.match.tags for i, route in enumerate(config.actions.routes)}
    never = config.actions.limits.never_touch
    matchers |= {f"actions.limits.never_touch[{i}]": tags for i, tags in enumerate(never)}
    marks = config.actions.limits.criticality
    matchers |= {f"actions.limits.criticality[{i}].match": rule.match for i, rule in enumerate(marks)}
    hint = f"alerts carry the tags of their scope: {', '.join(sorted(known))}; see detector.scopes"
    return [
        ConfigError(
            path, f"no scope has the tag {', '.join(sorted(tags.keys() - known))}, so this matches nothing", hint
        )
        for path, tags in matchers.items()
        if tags.keys() - known
    ]


def _kinds(items: Any, path: str, table: Kinds[C], errors: list[ConfigError]) -> list[C]:
    if items is None:
        return []
    if not isinstance(items, list):
        errors.append(ConfigError(path, "must be a list", f"start each entry with `- kind: {min(table)}`"))
        return []
    configs: list[C] = []
    names: set[str] = set()
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        config = _one(item, here, table, errors)
        if config is None:
            continue
        name = str(getattr(config, "name", ""))
        if name in names:
            errors.append(ConfigError(f"{here}.name", f"{name!r} is used twice", "every name must be unique"))
        names.add(name)
        configs.append(config)
    return configs


def _one(item: Any, path: str, table: Kinds[C], errors: list[ConfigError]) -> C | None:
    if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
        errors.append(ConfigError(path, "needs a `kind`", f"one of: {', '.join(table.names())}"))
        return None
    try:
        kind = table.config(item["kind"])
        return kind.model_validate(item)
    except KindError as error:
        errors.append(ConfigError(f"{path}.kind", str(error), ""))
    except ValidationError as error:
        errors += from_validation(error, kind, prefix=path)
    return None
