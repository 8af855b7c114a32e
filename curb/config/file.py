"""The configuration file: one YAML document, checked as a whole before anything starts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import Field, PrivateAttr, SecretStr, SerializeAsAny, ValidationError

from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.actions.policy.routing import VERBS
from curb.actions.settings import ActionsSettings
from curb.actions.target import Verb
from curb.config.auth_proxy import AuthProxySettings, unknown_groups
from curb.config.errors import ConfigError, ConfigErrors, from_validation, unknown, without_consequences
from curb.config.owners import known_tags, unreachable_owners, with_owners
from curb.config.pairs import with_scope
from curb.config.report import ReportSettings, unreachable_readers
from curb.connectors.connector import ConnectorConfig
from curb.connectors.fingerprint import LoopSettings
from curb.connectors.intake.attribution import AttributionSettings
from curb.connectors.kinds import KINDS as CONNECTORS
from curb.connectors.pricing.book import PriceBook, PricesSettings
from curb.detector.bills.derived import default_scopes
from curb.detector.reconcile.reconciler import ReconcileSettings
from curb.detector.rules.table import own_rules
from curb.detector.settings import DetectorSettings
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.stream.kafka.connection import KafkaSettings
from curb.stream.kinds import KindError, Kinds
from curb.stream.settings import Settings
from curb.views.unit_costs import DEFAULT_UNIT_COSTS, WantedUnitCost, resolve

#: Stands for an unset variable while the rest is checked: long enough for a token, so that no other error follows.
_STAND_IN = "not-set:"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _Loader(yaml.SafeLoader):
    """Notes keys that a mapping gives twice: YAML's reader would take the last one without a word."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[ConfigError] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:merge" and name in lines:
                what = f"`{name}` is given twice, in line {lines[name]} and in line {line}"
                self.twice.append(ConfigError("", what, "put both into one, or remove one of them"))
            lines.setdefault(name, line)
        return super().construct_mapping(node, deep)


