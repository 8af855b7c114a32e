"""Any other gateway or controller with an HTTP API: templated calls that read, set and give back a few values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import parse_qsl, quote, urlencode

import aiohttp
import jmespath
import msgspec
from jmespath.exceptions import JMESPathError
from pydantic import Field, SecretStr, model_validator

from curb.actions.action import ActionContext, DriftError, Effect, Enforced, HoldsNothing, Outcome, RateConfig
from curb.actions.calls.compare_and_swap import another, arrows, is_another, swap
from curb.actions.calls.http import NoSuchRouteError, NotFoundError, exchange
from curb.actions.levers.http_templates import TAG, fill_body, fill_url, origin, placeholders
from curb.actions.target import TargetRate, Verb
from curb.stream.clients.reason import is_page
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError, TransientError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert, Plan
from curb.stream.settings import Expression, Settings

Constant = bool | int | float | str
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class CallSettings(Settings):
    """One HTTP call. `{tag.NAME}` stands for a tag of the alert, `{FIELD}` for the value of a field."""

    method: Method = Field(description="HTTP method.")
    url: str = Field(description="Address; what is filled in is quoted.")
    headers: dict[str, str] = Field(default={}, description="Headers of this call, sent as they are; no secrets.")
    body: Any = Field(default=None, description="JSON document to send; what is filled in keeps its type.")


class SecretHeader(Settings):
    """A header whose value is not shown anywhere."""

    name: str = Field(pattern=r"^[A-Za-z0-9-]+$", description="Name of the header.")
    value: SecretStr = Field(description="Its value; or `value_file`.")
    prefix: str = Field(default="", description="Put before the value, such as `Bearer ` with its space.")


class FieldSettings(Settings):
    """One value that Curb reads and sets, and what it sets for each verb. A verb no field names is not followed."""

    path: Expression = Field(description="JMESPath of the value in what `read` and `read_back` answer.")
    shave: Literal["requests_per_minute", "usd_per_hour"] | Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Figure of the rung, or a number."
    )
    reroute: Constant | None = Field(
        default=None, description="What routes its calls to a cheaper model, such as the name of that model."
    )
    pause: Constant | None = Field(default=None, description="What pauses it, such as `true` or 0.")
    block: Constant | None = Field(default=None, description="What blocks it.")
    times: float = Field(
        default=1.0, gt=0, description="Factor for the figure of the rung: 60 makes requests per hour of it."
    )
    whole: bool = Field(default=True, description="The figure is rounded up to a whole number.")


class Config(RateConfig):
    """Reads, sets and gives back values through the configured calls."""

    kind: Literal["http"]
    fields: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$")], FieldSettings] = Field(
        min_length=1, description="Name → one value that is read and set."
    )
    read: CallSettings = Field(description="Call that answers the current values as JSON.")
    write: CallSettings = Field(description="Call that sets values; it has a placeholder for each field.")
    read_back: CallSettings | None = Field(default=None, description="Call that verifies; default: `read`.")
    restore: CallSettings | None = Field(
        default=None, description="Call that gives the old values back; default: `write` with the old values."
    )
    remove: CallSettings | None = Field(
        default=None, description="Call that gives back where there was no value before; default: `restore`."
    )
    not_found: Literal["error", "none"] = Field(
        default="error", description="What 404 to `read` means: no such subject, or no value is set."
    )
    identity: Expression | None = Field(
        default=None,
        description="JMESPath of what distinguishes the subject from another that is made later under its name, in "
        "what `read` answers, such as a uid or created_at.",
    )
    rejected: Expression | None = Field(
        default=None, description="JMESPath of the requests turned away since, in what `read_back` answers."
    )
    irreversible: str = Field(default="", description="What undo cannot bring back; such plans wait for an approval.")
    secret_headers: tuple[SecretHeader, ...] = Field(default=(), description="Headers of every call.")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="Longest wait for one answer.")

    @model_validator(mode="after")
    def _calls_fit(self) -> Config:
        calls = self.calls()
        if len({origin(call.url) for call in calls.values()}) > 1:
            raise ValueError("all calls must go to the same scheme, host and port: they carry the same secrets")
        for name, call in calls.items():
            asked = {each for each in placeholders([call.url, call.body]) if not each.startswith(TAG)}
            unknown = asked if name in ("read", "read_back") else asked - self.fields.keys()
            if unknown:
                raise ValueError(f"{name}: unknown placeholders: {', '.join(sorted(unknown))}")
        wanted = [(each.shave, each.reroute, each.pause, each.block) for each in self.fields.values()]
        if not any(verb is not None for verbs in wanted for verb in verbs):
            raise ValueError("fields: none of them says what to set for shave, reroute, pause or block")
        missing = self.fields.keys() - placeholders([self.write.url, self.write.body])
        if missing:
            raise ValueError(f"write: no placeholder for {', '.join(sorted(missing))}")
        return self

    def calls(self) -> dict[str, CallSettings]:
        """The configured calls by name."""
        named = {name: getattr(self, name) for name in HttpAction.permissions}
        return {name: call for name, call in named.items() if call is not None}

    def build(self, context: ActionContext) -> HttpAction:
        return HttpAction(self, context.http, context.clock)


class HttpAction(HoldsNothing):
    """An action on `<address of read>#<tags of its calls>`."""

    #: The calls of the configuration; the credentials must be allowed those, and no others are made.
    permissions: ClassVar[tuple[str, ...]] = ("read", "write", "read_back", "restore", "remove")
    #: What the configuration may name; a plan for a verb that no field names is empty.
    verbs: ClassVar[frozenset[Verb]] = frozenset({"shave", "reroute", "pause", "block"})

    def __init__(self, config: Config, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._config, self._http, self._clock = config, http, clock
        calls = config.calls().values()
        asked = {name for call in calls for name in placeholders([call.url, call.body])}
        self._tags = sorted(name.removeprefix(TAG) for name in asked if name.startswith(TAG))
        self._paths = {name: jmespath.compile(field.path) for name, field in config.fields.items()}
        self._rejected = jmespath.compile(config.rejected) if config.rejected else None
        self._identity = jmespath.compile(config.identity) if config.identity else None
        self._secrets = {
            header.name: header.prefix + header.value.get_secret_value() for header in config.secret_headers
        }

    async def plan(self, alert: Alert, rate: TargetRate) -> Sequence[Plan]:
        """Nothing for a verb that no field names, without one of the tags, or when the values are low enough.

        PermanentError for a subject the other side does not know.
        """
        tags = {name: alert.tags.get(name, "") for name in self._tags}
        wanted = self._wanted(rate)
        if not wanted or any(value in ("", UNTAGGED, OTHER) for value in tags.values()):
            return ()
        found, identity = await self._read(tags)
        after = {name: value for name, value in wanted.items() if _tightens(found[name], value)}
        if not after:
            return ()
        before = {name: found[name] for name in after}
        of = " ".join(tags.values())
        plan = Plan(
            action=self._config.name,
            target=self._target(tags),
            summary=f"{rate.verb}{of and ' ' + of}: {arrows(before, after)}",
            before=before,
            after=after,
            reversible=not self._config.irreversible,
            warning=self._config.irreversible,
            identity=identity,
        )
        return (plan,)

    @property
    def subject_tags(self) -> tuple[str, ...]:
        return tuple(self._tags)

    async def enforced(self, subjects: Sequence[Mapping[str, str]]) -> list[Enforced]:
        """What the fields hold that Curb would set to a figure of the rung."""
        return [await self._enforced({name: tags[name] for name in self._tags}) for tags in subjects]

    async def _enforced(self, tags: dict[str, str]) -> Enforced:
        try:
            found, _ = await self._read(tags)
        except PermanentError as error:
            return Enforced(unknown=str(error))
        limits: dict[str, float] = {}
        for name, field in self._config.fields.items():
            if field.block is not None and found[name] == field.block:
                return Enforced(0.0)
            if isinstance(field.shave, str) and _is_number(found[name]):
                figure = found[name] / field.times
                limits[field.shave] = min(figure, limits.get(field.shave, math.inf))
        requests = limits.get("requests_per_minute")
        return Enforced(None if requests is None else 60.0 * requests, limits.get("usd_per_hour"))

    async def apply(self, plan: Plan) -> Outcome:
        if plan.identity and is_another(plan, (await self._read(_tags_of(plan)))[1]):
            raise PermanentError(str(another(plan)))
        await self._write(self._config.write, _tags_of(plan), plan.after)
        return Outcome(values=dict(plan.after))

    async def verify(self, plan: Plan) -> Effect:
        answer = await self._ask(self._config.read_back or self._config.read, _tags_of(plan), {})
        found = self._values(answer)
        values = {name: found[name] for name in plan.after}
        if plan.identity and is_another(plan, (await self._read(_tags_of(plan)))[1]):
            return Effect(in_force=False, values={}, detail=str(another(plan)))
        rejected: Any = _search(self._rejected, answer) if self._rejected else None
        counted = int(rejected) if _is_number(rejected) else None
        return Effect(in_force=values == plan.after, values=values, rejected=counted)

    async def undo(self, plan: Plan, outcome: Outcome | None) -> None:
        config, tags = self._config, _tags_of(plan)
        try:
            found, identity = await self._read(tags)
        except NotFoundError as error:
            raise DriftError("the subject no longer exists", found={}) from error
        if is_another(plan, identity):
            raise another(plan)
        swapped = swap(plan, found)
        if swapped.back:
            restore = config.restore or config.write
            if config.remove and all(value is None for value in {**found, **swapped.back}.values()):
                restore = config.remove
            await self._write(restore, tags, swapped.back)
        swapped.raise_drift("somebody changed the values since")

    def _wanted(self, rate: TargetRate) -> dict[str, Any]:
        wanted = {name: self._figure(field, rate) for name, field in self._config.fields.items()}
        return {name: value for name, value in wanted.items() if value is not None}

    def _figure(self, field: FieldSettings, rate: TargetRate) -> Constant | None:
        if rate.verb != "shave":
            constant: Constant | None = getattr(field, rate.verb)
            return constant
        if not isinstance(field.shave, str):
            figure = None if rate.standing else field.shave
        elif field.shave == "requests_per_minute":
            figure = self._config.rpm_for(rate) * field.times
        else:
            figure = None if rate.usd_per_hour is None else rate.usd_per_hour * field.times
        if figure is None:
            return None
        return math.ceil(figure) if field.whole else float(figure)

    async def _read(self, tags: dict[str, str]) -> tuple[dict[str, Any], str]:
        """The values, and what distinguishes the subject from another of its name."""
        try:
            answer = await self._ask(self._config.read, tags, {})
            identity: Any = _search(self._identity, answer) if self._identity else None
            return self._values(answer), "" if identity is None else str(identity)
        except (NotFoundError, NoSuchRouteError) as error:
            # A page is an answer of something in between, whatever 404 means.
            in_between = isinstance(error, NoSuchRouteError) and is_page(error.body)
            if self._config.not_found == "error" or in_between:
                raise
            return dict.fromkeys(self._paths), ""

    def _values(self, answer: Any) -> dict[str, Any]:
        found = {name: _search(path, answer) for name, path in self._paths.items()}
        for name, value in found.items():
            if isinstance(value, dict | list):
                raise PermanentError(f"fields.{name}.path finds no single value but a {type(value).__name__}")
        return found

    async def _write(self, call: CallSettings, tags: dict[str, str], values: dict[str, Any]) -> None:
        """A call that names more fields than change sends the others as they are."""
        others = placeholders([call.url, call.body]) & (self._paths.keys() - values.keys())
        if others:
            values = {**(await self._read(tags))[0], **values}
        await self._ask(call, tags, values)

    async def _ask(self, call: CallSettings, tags: dict[str, str], values: dict[str, Any]) -> Any:
        known = {**{TAG + name: value for name, value in tags.items()}, **values}
        body = await exchange(
            self._http,
            self._clock,
            call.method,
            fill_url(call.url, known),
            timeout_s=self._config.timeout_s,
            headers={**call.headers, **self._secrets},
            json=None if call.body is None else fill_body(call.body, known),
        )
        if call not in (self._config.read, self._config.read_back):
            return None
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise TransientError(f"{call.method} {origin(call.url)}: the answer is not JSON") from error

    def _target(self, tags: dict[str, str]) -> str:
        url = fill_url(self._config.read.url, {TAG + name: value for name, value in tags.items()})
        return f"{url}#{urlencode(tags, quote_via=quote)}"


def _search(path: jmespath.parser.ParsedResult, answer: Any) -> Any:
    try:
        return path.search(answer)
    except JMESPathError as error:
        raise PermanentError(f"a path does not fit the answer: {str(error).splitlines()[0]}") from error


def _tags_of(plan: Plan) -> dict[str, str]:
    return dict(parse_qsl(plan.target.rpartition("#")[2]))


def _tightens(found: Any, value: Constant) -> bool:
    if _is_number(found) and _is_number(value):
        return bool(found > value)
    return bool(found != value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
