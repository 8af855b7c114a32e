"""Splits what shared resources cost over those who use them: fixed shares, or by what each was seen to use.

Which weights hold for a window of charges is decided once, on the first record charged in it, and written to the log
before that record's parts. So a record that is delivered again has the same parts with the same ids, and counts once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, model_validator

from curb.stream.log.codec import encode
from curb.stream.log.protocol import Message
from curb.stream.log.topics import CURSORS
from curb.stream.records.spend import OTHER, GpuRecord, SpendRecord, UsageRecord
from curb.stream.settings import Settings

#: What a matcher may name beside tags, where the record has no tag of that name.
#: `records` is usage, costs or gpu, by the kind of record.
FIELDS = (
    "records",
    "source",
    "request_model",
    "service_name",
    "sub_account_id",
    "resource_id",
    "charge_category",
    "charge_kind",
    "provider_name",
    "region_id",
    "usage_type",
)
#: The longest tag name and value the door lets through.
TagName = Annotated[str, Field(min_length=1, max_length=128)]
TagValue = Annotated[str, Field(min_length=1, max_length=256)]
#: Tag → shell-style pattern with * and ?; all of them must match.
Patterns = dict[TagName, TagValue]
#: What consumers of a shared resource are measured by.
Measure = Literal["gpu_seconds", "tokens", "requests"]
#: Parts of one record at most; smaller consumers share the last one, `__other__`.
MAX_PARTS = 100
#: Consumers measured in one window; what further ones use counts for `__other__`.
_MAX_CONSUMERS = 10_000
#: Windows of use, and of decided weights, that are remembered.
_USE_WINDOWS, _DECIDED_WINDOWS = 49, 1500
#: Running use is written at most so often (seconds): a crash forgets no more of it.
_WRITE_EVERY_S = 60.0
_MAX_ID_CHARS = 256
_INTEGERS = (
    "requests",
    "errors",
    "users",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_DOLLARS = ("effective_cost", "billed_cost", "gpu_seconds")

#: Value of the tag → weight. Empty: nobody is known, the record stays whole.
Weights = dict[str, float]


class ShareRule(Settings):
    """A shared resource, and how what it costs is split over those who use it."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name.")
    match: Patterns = Field(min_length=1, description="Tag or field → pattern: the records to split.")
    tag: TagName = Field(default="team", description="The tag that each part gets.")
    fixed: dict[TagValue, float] = Field(
        default={}, description="Value of the tag → weight. With `by`: the weights until there is usage."
    )
    by: Measure | None = Field(
        default=None, description="Split by what consumers used: gpu_seconds, tokens or requests."
    )
    consumers: Patterns = Field(default={}, description="Which records count as use; default: all that carry the tag.")
    window_s: int = Field(
        default=3600, ge=60, le=86400, description="Use is summed over windows of this length, in seconds."
    )

    @model_validator(mode="after")
    def _splits(self) -> ShareRule:
        if not self.fixed and self.by is None:
            raise ValueError(f"share {self.name}: give `fixed` weights, or `by` what to split")
        if self.fixed and not all(math.isfinite(weight) and weight > 0 for weight in self.fixed.values()):
            raise ValueError(f"share {self.name}: every weight must be a number above 0")
        return self


class SharedCost(Settings):
    """What nobody used alone, and how a report divides it once the whole period is known."""

    name: str = Field(pattern=r"^[a-z0-9-]+$", max_length=64, description="Unique name.")
    match: Patterns = Field(min_length=1, description="Tag or field → pattern: the charges to divide.")
    tags: tuple[TagName, ...] = Field(
        default=("team",),
        min_length=1,
        description="Among whose values: each combination that spent has a part.",
    )
    by: Literal["proportional", "even", "fixed"] = Field(
        default="proportional", description="By what each spent itself, evenly, or by the weights in `fixed`."
    )
    fixed: dict[TagValue, float] = Field(default={}, description="Value of the tag → weight, for `by: fixed`.")

    @model_validator(mode="after")
    def _divides(self) -> SharedCost:
        if (self.by == "fixed") != bool(self.fixed):
            raise ValueError(f"shared cost {self.name}: `by: fixed` needs weights in `fixed`, and nothing else does")
        if self.fixed and len(self.tags) > 1:
            raise ValueError(f"shared cost {self.name}: fixed weights are of the values of one tag")
        if not all(math.isfinite(weight) and weight > 0 for weight in self.fixed.values()):
            raise ValueError(f"shared cost {self.name}: every weight must be a number above 0")
        return self