def variables(text: str) -> list[str]:
    """Names of the environment variables without a default that a text refers to, each once, in order."""
    return list(dict.fromkeys(name for name, default in _VARIABLE.findall(text) if not default))


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping in `text`; an empty document is an empty mapping. Raises ConfigErrors."""
    try:
        loader = _Loader(text)
        try:
            data = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigErrors([ConfigError("", f"not valid YAML{where}: {problem}", _yaml_hint(text, mark))]) from None
    if loader.twice:
        raise ConfigErrors(loader.twice)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigErrors([ConfigError("", "must be a mapping of keys", "start with `log:` or `connectors:`")])
    return data


def _yaml_hint(text: str, mark: Any) -> str:
    line = text.splitlines()[mark.line] if mark is not None and mark.line < len(text.splitlines()) else ""
    variable = _VARIABLE.match(line, max(0, mark.column - 1)) if line else None
    if variable is None:
        return "check the indentation"
    return f'inside {{ }} and [ ] a variable needs quotes: "{variable[0]}"'


def expand_environment(
    data: dict[str, Any], errors: list[ConfigError], environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """A copy of `data` with variables filled in; an unset variable is an error with its path, and has a stand-in."""
    expanded: dict[str, Any] = _expand(data, "", errors, environment)
    return expanded


def _expand(value: Any, path: str, errors: list[ConfigError], environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _expand(item, f"{path}.{key}" if path else str(key), errors, environment)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_expand(item, f"{path}[{index}]", errors, environment) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = environment.get(name, default)
        if found is None:
            errors.append(ConfigError(path, f"environment variable {name} is not set", f"export {name}=... first"))
            return f"{_STAND_IN}{name}"
        return found

    return _VARIABLE.sub(fill, value)


def impossible_rungs(actions: ActionsSettings) -> list[tuple[str, str, str]]:
    """Path, problem and hint of each. Actions that are not validated yet, or declare no verbs, are skipped."""
    can = {config.name: verbs_of(config) for config in actions.actions}
    found = []
    for number, route in enumerate(actions.routes):
        for place, rung in enumerate(route.ladder):
            verb = VERBS.get(rung.do)
            for name in rung.act:
                verbs = can.get(name)
                if verb is not None and verbs is not None and verb not in verbs:
                    path = f"actions.routes[{number}].ladder[{place}]"
                    found.append((path, f"{name} cannot {verb}", f"it can: {', '.join(sorted(verbs))}"))
    return found


def unknown_environments(actions: ActionsSettings, known_tags: set[str]) -> list[tuple[str, str, str]]:
    """Path, problem and hint of matchers on an environment where alerts carry none."""
    if known_tags & {"env", "environment"}:
        return []
    hint = "put env into the group_by of a scope, see detector.scopes"
    return [
        (f"actions.routes[{number}].match.environment", "no scope has the tag env, so this matches nothing", hint)
        for number, route in enumerate(actions.routes)
        if route.match.environment
    ]


def not_cheaper(actions: ActionsSettings, prices: PricesSettings) -> list[tuple[str, str, str]]:
    """Path, problem and hint of each model that an action routes to and that is not cheaper by the price book."""
    routed = [
        (f"actions.actions[{number}]", model, to)
        for number, config in enumerate(actions.actions)
        for model, to in config.cheaper_models().items()
    ]
    if not routed:
        return []
    try:
        book = PriceBook.load(prices.book, prices)
    except (OSError, ValueError) as error:
        return [("prices.book", str(error).removeprefix("price book: "), "give a price map in LiteLLM's format")]
    found = []
    for path, model, to in routed:
        unknown_models = [each for each in (model, to) if book.lookup(each) is None]
        part = book.part(to, model)
        if unknown_models:
            hint = "give it the name of a model in the book under prices.aliases, or its price under prices.overrides"
            found.append((path, f"no price per token is known for {' and '.join(unknown_models)}", hint))
        elif part is not None and part >= 1.0:
            what = f"{to} ({_per_million(book, to)}) is not cheaper than {model} ({_per_million(book, model)})"
            found.append((path, what, "every kind of token must cost less; see curb prices, and prices.overrides"))
    return found


def _per_million(book: PriceBook, model: str) -> str:
    """Prices of a model that the book knows, for people."""
    price = book.lookup(model)
    return "" if price is None else f"${price.input * 1e6:g} in, ${price.output * 1e6:g} out per million tokens"


def verbs_of(config: Any) -> frozenset[Verb] | None:
    """The verbs of the action that a configuration builds, by the return type of `build`."""
    build = getattr(type(config), "build", None)
    returned = get_type_hints(build).get("return") if build is not None else None
    kinds = [getattr(kind, "verbs", None) for kind in get_args(returned) or (returned,)]
    return None if None in kinds else frozenset().union(*(verbs for verbs in kinds if verbs is not None))


C = TypeVar("C", bound=Settings)


class EmbeddedSettings(Settings):
    """The log in one SQLite file, for one machine."""

    kind: Literal["embedded"] = "embedded"
    directory: Path = Field(default=Path("curb-data"), description="Where the log and all state live.")
    retention_days: float = Field(default=14.0, gt=0, description="Messages older than this are deleted once read.")


#: What a token is for: send usage to the inbox, read everything, read and propose actions, read and answer proposals,
#: read and change what ends again (silences, halt), or also what stays (more money, a new usual).
Role = Literal["ingest", "read", "propose", "approve", "operate", "admin"]


class TokenSettings(Settings):
    """A bearer token with roles, beside `http.token`."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose it is; for people.")
    token: SecretStr = Field(min_length=8, description="The token itself; take it from the environment.")
    roles: list[Role] = Field(
        min_length=1,
        description="`ingest`: send to every inbox. `read`: the API, the dashboard and /metrics. `propose`: `read`, "
        "and actions proposed for approval, for an assistant. `approve`: `propose`, and approve or deny what waits, as "
        "`actions.approvers` allows its name. `operate`: `approve`, and commands, silences, plans and the like. "
        "`admin`: `operate`, and what stays: raise a budget, accept what fires as the usual, see paths of the "
        "configuration.",
    )


