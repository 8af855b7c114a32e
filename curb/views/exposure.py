"""What every key could burn in an hour with the limits its gateway enforces now, no limit first.

LiteLLM lists its keys; of the other gateways the keys are those that have spent, by the log.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple

import aiohttp

from curb.actions.action import ActionContext, Enforced, RateConfig, ReadsLimits
from curb.actions.ledger.ledger import ActionState
from curb.actions.levers.litellm_enforced import Row, budget_left, enforced_limits
from curb.actions.levers.litellm_keys import GatewayKey, LitellmKeys
from curb.actions.levers.litellm_limits import Config as LitellmConfig
from curb.actions.settings import ActionsSettings
from curb.detector.settings import DetectorSettings
from curb.stream.clock import Clock
from curb.stream.errors import PermanentError
from curb.stream.money import usd
from curb.stream.records.spend import OTHER, UNTAGGED, LedgerEntry, SpendPartial
from curb.stream.time import HOUR_S

#: Keys of a gateway that are read, and subjects that are asked for, those that spent most. By hand: fifty pages.
_MOST_KEYS = 5000
#: Keys looked at at a time: each may ask for a team, a user and an organisation.
_AT_A_TIME = 8
#: Hours of a key that stay open, so that late sums find theirs; with twice as many the older ones are closed.
#: By hand: four days.
_OPEN_HOURS = 100
#: The tag that holds the hash of a key.
_KEY_TAGS = ("api_key",)

#: none: nothing bounds its dollars. unknown: it has limits, and nothing says what a request of it costs. refused: no
#: call of it passes.
Bound = Literal["none", "unknown", "limited", "refused"]
BOUNDS: tuple[Bound, ...] = ("none", "unknown", "limited", "refused")
#: What is read, how much of it was, and of how much.
Progress = Callable[[str, int, int], None]


@dataclass
class KeyUse:
    """What the log says of one key, or of all."""

    usd: float = 0.0
    requests: int = 0
    tokens: int = 0
    _hours: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    _closed_top_usd: float = 0.0

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum."""
        self.usd += part.effective_cost
        self.requests += part.requests
        self.tokens += part.input_tokens + part.output_tokens
        # What is known for a longer time only is spread evenly.
        self._hours[int(part.bucket_start // HOUR_S)] += part.effective_cost * min(1.0, HOUR_S / max(1, part.covers_s))
        if len(self._hours) > 2 * _OPEN_HOURS:
            for hour in sorted(self._hours)[:_OPEN_HOURS]:
                self._closed_top_usd = max(self._closed_top_usd, self._hours.pop(hour))

    @property
    def top_hour_usd(self) -> float:
        """Dollars of its most expensive hour."""
        return max(self._closed_top_usd, max(self._hours.values(), default=0.0))

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
    #: The team or user whose limits bind all its keys together, "" for none; and the most dollars that those limits
    #: alone allow, None where they bound none.
    shares: str = ""
    shared_usd: float | None = None
    #: The action by whose gateway it is limited, and what of it is Curb's own: a ceiling or a throttle.
    gateway: str = ""
    by_curb: str = ""

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        own = ("team", "bound", "usd", "why", "limits", "top_hour_usd", "gateway", "by_curb")
        return {"api_key": self.key.id, "name": self.key.name, **{name: getattr(self, name) for name in own}}

    @property
    def limit_words(self) -> str:
        """Its limits for people."""
        own = (
            name if " " in name or name == "blocked" else f"{name} {value:,g}" for name, value in self.limits.items()
        )
        return ", ".join([*own, *([f"{self.by_curb} by Curb"] if self.by_curb else [])])


class ExposureReader:
    """Reads what the gateways of the actions enforce. Give it every partial sum of `scopes` first."""

    def __init__(
        self, actions: ActionsSettings, detector: DetectorSettings, http: aiohttp.ClientSession, clock: Clock
    ) -> None:
        """Raises PermanentError where no gateway can be read, or no scope has the tags of a key."""
        kinds = rate_actions(actions)
        self._http, self._clock = http, clock
        self._proxies = {str(each.base_url): each for each in kinds if isinstance(each, LitellmConfig)}
        self._readers: dict[str, ReadsLimits] = {
            each.name: action
            for each in kinds
            if not isinstance(each, LitellmConfig)
            and isinstance(action := each.build(ActionContext(clock, http)), ReadsLimits)
        }
        if not self._proxies and not self._readers:
            raise PermanentError("no configured action can say what its gateway enforces")
        wanted = {each.subject_tags for each in self._readers.values()} | ({_KEY_TAGS} if self._proxies else set())
        self._scopes = {tags: _scope_of(detector, tags) for tags in wanted}
        self._uses: dict[tuple[str, ...], dict[tuple[str, ...], KeyUse]] = {
            tags: defaultdict(KeyUse) for tags in wanted
        }

    @property
    def scopes(self) -> frozenset[str]:
        """Names of the scopes whose sums say what keys spend."""
        return frozenset(self._scopes.values())

    def add(self, part: SpendPartial) -> None:
        """Count a partial sum; those of other scopes are passed over."""
        for tags, scope in self._scopes.items():
            if part.scope == scope:
                uses = self._uses[tags]
                uses[tuple(part.tags.get(tag, "") for tag in tags)].add(part)
                uses[_FLEET].add(part)

    async def read(
        self, held: Mapping[tuple[str, str], str], report: Progress = lambda what, done, total: None
    ) -> list[Exposure]:
        """Every key of every gateway, the most exposed first; `held` as `held_by_curb` gives it.

        Raises TransientError or PermanentError where a gateway cannot be read.
        """
        found: list[Exposure] = []
        for lever in self._proxies.values():
            keys = LitellmKeys(
                str(lever.base_url), lever.api_key.get_secret_value(), self._http, self._clock, lever.timeout_s
            )
            of_proxy = await _of_gateway(keys, self._uses[_KEY_TAGS], self._clock.now(), report)
            found += [each._replace(gateway=lever.name) for each in of_proxy]
        for name, action in self._readers.items():
            found += await of_subjects(name, action, self._uses[action.subject_tags])
        found = [each._replace(by_curb=held.get((each.gateway, each.key.id), "")) for each in _known(found)]
        return sorted(found, key=lambda each: (BOUNDS.index(each.bound), -(each.usd or 0.0), -each.top_hour_usd))


def rate_actions(actions: ActionsSettings) -> list[RateConfig]:
    """The configured actions that limit a rate of requests."""
    return [each for each in actions.actions if isinstance(each, RateConfig)]


def held_by_curb(actions: Mapping[str, Sequence[LedgerEntry]]) -> dict[tuple[str, str], str]:
    """What Curb holds itself, "ceiling" or "throttle", by action and key; `actions` are the entries of each action."""
    found = {}
    for entries in actions.values():
        last = entries[-1]
        if ActionState(list(entries)).in_force:
            what = "ceiling" if last.standing else "throttle"
            for value in last.tags.values():
                found[last.plan.action, value] = what
    return found


def _known(found: Sequence[Exposure]) -> Iterator[Exposure]:
    """Without keys that a gateway does not know, where another one does."""
    known = {each.key.id for each in found if each.bound != "unknown" or each.limits}
    return (each for each in found if each.bound != "unknown" or each.limits or each.key.id not in known)


def _scope_of(detector: DetectorSettings, tags: tuple[str, ...]) -> str:
    """The scope whose sums say what the subjects of these tags spend."""
    scopes = [each for each in detector.scopes if {*tags} <= {*each.group_by} and "usage" in each.sources]
    if not scopes:
        raise PermanentError(f"no scope of usage has {' and '.join(tags)}, so nothing says what a request costs")
    return min(scopes, key=lambda each: len(each.group_by)).name


async def of_subjects(name: str, action: ReadsLimits, uses: Uses) -> list[Exposure]:
    """The exposure of the subjects of a gateway that have spent most."""
    values = [each for each in uses if each and not {*each} & {"", UNTAGGED, OTHER}]
    values = heapq.nlargest(_MOST_KEYS, values, key=lambda each: uses[each].usd)
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


async def _of_gateway(reader: LitellmKeys, uses: Uses, now: float, report: Progress) -> list[Exposure]:
    keys = await reader.read(_MOST_KEYS, lambda done, total: report("keys", done, total))
    turn, looked_at = asyncio.Semaphore(_AT_A_TIME), count(1)

    async def one(key: GatewayKey) -> Exposure:
        async with turn:
            whole = await reader.with_tier(key)
            above = await reader.above(whole)
        report("their teams, users and organisations", next(looked_at), len(keys.keys))
        own, fleet = uses.get((key.id,), KeyUse()), uses.get(_FLEET, KeyUse())
        return expose(whole, above, own, fleet, now)

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
    shares, holder = _holder(key.row, above)
    of_holder = _bounds(enforced_limits(holder, (), now), [holder], use, now)
    shared_usd = min((most for most, _ in of_holder), default=None)
    if bounds:
        most, why = min(bounds)
        why += "" if use is own or why == "budget" else ", at the mean price of all keys"
        return Exposure(key, team, "limited", most, why, limits, own.top_hour_usd, shares, shared_usd)
    if any(name in limits for name in ("rpm_limit", "tpm_limit")):
        return Exposure(
            key, team, "unknown", None, "no request was seen yet that has a price", limits, own.top_hour_usd
        )
    return Exposure(key, team, "none", None, "no limit", limits, own.top_hour_usd)


def _holder(row: Row, above: Sequence[Row]) -> tuple[str, Row]:
    """The team of a key, or the user of a key without one: a name for it, and its row; "" without."""
    if team_id := row.get("team_id"):
        return f"team {team_id}", next((each for each in above if "team_alias" in each), {})
    user_id = row.get("user_id")
    found = next((each for each in above if user_id and each.get("user_id") == user_id), None)
    return ("", {}) if found is None else (f"user {user_id}", found)


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
    """All keys together: those of a team, and those of a user without one, at most what its own limits allow."""
    by_holder: dict[str, list[Exposure]] = defaultdict(list)
    for each in found:
        by_holder[f"{each.shares or f'key {each.key.id}'} at {each.gateway}"].append(each)
    limited = 0.0
    for group in by_holder.values():
        together = [each.shared_usd for each in group if each.shared_usd is not None]
        # The most expensive of its keys may use all that the team or user has.
        limited += min(sum(each.usd or 0.0 for each in group), max(together, default=math.inf))
    counts = {bound: sum(each.bound == bound for each in found) for bound in BOUNDS}
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
