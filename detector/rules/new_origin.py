"""The rules for a key on a model, or from a region, that it has never used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from curb.detector.rules.principal_settings import NewOriginSettings
from curb.detector.state import wording as explain
from curb.detector.state.columns import Column, Columns
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.view import Bools, Finding, Floats, Subjects, View
from curb.stream.records.spend import UNTAGGED
from curb.stream.time import DAY_S

_DAY_MIN, _PRICE_MIN = 1440.0, 3 * 1440.0
#: A key must be known for so long before anything of it is new; something unused for so long is new again.
_KNOWN_DAYS, _AWAY_S = 1.0, DAY_S
#: What is new stays so for a day.
_NEWS_S = DAY_S
_TAGS = ("model", "region")


class NewOrigins:
    """A page when a key spends on a dearer model, or from a region few keys use, for the first time."""

    def __init__(self, settings: NewOriginSettings, registry: SeriesRegistry, step_s: int) -> None:
        self._settings, self._registry = settings, registry
        self._step_min = step_s / 60
        #: Per origin series: sums of a day, and which uses it is part of.
        self._sums = Columns({"usd": Column(), "tokens": Column()}, 64)
        self._part_of = Columns({tag: Column(dtype=np.int64, fill=-1) for tag in _TAGS}, 64)
        #: Per use, a key on a model or from a region: whose, since when in use (again), and when used last.
        self._uses = Columns({name: Column(dtype=np.int64) for name in ("since", "last", "principal")}, 64)
        self._use_numbers: dict[str, int] = {}
        self._keys_in: dict[str, int] = {}
        self._paid = Columns({"usd": Column(), "tokens": Column()}, 64)
        #: Of the newest bucket.
        self._new_usd: dict[str, Floats] = {tag: np.zeros(0) for tag in _TAGS}

    def close(self, view: View) -> list[Finding]:
        """Findings of kind abusive or unit_cost."""
        subjects = view.of("origin")
        self._sums.grow(len(subjects.index))
        self._part_of.grow(len(subjects.index))
        self._follow(subjects)
        findings = []
        for row in self._news(view, subjects):
            findings += self._judge(row, subjects, view)
        self._learn(view)
        return findings

    def new_usd(self, count: int) -> dict[str, Floats]:
        """By tag: dollars of the newest bucket on what was new to its principal, over `count` principals."""
        return {tag: np.pad(usd, (0, max(0, count - len(usd)))) for tag, usd in self._new_usd.items()}

    def _follow(self, subjects: Subjects) -> None:
        keep = 1 - min(1.0, self._step_min / _DAY_MIN)
        tokens = subjects.amounts.input_tokens + 4 * subjects.amounts.output_tokens
        for name, value in (("usd", subjects.amounts.cost), ("tokens", tokens)):
            held = self._sums[name]
            held *= keep
            held += value

    def _news(self, view: View, subjects: Subjects) -> list[int]:
        """Rows in use in this bucket, with money at stake, whose model or region is new to their key."""
        active = np.flatnonzero(subjects.amounts.cost > 0)
        for tag in _TAGS:
            part_of = self._part_of[tag]
            for row in active[part_of[active] < 0].tolist():
                part_of[row] = self._begin(tag, int(subjects.index[row]), view.start)
            uses = part_of[active]
            uses = uses[uses >= 0]
            back = uses[view.start - self._uses["last"][uses] > _AWAY_S]
            self._uses["since"][back] = view.start
            self._uses["last"][uses] = view.start
        self._note_new(view, subjects, active)
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
        recent[known] = start - self._uses["since"][part_of[known]] <= _NEWS_S
        return recent

    def _note_new(self, view: View, subjects: Subjects, active: NDArray[np.intp]) -> None:
        """What is spent on new things, per principal; in the first days of the stream nothing is new."""
        principals = view.principals.index
        for tag in _TAGS:
            usd = self._new_usd[tag] = np.zeros(len(principals))
            new = active[self._is_recent(tag, active, view.start)]
            uses = self._part_of[tag][new]
            principal = self._uses["principal"][uses]
            known = (self._uses["since"][uses] - self._registry["first_seen"][principal]) / DAY_S >= _KNOWN_DAYS
            place = np.searchsorted(principals, principal[known])
            np.add.at(usd, place, subjects.amounts.cost[new[known]])

    def _begin(self, tag: str, number: int, start: int) -> int:
        """The use that a series is part of; -1 while its key or its value is not known."""
        principal, value = self._registry.above(number), self._registry.tags[number].get(tag, UNTAGGED)
        if principal is None or value == UNTAGGED:
            return -1
        key = f"{principal}/{tag}/{value}"
        use = self._use_numbers.get(key)
        if use is None:
            use = self._use_numbers[key] = self._uses.n
            self._uses.grow(use + 1)
            self._uses["since"][use] = self._uses["last"][use] = start
            self._uses["principal"][use] = principal
            if tag == "region":
                self._keys_in[value] = self._keys_in.get(value, 0) + 1
        return use

    def _is_news(self, row: int, tag: str, principal: int, view: View) -> bool:
        use = int(self._part_of[tag][row])
        if use < 0:
            return False
        since = int(self._uses["since"][use])
        known_days = (since - int(self._registry["first_seen"][principal])) / DAY_S
        return known_days >= _KNOWN_DAYS and view.start - since <= _NEWS_S

    def _judge(self, row: int, subjects: Subjects, view: View) -> list[Finding]:
        findings: list[Finding] = []
        number = int(subjects.index[row])
        principal, tags = self._registry.above(number), self._registry.tags[number]
        if principal is None:
            return findings
        usd, tokens = float(self._sums["usd"][row]), float(self._sums["tokens"][row])
        place = self._place(principal, view)
        if self._is_news(row, "model", principal, view) and place is not None and self._paid["tokens"][place] > 0:
            price = usd / max(tokens, 1e-9)
            usual = float(self._paid["usd"][place] / self._paid["tokens"][place])
            if price >= self._settings.price_ratio * usual:
                words = (
                    f"${usd:,.2f} on {explain.short(tags['model'])}, which it has not used before, at "
                    f"{price / usual:.1f} times its usual price"
                )
                findings.append(Finding(principal, "new_model", "unit_cost", "page", price / usual, words, usd))
        if self._is_news(row, "region", principal, view):
            region = tags["region"]
            share = self._keys_in.get(region, 0) / max(1, len(view.principals.index))
            if share < self._settings.region_share_max:
                words = f"${usd:,.2f} from region {explain.short(region)}, which {100 * share:.0f} % of the keys use"
                findings.append(Finding(principal, "new_region", "abusive", "page", usd, words, usd))
        return findings

    @staticmethod
    def _place(principal: int, view: View) -> int | None:
        """The row of a principal among the principals."""
        at = int(np.searchsorted(view.principals.index, principal))
        return at if at < len(view.principals.index) and view.principals.index[at] == principal else None

    def _learn(self, view: View) -> None:
        """What each principal pays per token, output four times input, over three days."""
        subjects = view.principals
        self._paid.grow(len(subjects.index))
        keep = np.where(subjects.frozen, 1.0, 1 - min(1.0, self._step_min / _PRICE_MIN))
        tokens = subjects.amounts.input_tokens + 4 * subjects.amounts.output_tokens
        for name, value in (("usd", subjects.amounts.cost), ("tokens", tokens)):
            held = self._paid[name]
            held *= keep
            held += np.where(subjects.frozen, 0.0, value)

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        arrays = {"names": np.frombuffer(msgspec.msgpack.encode((self._use_numbers, self._keys_in)), np.uint8)}
        for name, columns in self._parts():
            arrays.update(columns.dump(name))
        return arrays

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        for name, columns in self._parts():
            columns.load(name, arrays)
        kind = tuple[dict[str, int], dict[str, int]]
        self._use_numbers, self._keys_in = msgspec.msgpack.decode(arrays["names"].tobytes(), type=kind)

    def _parts(self) -> list[tuple[str, Columns]]:
        return [("sums", self._sums), ("part_of", self._part_of), ("uses", self._uses), ("paid", self._paid)]