class HttpSettings(Settings):
    """The daemon's one HTTP port: health, metrics, the API and the inbox of push connectors."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(default=8088, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    token: SecretStr | None = Field(
        default=None,
        min_length=8,
        description="Bearer token of /v1 (not of the inbox, nor of what Slack signs), and to sign in at the dashboard, "
        "as `admin`. "
        "Without it /v1 only reads, only on loopback.",
    )
    tokens: list[TokenSettings] = Field(default=[], description="More tokens, each for what its roles allow.")
    auth_proxy: AuthProxySettings | None = Field(
        default=None, description="A proxy that signs people in at the pages. Default: none; people give a token."
    )
    open_paths: list[Literal["healthz", "readyz", "metrics"]] = Field(
        default=["healthz", "readyz", "metrics"],
        description="What anyone may get without a token. A path that is left out needs a token that may `read`.",
    )
    allowed_hosts: list[str] = Field(
        default=[],
        description="Names under which Curb may be called without a token, beside addresses, localhost and `host`; "
        "`*.example.com` for many. Anything else is answered 421, so that no web page can read Curb by a name of its "
        "own. Where `host` is not of this machine alone, /readyz and /metrics ask for a name only if this is set.",
    )
    max_body_mib: float = Field(default=8.0, gt=0, le=256, description="Largest push body after decompression.")
    max_connections: int = Field(
        default=512,
        ge=8,
        description="Open connections, and as many again without a request so far; at most half of the descriptors "
        "allowed. For another one, the connection that has waited longest is closed; where none waits, the new one is "
        "answered 503.",
    )
    max_streams: int = Field(
        default=64,
        ge=0,
        description="Open pages that learn at once what changed; further ones look every 30 seconds. Never more than a "
        "quarter of `max_connections`.",
    )
    head_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="Seconds for the head of a request; then the connection is closed."
    )
    body_timeout_s: float = Field(
        default=20.0, gt=0, le=3600, description="Seconds for the body of a request; then it is answered 408."
    )
    metrics_series: int = Field(
        default=100,
        ge=0,
        le=2000,
        description="Series of a scope, rows of a budget and alerts that /metrics shows one by one; all others are "
        "summed.",
    )
    requests_per_s: float = Field(
        default=100.0,
        ge=1,
        description="Requests a second of one token, or of one address without a token, ten times as many at once; "
        "more are answered 429 with Retry-After. /healthz, the inbox and Slack do not count.",
    )
    inbox_requests_per_s: float | None = Field(
        default=None,
        ge=1,
        description="The same for each connector of the inbox and its token. Default: no limit; a source that sends "
        "more than Curb can keep up with is answered 503.",
    )
    max_lag_s: float = Field(
        default=30.0,
        gt=0,
        description="While what is on the log waits longer than this many seconds, the inbox answers 503 with "
        "Retry-After and /readyz says so. What waited when Curb started does not count.",
    )


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
        description="Files of the bill connectors with the rows they have reported, and ids of recent events; back it "
        "up with the log.",
    )
    connectors: list[SerializeAsAny[ConnectorConfig]] = Field(
        default=[], description="Where spend comes from; one kind each."
    )
    loops: LoopSettings = Field(
        default=LoopSettings(), description="Keyed hashes of prompts, by which calls that repeat are seen; off."
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
    report: ReportSettings = Field(default=ReportSettings(), description="A report of each week or month; off.")
    detector: DetectorSettings = Field(default=DetectorSettings(), description="Sums, scores, budgets and alerts.")
    actions: ActionsSettings = Field(default=ActionsSettings(), description="Notifiers, actions, routes and limits.")
    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    def variable(self, path: str) -> str:
        """The environment variable that stands at a path, such as `connectors[0].token`; "" where there is none."""
        return self._variables.get(path, "")

    def with_variables(self, variables: Mapping[str, str]) -> CurbConfig:
        """A copy that knows at which paths environment variables stand."""
        copy = self.model_copy()
        copy._variables = dict(variables)
        return copy


#: What commands need that only read the log and append to it.
LOG_PARTS = frozenset({"log", "instance"})
#: What commands need that also sum or forecast what is on the log.
FIGURE_PARTS = LOG_PARTS | {"attribution", "detector", "reconcile"}


def load_file(path: Path, needs: Set[str] | None = None) -> CurbConfig:
    """Read and check a configuration file, or of its parts those in `needs`, as `load_text` does.

    Raises ConfigErrors with every error found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "curb run -c FILE; deploy/curb.example.yaml is a commented start"
        raise ConfigErrors([ConfigError("", f"cannot read {path}: {error}", hint)]) from None
    return load_text(text, needs=needs)


def load_text(text: str, environment: Mapping[str, str] = os.environ, *, needs: Set[str] | None = None) -> CurbConfig:
    """Check a configuration given as YAML text. Raises ConfigErrors with every error found.

    `environment` holds the variables that `${NAME}` stands for; default: those of this process. `needs` names the parts
    (top-level keys) that must be right, None for all: in the others an unset variable has a stand-in, and what cannot
    be used is left out, so that a machine without the secrets of the daemon can still read its log.
    """
    unneeded: Set[str] = frozenset() if needs is None else CurbConfig.model_fields.keys() - needs
    errors: list[ConfigError] = []
    given = parse_yaml(text)
    data = expand_environment(given, errors, environment)
    unset = {error.path for error in errors}
    log = data.get("log")
    if isinstance(log, dict) and "kind" not in log:
        data["log"] = {"kind": "kafka" if "bootstrap_servers" in log else "embedded", **log}
    data["connectors"] = _kinds(data.get("connectors"), "connectors", CONNECTORS, errors, unneeded)
    _own_rules(data, errors)
    if any(each.reads_bills for each in data["connectors"]):
        _add_bill_scopes(data, [tag for each in data["connectors"] for tag in each.bill_tags])
    actions = data.get("actions")
    if isinstance(actions, dict):
        actions = data["actions"] = dict(actions)
        actions["actions"] = _kinds(actions.get("actions"), "actions.actions", ACTIONS, errors, unneeded)
        actions["notifiers"] = _kinds(actions.get("notifiers"), "actions.notifiers", NOTIFIERS, errors, unneeded)
    config = _validated(data, errors, unneeded)
    errors = without_consequences((each for each in errors if _part(each.path) not in unneeded), unset)
    if errors or config is None:
        raise ConfigErrors(errors)
    return config.with_variables(dict(_variables_in(given)))


