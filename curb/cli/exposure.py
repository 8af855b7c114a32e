"""`curb exposure`: what every key could burn in an hour with the limits its gateway enforces now, no limit first.

LiteLLM lists its keys; of the other gateways the keys are those that have spent, by the log.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import aiohttp
import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from curb.actions.action import ActionContext, Enforced, RateConfig, ReadsLimits
from curb.actions.ledger.ledger import ActionState
from curb.actions.levers.litellm_enforced import Row, budget_left, enforced_limits
from curb.actions.levers.litellm_keys import GatewayKey, LitellmKeys
from curb.actions.levers.litellm_limits import Config as LitellmConfig
from curb.actions.notify.wording import clean
from curb.cli import offline
from curb.cli.common import DEFAULT_CONFIG, ConfigOption, ask, load
from curb.config.file import CurbConfig
from curb.stream.clock import WallClock
from curb.stream.errors import PermanentError
from curb.stream.money import usd
from curb.stream.records.spend import OTHER, UNTAGGED, SpendPartial
from curb.stream.time import HOUR_S

#: Keys that are read. By hand: fifty pages.
_MOST_KEYS = 5000
#: Keys looked at at a time: each may ask for a team, a user and an organisation.
_AT_A_TIME = 8
#: The tag that holds the hash of a key.
_KEY_TAGS = ("api_key",)

#: none: nothing bounds its dollars. unknown: it has limits, and nothing says what a request of it costs. refused: no
#: call of it passes.
Bound = Literal["none", "unknown", "limited", "refused"]
_ORDER: tuple[Bound, ...] = ("none", "unknown", "limited", "refused")


@dataclass
class KeyUse:
    """What the log says of one key, or of all."""

    usd: float = 0.0
    requests: int = 0
    tokens: int = 0
    _hours: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum."""
        self.usd += part.effective_cost
        self.requests += part.requests
        self.tokens += part.input_tokens + part.output_tokens
        # What is known for a longer time only is spread evenly.
        self._hours[int(part.bucket_start // HOUR_S)] += part.effective_cost * min(1.0, HOUR_S / max(1, part.covers_s))

    @property
    def top_hour_usd(self) -> float:
        """Dollars of its most expensive hour."""
        return max(self._hours.values(), default=0.0)

    def price(self, unit: Literal["requests", "tokens"]) -> float | None:
        """Mean dollars of a request or a token; None where there was none."""
        count = getattr(self, unit)
        return self.usd / count if count and self.usd > 0 else None


#: Use by the values of some tags.
Uses = Mapping[tuple[str, ...], KeyUse]
#: Under which the use of all together is kept.
_FLEET: tuple[str, ...] = ()


class Exposure(NamedTuple):
    """One key: the most dollars of an hour, and which limit makes it so."""

    key: GatewayKey
    team: str
    bound: Bound
    #: Dollars of an hour; only where it is limited or refused.
    usd: float | None
    why: str
    limits: dict[str, float]
    top_hour_usd: float
    #: Of its team's limits alone, by which all its keys together are bound; None where they bound no dollars.
    team_usd: float | None = None
    #: The action by whose gateway it is limited, and what of it is Curb's own: a ceiling or a throttle.
    gateway: str = ""
    by_curb: str = ""

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        own = ("team", "bound", "usd", "why", "limits", "top_hour_usd", "gateway", "by_curb")
        return {"api_key": self.key.id, "name": self.key.name, **{name: getattr(self, name) for name in own}}


def exposure(
    config: ConfigOption = DEFAULT_CONFIG,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of keys to show.")] = 30,
    json_lines: Annotated[bool, typer.Option("--json", help="Print one JSON object with every key.")] = False,
) -> None:
    """Rank what every key could burn in an hour with the limits that are enforced now, no limit first.

    On LiteLLM limits are those of the key, its budget tier, team, membership, user and organisation. On Envoy, HAProxy,
    Kong and kind http, every key that has spent is looked at. A request costs what the key's requests cost on average
    on the log. It only reads. Exit code 1 when a gateway or the log cannot be read.
    """
    loaded = load(config)
    kinds = [each for each in loaded.actions.actions if isinstance(each, RateConfig)]
    if not kinds:
        typer.echo("exposure: no action limits a rate of requests, so no gateway is known", err=True)
        raise typer.Exit(2)
    console = Console(stderr=json_lines)
    found = ask(_all(loaded, kinds, console))
    if json_lines:
        print(msgspec.json.encode({"total": total(found), "keys": [each.as_data() for each in found]}).decode())
        return
    console.print(_table(found[:top], gateways=len({each.gateway for each in found}) > 1))
    if len(found) > top:
        console.print(f"  {len(found) - top} more keys; see --top or --json")
    console.print(Text(sentence(found)), soft_wrap=True)


async def read_exposures(config: CurbConfig) -> list[Exposure]:
    """Every key of every gateway, the most exposed first, without a word. Raises TransientError or PermanentError."""
    kinds = [each for each in config.actions.actions if isinstance(each, RateConfig)]
    return await _all(config, kinds, Console(quiet=True))


async def _all(config: CurbConfig, kinds: Sequence[RateConfig], console: Console) -> list[Exposure]:
    """Every key of every gateway, the most exposed first. Raises TransientError or PermanentError."""
    proxies = {str(each.base_url): each for each in kinds if isinstance(each, LitellmConfig)}
    found: list[Exposure] = []
    async with aiohttp.ClientSession(headers={"User-Agent": "curb"}) as http:
        readers = {
            each.name: action
            for each in kinds
            if not isinstance(each, LitellmConfig)
            and isinstance(action := each.build(ActionContext(WallClock(), http)), ReadsLimits)
        }
        if not proxies and not readers:
            raise PermanentError("no configured action can say what its gateway enforces")
        named = {_KEY_TAGS} if proxies else set()
        uses = await _uses(config, named | {each.subject_tags for each in readers.values()})
        for lever in proxies.values():
            reader = LitellmKeys(
                str(lever.base_url), lever.api_key.get_secret_value(), http, WallClock(), lever.timeout_s
            )
            with Progress(console=console, transient=True) as progress:
                keys = await _of_gateway(reader, uses[_KEY_TAGS], progress)
            found += [each._replace(gateway=lever.name) for each in keys]
        for name, action in readers.items():
            found += await of_subjects(name, action, uses[action.subject_tags])
    held = await _held(config)
    found = [each._replace(by_curb=held.get((each.gateway, each.key.id), "")) for each in _known(found)]
    return sorted(found, key=lambda each: (_ORDER.index(each.bound), -(each.usd or 0.0), -each.top_hour_usd))


def _known(found: Sequence[Exposure]) -> Iterator[Exposure]:
    """Without keys that a gateway does not know, where another one does."""
    known = {each.key.id for each in found if each.bound != "unknown" or each.limits}
    return (each for each in found if each.bound != "unknown" or each.limits or each.key.id not in known)


def _scope_of(config: CurbConfig, tags: tuple[str, ...]) -> str:
    """The scope whose sums say what the subjects of these tags spend."""
    scopes = [each for each in config.detector.scopes if {*tags} <= {*each.group_by} and "usage" in each.sources]
    if not scopes:
        raise PermanentError(f"no scope of usage has {' and '.join(tags)}, so nothing says what a request costs")
    return min(scopes, key=lambda each: len(each.group_by)).name


async def _uses(config: CurbConfig, wanted: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], Uses]:
    """For each of these sets of tags, use by their values; of all together under ()."""
    scopes = {tags: _scope_of(config, tags) for tags in wanted}
    found: dict[tuple[str, ...], Uses] = {tags: defaultdict(KeyUse) for tags in scopes}
    async for part in offline.partial_sums(config):
        for tags, scope in scopes.items():
            if part.scope == scope:
                found[tags][tuple(part.tags.get(tag, "") for tag in tags)].add(part)
                found[tags][_FLEET].add(part)
    return found


async def of_subjects(name: str, action: ReadsLimits, uses: Uses) -> list[Exposure]:
    """The exposure of every subject of a gateway that has spent."""
    values = [each for each in uses if each and not {*each} & {"", UNTAGGED, OTHER}]
    tags = [dict(zip(action.subject_tags, each, strict=True)) for each in values]
    limits = await action.enforced(tags)
    fleet = uses.get(_FLEET, KeyUse())
    return [_expose(name, "+".join(each), uses[each], fleet, limit) for each, limit in zip(values, limits, strict=True)]


def _expose(gateway: str, subject: str, own: KeyUse, fleet: KeyUse, limit: Enforced) -> Exposure:
    key = GatewayKey(subject, subject, {}, in_unseen_tier=False, spent_usd=own.usd, blocked=False)
    named = {"requests_per_hour": limit.requests_per_hour, "usd_per_hour": limit.usd_per_hour}
    shown = {name: value for name, value in named.items() if value is not None}
    found = Exposure(key, "", "none", None, "no limit", shown, own.top_hour_usd, gateway=gateway)
    if limit.unknown:
        return found._replace(bound="unknown", why=limit.unknown)
    if limit.requests_per_hour == 0:
        return found._replace(bound="refused", usd=0.0, why="blocked")
    bounds = [(limit.usd_per_hour, "usd_per_hour")] if limit.usd_per_hour is not None else []
    if limit.requests_per_hour is not None:
        price = own.price("requests")
        why = "requests" if price is not None else "requests, at the mean price of all keys"
        price = price if price is not None else fleet.price("requests")
        if price is None and not bounds:
            return found._replace(bound="unknown", why="no request was seen yet that has a price")
        bounds += [(limit.requests_per_hour * price, why)] if price is not None else []
    if not bounds:
        return found
    most, why = min(bounds)
    return found._replace(bound="limited", usd=most, why=why)


async def _held(config: CurbConfig) -> dict[tuple[str, str], str]:
    """What Curb holds itself, by action and key."""
    view, found = await offline.load_view(config), {}
    for entries in view.actions.values():
        last = entries[-1]
        if ActionState(entries).in_force:
            what = "ceiling" if last.standing else "throttle"
            for value in last.tags.values():
                found[last.plan.action, value] = what
    return found


async def _of_gateway(reader: LitellmKeys, uses: Uses, progress: Progress) -> list[Exposure]:
    task = progress.add_task("keys", total=None)
    keys = await reader.read(_MOST_KEYS, lambda done, total: progress.update(task, completed=done, total=total))
    task = progress.add_task("their teams, users and organisations", total=len(keys.keys))
    turn = asyncio.Semaphore(_AT_A_TIME)

    async def one(key: GatewayKey) -> Exposure:
        async with turn:
            whole = await reader.with_tier(key)
            above = await reader.above(whole)
        progress.advance(task)
        own, fleet = uses.get((key.id,), KeyUse()), uses.get(_FLEET, KeyUse())
        return expose(whole, above, own, fleet, WallClock().now())

    return list(await asyncio.gather(*(one(key) for key in keys.keys)))


def expose(key: GatewayKey, above: Sequence[Row], own: KeyUse, fleet: KeyUse, now: float) -> Exposure:
    """What one key could burn. Prices of a request and a token are its own means, else those of all keys."""
    limits = enforced_limits(key.row, above, now)
    teams = [each for each in above if "team_alias" in each]
    team = str((teams[0].get("team_alias") if teams else "") or key.row.get("team_id") or "")
    refused = key.blocked or any(each.get("blocked") is True for each in above)
    if refused:
        return Exposure(key, team, "refused", 0.0, "blocked or expired", limits, own.top_hour_usd)
    use = own if own.price("requests") is not None else fleet
    bounds = list(_bounds(limits, [key.row, *above], use, now))
    team_usd = None
    if teams:
        of_team = _bounds(enforced_limits(teams[0], (), now), teams[:1], use, now)
        team_usd = min((most for most, _ in of_team), default=None)
    if bounds:
        most, why = min(bounds)
        why += "" if use is own or why == "budget" else ", at the mean price of all keys"
        return Exposure(key, team, "limited", most, why, limits, own.top_hour_usd, team_usd)
    if any(name in limits for name in ("rpm_limit", "tpm_limit")):
        return Exposure(
            key, team, "unknown", None, "no request was seen yet that has a price", limits, own.top_hour_usd
        )
    return Exposure(key, team, "none", None, "no limit", limits, own.top_hour_usd)


def _bounds(limits: Mapping[str, float], rows: Iterable[Row], use: KeyUse, now: float) -> Iterable[tuple[float, str]]:
    """Dollars of an hour by each limit that bounds them, with its name. Parallel requests bound none."""
    units: tuple[tuple[str, Literal["requests", "tokens"]], ...] = (("rpm_limit", "requests"), ("tpm_limit", "tokens"))
    for name, unit in units:
        price = use.price(unit)
        if name in limits and price is not None:
            yield 60 * max(0.0, limits[name]) * price, name
    left = [each for row in rows if (each := budget_left(row, now, HOUR_S)) is not None]
    if left:
        yield min(left), "budget"


def total(found: Sequence[Exposure]) -> dict[str, Any]:
    """All keys together: keys of a team at most what the team's own limits allow."""
    by_team: dict[str, list[Exposure]] = defaultdict(list)
    for each in found:
        by_team[each.team or f"key {each.key.id} at {each.gateway}"].append(each)
    limited = 0.0
    for group in by_team.values():
        of_team = [each.team_usd for each in group if each.team_usd is not None]
        # The most expensive of its keys may use all that the team has.
        limited += min(sum(each.usd or 0.0 for each in group), max(of_team, default=math.inf))
    counts = {bound: sum(each.bound == bound for each in found) for bound in _ORDER}
    unbounded = sum(each.top_hour_usd for each in found if each.bound in ("none", "unknown"))
    return {"limited_usd": limited, "top_hours_of_others_usd": unbounded, "keys": counts}


def sentence(found: Sequence[Exposure]) -> str:
    """The total for people."""
    sums = total(found)
    counts = sums["keys"]
    open_keys = counts["none"]
    first = f"{open_keys} of {len(found)} keys have no limit on dollars" + (
        f" (their most expensive hours so far: {usd(sums['top_hours_of_others_usd'])})" if open_keys else ""
    )
    unknown = f"; {counts['unknown']} have limits and no price yet" if counts["unknown"] else ""
    return f"{first}{unknown}. The other {counts['limited']} could burn {usd(sums['limited_usd'])} in an hour together."


def _table(found: Sequence[Exposure], *, gateways: bool) -> Table:
    table = Table(title="Exposure in an hour", title_justify="left", header_style="bold")
    names = ("key", "team", "$ could burn", "because of", "limits", "$ most in an hour so far")
    for name in (*names, *(("gateway",) if gateways else ())):
        table.add_column(name, justify="right" if name.startswith("$") else "left", overflow="fold")
    for each in found:
        style = {"none": "bold red", "unknown": "yellow"}.get(each.bound, "")
        own = (
            name if " " in name or name == "blocked" else f"{name} {value:,g}" for name, value in each.limits.items()
        )
        limits = ", ".join([*own, *([f"{each.by_curb} by Curb"] if each.by_curb else [])])
        table.add_row(
            Text(clean(each.key.name, 40)),
            Text(clean(each.team, 40)),
            Text("no limit" if each.bound == "none" else "?" if each.usd is None else usd(each.usd), style),
            Text("" if each.bound == "none" else clean(each.why, 120)),
            Text(clean(limits, 80)),
            usd(each.top_hour_usd),
            *((each.gateway,) if gateways else ()),
        )
    return table
