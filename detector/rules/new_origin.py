"""The rules for a key on a model, or from a region, that it has never used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.state import wording as explain
from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.rule import (
    NOT_MEASURED,
    TUNING_STREAMS,
    Confidence,
    Docs,
    Family,
    Finding,
    Rule,
    RuleConfig,
    RuleContext,
)
from curb.detector.state.view import Subjects, View
from curb.stream.records.spend import UNTAGGED
from curb.stream.time import DAY_S


class Params(NamedTuple):
    #: Minutes over which the dollars on an origin leak away: a day. Prototype.
    day_min: float = 1440.0
    #: Minutes (three days) over which the usual price leaks away. Prototype.
    price_min: float = 4320.0
    #: Days that a key must be known before anything of it is new. Two until $2,963 on a key of 47 hours had gone
    #: unseen on one labelled stream.
    known_days: float = 1.0
    #: Seconds without use after which a model or region is new again. Prototype.
    away_s: int = 86400
    #: Seconds that something new stays new. By hand.
    new_s: int = 86400
    #: Input tokens that an output token is worth. Prototype.
    output_weight: float = 4.0


P = Params()

_TAGS = ("model", "region")


class Config(RuleConfig):
    """A key on a model or from a region it never used."""

    enabled: bool = Field(default=True, description="Whether new models and regions are looked at.")
    min_usd: float = Field(default=2.0, gt=0, description="Dollars on it within a day.")
    price_ratio: float = Field(
        default=2.0, gt=1, description="Price per token as a multiple of what the key has paid in the last three days."
    )
    region_share_max: float = Field(
        default=0.1, ge=0, le=1, description="A region that more of the keys use is not new on another one."
    )


NEW_MODEL = Family(
    "new_model",
    Confidence(((1, 0.8), (10, 0.88)), TUNING_STREAMS),
    Docs(
        "new model",
        "a key on a more expensive model than ever",
        "$2 on it in a day by a key known for a day, each token at twice what the key paid in three days. A "
        "model unused for a day is new again",
        "page",
    ),
)
NEW_REGION = Family(
    "new_region",
    NOT_MEASURED,
    Docs(
        "new region",
        "a key from where few are",
        "$2 in a day from a region that less than 10 % of the keys use",
        "page",
    ),
)


class NewOrigins(Rule):
    """A page when a key spends on a more expensive model, or from a region few keys use, for the first time.

    State: since when each key uses each model and region, and what it pays a token.
    Update: with every bucket.
    Score: the price as a multiple of the usual one; dollars for a region.
    Source: our own, no paper.
    """

    name = "new_origin"
    part = "new models and regions"
    families = (NEW_MODEL, NEW_REGION)
    config = Config
    settings_at = "principals.new_origin"

    def __init__(self, config: Config, context: RuleContext) -> None:
        self._settings = config
        self._step_min = context.step_s / 60
        #: Per origin series: sums of a day, and which uses it is part of.
        self._sums = Columns({"usd": Column(), "tokens": Column()}, 64)
        self._part_of = Columns({tag: Column(dtype=np.int64, fill=-1) for tag in _TAGS}, 64)
        #: Per use, a key on a model or from a region: whose, since when in use (again), and when used last.
        self._uses = Columns({name: Column(dtype=np.int64) for name in ("since", "last", "principal")}, 64)
        self._use_numbers: dict[str, int] = {}
        self._keys_in: dict[str, int] = {}
        self._paid = Columns({"usd": Column(), "tokens": Column()}, 64)
        self.parts = {"sums": self._sums, "part_of": self._part_of, "uses": self._uses, "paid": self._paid}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind abusive or unit_cost."""
        subjects = view.of("origin")
        self._sums.grow(len(subjects.index))
        self._part_of.grow(len(subjects.index))
        self._paid.grow(len(view.principals.index))
        self._follow(subjects)
        findings = []
        for row in self._new_uses(view, subjects):
            findings += self._judge(row, subjects, view)
        self._learn(view)
        return findings

    def _follow(self, subjects: Subjects) -> None:
        keep = 1 - min(1.0, self._step_min / P.day_min)
        tokens = subjects.amounts.input_tokens + P.output_weight * subjects.amounts.output_tokens
        for name, value in (("usd", subjects.amounts.cost), ("tokens", tokens)):
            held = self._sums[name]
            held *= keep
            held += value

    def _new_uses(self, view: View, subjects: Subjects) -> list[int]:
        """Rows in use in this bucket, with money at stake, whose model or region is new to their key."""
        active = np.flatnonzero(subjects.amounts.cost > 0)
        no_keys = not len(view.principals.index)  # as on a bill: nothing is part of a use
        for tag in _TAGS:
            part_of = self._part_of[tag]
            for row in [] if no_keys else active[part_of[active] < 0].tolist():
                part_of[row] = self._begin(tag, int(subjects.index[row]), view)
            uses = part_of[active]
            uses = uses[uses >= 0]
            back = uses[view.start - self._uses["last"][uses] > P.away_s]
            self._uses["since"][back] = view.start
            self._uses["last"][uses] = view.start
        view.new_usd = self._new_usd(view, subjects, active)
        costly = active[self._sums["usd"][active] >= self._settings.min_usd]
        recent = np.zeros(len(costly), np.bool_)
        for tag in _TAGS:
            recent |= self._is_recent(tag, costly, view.start)
        rows: list[int] = costly[recent].tolist()
        return rows

    def _is_recent(self, tag: str, rows: NDArray[np.intp], start: int) -> Bools:
        """Whether what each row is a use of has been in use for a day at most."""
        part_of = self._part_of[tag][rows]
        known = part_of >= 0
        recent = known.copy()
        recent[known] = start - self._uses["since"][part_of[known]] <= P.new_s
        return recent

    def _new_usd(self, view: View, subjects: Subjects, active: NDArray[np.intp]) -> dict[str, Floats]:
        """Dollars on new things by tag, per principal; in the first days of the stream nothing is new."""
        principals, first_seen = view.principals.index, view.registry["first_seen"]
        spent: dict[str, Floats] = {}
        for tag in _TAGS:
            usd = spent[tag] = np.zeros(len(principals))
            new = active[self._is_recent(tag, active, view.start)]
            uses = self._part_of[tag][new]
            principal = self._uses["principal"][uses]
            known = (self._uses["since"][uses] - first_seen[principal]) / DAY_S >= P.known_days
            place = np.searchsorted(principals, principal[known])
            np.add.at(usd, place, subjects.amounts.cost[new[known]])
        return spent

    def _begin(self, tag: str, number: int, view: View) -> int:
        """The use that a series is part of; -1 while its key or its value is not known."""
        registry = view.registry
        value = registry.tags[number].get(tag, UNTAGGED)
        principal = None if value == UNTAGGED else registry.above(number)
        if principal is None:
            return -1
        key = f"{principal}/{tag}/{value}"
        use = self._use_numbers.get(key)
        if use is None:
            use = self._use_numbers[key] = self._uses.n
            self._uses.grow(use + 1)
            self._uses["since"][use] = self._uses["last"][use] = view.start
            self._uses["principal"][use] = principal
            if tag == "region":
                self._keys_in[value] = self._keys_in.get(value, 0) + 1
        return use

    def _is_new(self, row: int, tag: str, principal: int, view: View) -> bool:
        use = int(self._part_of[tag][row])
        if use < 0:
            return False
        since = int(self._uses["since"][use])
        known_days = (since - int(view.registry["first_seen"][principal])) / DAY_S
        return known_days >= P.known_days and view.start - since <= P.new_s

    def _judge(self, row: int, subjects: Subjects, view: View) -> list[Finding]:
        findings: list[Finding] = []
        number = int(subjects.index[row])
        principal, tags = view.registry.above(number), view.registry.tags[number]
        if principal is None:
            return findings
        usd, tokens = float(self._sums["usd"][row]), float(self._sums["tokens"][row])
        place = self._place(principal, view)
        if self._is_new(row, "model", principal, view) and place is not None and self._paid["tokens"][place] > 0:
            price = usd / max(tokens, 1e-9)
            usual = float(self._paid["usd"][place] / self._paid["tokens"][place])
            if price >= self._settings.price_ratio * usual:
                words = (
                    f"${usd:,.2f} on {explain.short(tags['model'])}, which it has not used before, at "
                    f"{price / usual:.1f} times its usual price"
                )
                findings.append(Finding(principal, NEW_MODEL, "unit_cost", "page", price / usual, words, usd))
        if self._is_new(row, "region", principal, view):
            region = tags["region"]
            share = self._keys_in.get(region, 0) / max(1, len(view.principals.index))
            if share < self._settings.region_share_max:
                words = f"${usd:,.2f} from region {explain.short(region)}, which {100 * share:.0f} % of the keys use"
                findings.append(Finding(principal, NEW_REGION, "abusive", "page", usd, words, usd))
        return findings

    @staticmethod
    def _place(principal: int, view: View) -> int | None:
        """The row of a principal among the principals."""
        at = int(np.searchsorted(view.principals.index, principal))
        return at if at < len(view.principals.index) and view.principals.index[at] == principal else None

    def _learn(self, view: View) -> None:
        """What each principal pays per token, output four times input, over three days."""
        subjects = view.principals
        keep = np.where(subjects.frozen, 1.0, 1 - min(1.0, self._step_min / P.price_min))
        tokens = subjects.amounts.input_tokens + P.output_weight * subjects.amounts.output_tokens
        for name, value in (("usd", subjects.amounts.cost), ("tokens", tokens)):
            held = self._paid[name]
            held *= keep
            held += np.where(subjects.frozen, 0.0, value)

    def dump(self) -> dict[str, NDArray[Any]]:
        """The parts, and the names behind their numbers as bytes."""
        names = msgspec.msgpack.encode((self._use_numbers, self._keys_in))
        return {"names": np.frombuffer(names, np.uint8), **super().dump()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on where `dump` was made."""
        super().load(arrays)
        kind = tuple[dict[str, int], dict[str, int]]
        self._use_numbers, self._keys_in = msgspec.msgpack.decode(arrays["names"].tobytes(), type=kind)