def _variables_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and name of each variable that is a whole value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _variables_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _variables_in(item, f"{path}[{index}]")
    elif isinstance(value, str) and (match := _VARIABLE.fullmatch(value)):
        yield path, match[1]


def _validated(data: dict[str, Any], errors: list[ConfigError], unneeded: Set[str]) -> CurbConfig | None:
    """The configuration, without the unneeded parts that are wrong; None and `errors` where a needed one is."""
    try:
        return _derived(CurbConfig.model_validate(data), errors)
    except ValidationError as error:
        found = from_validation(error, CurbConfig)
        wrong = {_part(each.path) for each in found}
        if wrong <= unneeded:
            return _validated({key: value for key, value in data.items() if key not in wrong}, errors, unneeded)
        known = {each.path for each in errors}
        errors += [each for each in found if each.path not in known]
        return None


def _part(path: str) -> str:
    """The top-level key of a path."""
    return re.split(r"[.\[]", path, maxsplit=1)[0]


def _add_bill_scopes(data: dict[str, Any], tags: Sequence[str]) -> None:
    """A bill is judged by default: where no scope is made of costs alone, those for bills are added."""
    detector = data.get("detector") or {}
    if not isinstance(detector, dict):
        return
    default = [scope.model_dump() for scope in DEFAULT_SCOPES]
    given = detector.get("scopes", default)
    if not isinstance(given, list) or any(
        isinstance(each, dict) and each.get("sources") == ["costs"] for each in given
    ):
        return
    taken = {each.get("name") for each in given if isinstance(each, dict)}
    added = [scope.model_dump() for scope in default_scopes(tags) if scope.name not in taken]
    data["detector"] = {**detector, "scopes": [*given, *added]}


def _own_rules(data: dict[str, Any], errors: list[ConfigError]) -> None:
    """Check `detector.rules` here, each by the settings of its rule, so that errors have their whole path."""
    detector = data.get("detector")
    rules = detector.get("rules") if isinstance(detector, dict) else None
    if not isinstance(rules, dict):
        return
    known = own_rules()
    made: dict[str, Settings] = {}
    for name, given in rules.items():
        path = f"detector.rules.{name}"
        if name not in known:
            errors.append(unknown("detector.rules", str(name), known))
            continue
        try:
            made[name] = known[name].model_validate(given)
        except ValidationError as error:
            errors += from_validation(error, known[name], prefix=path)
    data["detector"] = {**data["detector"], "rules": made}


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
    wrong += not_cheaper(config.actions, config.prices)
    errors += [ConfigError(*found) for found in wrong]
    groups = unknown_groups(config.actions.approvers, config.http.auth_proxy)
    errors += [ConfigError(*found) for found in groups]
    errors += [ConfigError(*found) for found in unreachable_readers(config.report, config.actions.notifiers)]
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
    for i, policy in enumerate(config.actions.standing):
        matchers |= {f"actions.standing[{i}].match": policy.match, f"actions.standing[{i}].by": {policy.by: "*"}}
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


def _kinds(items: Any, path: str, table: Kinds[C], errors: list[ConfigError], unneeded: Set[str]) -> list[C]:
    if items is None:
        return []
    if not isinstance(items, list):
        errors.append(ConfigError(path, "must be a list", f"start each entry with `- kind: {min(table)}`"))
        return []
    configs: list[C] = []
    names: set[str] = set()
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        config = _one(item, here, table, errors, unneeded=_part(path) in unneeded)
        if config is None:
            continue
        name = str(getattr(config, "name", ""))
        if name in names:
            errors.append(ConfigError(f"{here}.name", f"{name!r} is used twice", "every name must be unique"))
        names.add(name)
        configs.append(config)
    return configs


def _one(item: Any, path: str, table: Kinds[C], errors: list[ConfigError], *, unneeded: bool) -> C | None:
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
        # Either the error is shown, or nothing of this entry is needed but its kind and name.
        return kind.model_construct(**{"name": "", **item}) if unneeded else None
    return None