class SharedCosts:
    """Every share rule with what it has seen. `load` once, then `observe` and `split` as records come."""

    def __init__(self, rules: Sequence[ShareRule]) -> None:
        self._shares = [_Shared(rule) for rule in rules]

    def load(self, table: Mapping[bytes, bytes]) -> None:
        """Go on from what `messages` wrote; `table` is the newest value per key of the cursors topic."""
        for share in self._shares:
            share.load(table)

    def observe(self, at: int, value: str, record: SpendRecord) -> None:
        """Count what `value` used of the share number `at`."""
        self._shares[at].observe(value, record)

    def split(self, at: int, record: SpendRecord, tags: dict[str, str]) -> list[SpendRecord]:
        """The parts of a record, which add up to it in dollars and counts; itself while nobody is known."""
        share = self._shares[at]
        return parts(record, tags, share.rule.tag, share.weights(record.charge_period_start))

    def messages(self, at: float) -> list[Message]:
        """What must be on the log before any part made so far; say `appended` when it is."""
        return [message for share in self._shares for message in share.messages(at)]

    def appended(self, messages: Sequence[Message]) -> None:
        """These messages are on the log."""
        for share in self._shares:
            share.appended(frozenset(messages))


class _Shared:
    def __init__(self, rule: ShareRule) -> None:
        self.rule = rule
        self._decided: dict[int, Weights] = {}
        self._use: dict[int, Weights] = {}
        self._new: list[Message] = []
        self._written_at, self._changed = -math.inf, False

    def observe(self, value: str, record: SpendRecord) -> None:
        if self.rule.by is None:
            return
        amount = _used(record, self.rule.by)
        if amount <= 0:
            return
        window = self._window(record.charge_period_start)
        use = self._use.get(window)
        if use is None:
            use = self._use[window] = {}
            if len(self._use) > _USE_WINDOWS:
                del self._use[min(self._use)]
        if value not in use and len(use) >= _MAX_CONSUMERS:
            value = OTHER
        use[value] = use.get(value, 0.0) + amount
        self._changed = True

    def weights(self, time: float) -> Weights:
        window = self._window(time)
        if self.rule.by is None:
            return self.rule.fixed
        known = self._decided.get(window)
        if known is None:
            known = self._decided[window] = _largest(self._known_use(window)) or self.rule.fixed
            self._new.append(Message(CURSORS, encode(known), key=self._key(str(window))))
            if len(self._decided) > _DECIDED_WINDOWS:
                oldest = min(self._decided)
                del self._decided[oldest]
                self._new.append(Message(CURSORS, b"", key=self._key(str(oldest))))
        return known

    def _known_use(self, window: int) -> Weights:
        """Use in the window itself where it is over, else in the last one before it, else in what has run of it."""
        over = max(self._use, default=window) > window
        if over and window in self._use:
            return self._use[window]
        before = max((each for each in self._use if each < window), default=window)
        return self._use.get(before, {})

    def load(self, table: Mapping[bytes, bytes]) -> None:
        prefix = self._key("")
        for key, value in table.items():
            if not value or not key.startswith(prefix):
                continue
            what = key.removeprefix(prefix).decode()
            if what == "use":
                self._use = msgspec.json.decode(value, type=dict[int, Weights])
            else:
                self._decided[int(what)] = msgspec.json.decode(value, type=Weights)

    def messages(self, at: float) -> list[Message]:
        new = list(self._new)
        if self._changed and at - self._written_at >= _WRITE_EVERY_S:
            self._written_at, self._changed = at, False
            newest = {window: _largest(self._use[window]) for window in sorted(self._use)[-2:]}
            new.append(Message(CURSORS, encode(newest), key=self._key("use")))
        return new

    def appended(self, messages: frozenset[Message]) -> None:
        self._new = [message for message in self._new if message not in messages]

    def _window(self, time: float) -> int:
        return int(time // self.rule.window_s)

    def _key(self, what: str) -> bytes:
        # No connector is named like this: their names hold no slash. Windows of another length are other windows.
        return f"attribution/{self.rule.name}/{self.rule.window_s}/{what}".encode()


def parts(record: SpendRecord, tags: dict[str, str], tag: str, weights: Weights) -> list[SpendRecord]:
    """One record per weight, with `tag` set, that together are `record`; a single one where there are no weights."""
    if not weights:
        return [record]
    ids = [part_id(record.id, value) for value in weights]
    return divided(record, list(weights.values()), ids, [{**tags, tag: value} for value in weights])


def divided(
    record: SpendRecord, weights: Sequence[float], ids: Sequence[str], tags: Sequence[dict[str, str]]
) -> list[SpendRecord]:
    """One record per weight, with its id and tags, that together are `record`."""
    shares = _shares(list(weights))
    columns: dict[str, Sequence[Any]] = {}
    for field in record.__struct_fields__:
        if field in _DOLLARS:
            columns[field] = _divide(getattr(record, field), shares)
        elif field in _INTEGERS:
            columns[field] = _divide_count(getattr(record, field), shares)
    if isinstance(record, UsageRecord) and record.loop is not None:  # one call, not one for each part
        columns["loop"] = [record.loop, *[None] * (len(weights) - 1)]
    return [
        msgspec.structs.replace(
            record,
            id=ids[number],
            tags=tags[number],
            **{field: column[number] for field, column in columns.items()},
        )
        for number in range(len(weights))
    ]


def part_id(record_id: str, value: str) -> str:
    """The same id for the same part of the same record, short enough for the door."""
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    if len(record_id) + 13 > _MAX_ID_CHARS:
        record_id = hashlib.sha256(record_id.encode()).hexdigest()
    return f"{record_id}~{digest}"


def _shares(weights: list[float]) -> list[float]:
    largest = max(weights)  # first scaled by it, so that no sum overflows
    scaled = [weight / largest for weight in weights]
    total = math.fsum(scaled)
    return [weight / total for weight in scaled]


def _divide(amount: float, shares: list[float]) -> list[float]:
    """The amounts; what rounding leaves goes to the largest share."""
    divided = [amount * share for share in shares]
    largest = shares.index(max(shares))
    divided[largest] = 0.0
    divided[largest] = amount - math.fsum(divided)
    return divided


def _divide_count(count: int, shares: list[float]) -> list[int]:
    """Whole numbers that add up: differences of rounded running sums."""
    if not count:
        return [0] * len(shares)
    bounds = [min(count, round(count * total)) for total in accumulate(shares)]
    bounds[-1] = count
    return [after - before for before, after in zip([0, *bounds], bounds, strict=False)]


def _used(record: SpendRecord, by: Measure) -> float:
    if by == "gpu_seconds":
        return record.gpu_seconds if isinstance(record, GpuRecord) else 0.0
    return float(record.requests if by == "requests" else record.input_tokens + record.output_tokens)


def _largest(use: Weights) -> Weights:
    """The largest consumers, and all others as one; so that one record never becomes thousands."""
    if len(use) <= MAX_PARTS:
        return dict(use)
    ordered = sorted(use.items(), key=lambda item: (item[0] == OTHER, -item[1], item[0]))
    kept = dict(ordered[: MAX_PARTS - 1])
    return kept | {OTHER: math.fsum(amount for _, amount in ordered[MAX_PARTS - 1 :])}
