"""Divides shared costs of a report among those who spent: by what each spent itself, evenly, or by fixed weights.

Charges that nobody used alone wait in a pool until the whole span is read; then each becomes a part per combination of
values. The parts add up to the charge, so the totals stay those of the log.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from curb.connectors.intake.attribution import field_of, matcher
from curb.connectors.intake.shares import SharedCost, divided, part_id
from curb.detector.state.scopes import Source
from curb.stream.records.spend import UNTAGGED, CostRecord, SpendRecord

#: The span of a report, or the one before.
When = Literal["now", "then"]
_Values = tuple[str, ...]


class Part(NamedTuple):
    """A part of shared charges, or shared charges that nobody could be given; the name of the rule, or "" then."""

    when: When
    kind: Source
    record: SpendRecord
    rule: str


class _Key(NamedTuple):
    """Charges with the same key are added up before they are divided."""

    rule: int
    when: When
    kind: Source
    #: Start of the local day, epoch seconds.
    day: float
    category: str
    fields: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]


#: Fields of a record by which reports group, beside tags.
_FIELDS = ("source", "request_model", "provider_name", "service_name", "sub_account_id", "region_id", "resource_id")
_COUNTS = ("requests", "errors", "users", "input_tokens", "output_tokens")


class SharedPool:
    """Shared charges of a report, and what everybody spent itself."""

    def __init__(self, rules: Sequence[SharedCost]) -> None:
        self.rules = tuple(rules)
        self._matches = [matcher(rule.match) for rule in rules]
        self._pool: dict[_Key, SpendRecord] = {}
        #: (rule, span, whether billed) → combination of values → dollars of its own.
        self._own: dict[tuple[int, When, bool], dict[_Values, float]] = defaultdict(lambda: defaultdict(float))
        self._known: dict[tuple[str, ...], int | None] = {}
        #: Names of rules without anybody to divide among.
        self.undivided: set[str] = set()

    def takes(self, record: SpendRecord, kind: Source, when: When, day: float, values: Sequence[_Values]) -> bool:
        """Whether a record is shared, which then waits for `parts`; else it counts as its own of `values` by rule."""
        rule = self._rule_of(record)
        if rule is None:
            for number, own in enumerate(values):
                if UNTAGGED not in own:
                    self._own[number, when, kind == "costs"][own] += record.effective_cost
            return False
        category = record.charge_category if isinstance(record, CostRecord) else ""
        fields = tuple(str(getattr(record, name, "")) for name in _FIELDS)
        key = _Key(rule, when, kind, day, category, fields, tuple(sorted(record.tags.items())))
        held = self._pool.get(key)
        self._pool[key] = record if held is None else _added(held, record)
        return True

    def parts(self) -> Iterator[Part]:
        """Every shared charge in its parts, once all records were offered."""
        for key, record in self._pool.items():
            rule = self.rules[key.rule]
            weights = self._weights(key)
            if not weights:
                self.undivided.add(rule.name)
                yield Part(key.when, key.kind, record, "")
                continue
            values = list(weights)
            tags = [{**record.tags, **dict(zip(rule.tags, own, strict=True))} for own in values]
            ids = [part_id(record.id, "\n".join(own)) for own in values]
            for each in divided(record, list(weights.values()), ids, tags):
                yield Part(key.when, key.kind, each, rule.name)

    def _weights(self, key: _Key) -> dict[_Values, float]:
        rule = self.rules[key.rule]
        if rule.by == "fixed":
            return {(value,): weight for value, weight in rule.fixed.items()}
        # Of the same money where there is any: a bill by what was billed, else by what is estimated.
        billed = key.kind == "costs"
        for money in (billed, not billed):
            own = {who: usd for who, usd in self._own[key.rule, key.when, money].items() if usd > 0}
            if own:
                return own if rule.by == "proportional" else dict.fromkeys(own, 1.0)
        return {}

    def _rule_of(self, record: SpendRecord) -> int | None:
        if not self.rules:
            return None
        known = (*[str(getattr(record, name, "")) for name in _LOOKED_AT], *map(str, sorted(record.tags.items())))
        if known not in self._known:

            def look(name: str) -> str | None:
                own = record.tags.get(name)
                return own if own is not None else field_of(record, name) or None

            found = (number for number, matches in enumerate(self._matches) if matches(look))
            self._known[known] = next(found, None)
        return self._known[known]


#: Fields that a rule may look at, and what tells the kinds of records apart.
_LOOKED_AT = (*_FIELDS, "charge_category", "charge_kind", "usage_type", "gpu_seconds", "__class__")


def _added(held: SpendRecord, record: SpendRecord) -> SpendRecord:
    """One record for two alike."""
    amounts = ["effective_cost", *[name for name in ("billed_cost", "gpu_seconds") if hasattr(held, name)]]
    sums = {name: math.fsum((getattr(held, name), getattr(record, name))) for name in amounts}
    counts = {name: getattr(held, name) + getattr(record, name) for name in _COUNTS}
    return msgspec.structs.replace(held, **sums, **counts)
