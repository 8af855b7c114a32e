"""Whose spend a record is: normal spelling of its tags, virtual tags, owners and shares, for every kind of connector.

It stands at the door behind `validate`, before the append. What a set of tags becomes is worked out once and
remembered, so that most records cost two look-ups.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from curb.connectors.intake.shares import FIELDS, Patterns, SharedCost, SharedCosts, ShareRule, TagName, TagValue
from curb.connectors.intake.untagged import UntaggedSpend
from curb.stream.log.protocol import Log, Message
from curb.stream.log.topics import CURSORS
from curb.stream.records.spend import OTHER, UNTAGGED, CostRecord, GpuRecord, SpendRecord
from curb.stream.settings import Settings

Criticality = Literal["critical", "high", "normal", "low"]
#: Sets of tags that are remembered; beyond, all are forgotten and worked out again.
MAX_REMEMBERED, MAX_REMEMBERED_CHARS = 20_000, 16_000_000

#: The text that a matcher looks at under a name, or None.
Look = Callable[[str], str | None]


class AllowList(Settings):
    """The values a tag may have."""

    values: tuple[TagValue, ...] = Field(min_length=1, description="Every value that is right, in its right spelling.")
    otherwise: TagValue | None = Field(
        default=None, description="What any other value becomes; default: the tag is taken away, so it is untagged."
    )


class SpendOwner(Settings):
    """Who answers for what carries a tag."""

    match: Patterns = Field(min_length=1, description="Tag → pattern; all must match.")
    team: TagValue | None = Field(default=None, description="Becomes the tag `team` where there is none.")
    slack_channel: str | None = Field(
        default=None, pattern=r"^[CGD][A-Z0-9]{6,}$", description="Id of a channel that gets their alerts as well."
    )
    criticality: Criticality | None = Field(
        default=None, description="Becomes the tag `criticality` where there is none; Curb never acts on `critical`."
    )


class TagRule(Settings):
    """Tags that a record gets because of others."""

    match: Patterns = Field(
        default={}, description=f"Tag or field → pattern; all must match. Fields: {', '.join(FIELDS)}."
    )
    tags: dict[TagName, TagValue] = Field(min_length=1, description="The tags to give.")
    override: bool = Field(default=False, description="true: also where the record carries another value.")


class AttributionSettings(Settings):
    """How every record is tagged before it is on the log. The order here is the order in which it is done."""

    keys: dict[TagName, tuple[TagName, ...]] = Field(
        default={}, description="Tag → other names it comes under. Names are compared without regard to case."
    )
    lower_case: tuple[TagName, ...] = Field(default=(), description="Tags whose values are made lower case.")
    values: dict[TagName, dict[TagValue, tuple[TagValue, ...]]] = Field(
        default={}, description="Tag → value → other spellings of it, compared without regard to case."
    )
    allowed: dict[TagName, AllowList] = Field(default={}, description="Tag → the only values it may have.")
    defaults: dict[str, dict[TagName, TagValue]] = Field(
        default={}, description="Name of a connector → tags for its records that do not carry them."
    )
    rules: tuple[TagRule, ...] = Field(
        default=(), description="Virtual tags, in order: a later rule sees what an earlier one gave."
    )
    owners: tuple[SpendOwner, ...] = Field(
        default=(), description="Who answers for what; the first that matches decides."
    )
    shares: tuple[ShareRule, ...] = Field(default=(), description="Shared resources; the first that matches splits.")
    shared_costs: tuple[SharedCost, ...] = Field(
        default=(), description="What `curb report` divides among those who spent; the first that matches divides."
    )
    required: tuple[TagName, ...] = Field(
        default=("team",), description="Tags that all usage should carry: curb_untagged_percent says how much does not."
    )

    @model_validator(mode="after")
    def _unambiguous(self) -> AttributionSettings:
        _one_home("keys", self.keys)
        for tag, spellings in self.values.items():
            _one_home(f"values.{tag}", spellings)
        names = [share.name for share in self.shares]
        if len(set(names)) < len(names):
            raise ValueError("two shares have the same name")
        names = [cost.name for cost in self.shared_costs]
        if len(set(names)) < len(names):
            raise ValueError("two shared costs have the same name")
        return self

    @model_validator(mode="after")
    def _no_reserved_values(self) -> AttributionSettings:
        given = [value for rule in self.rules for value in rule.tags.values()]
        given += [value for tags in self.defaults.values() for value in tags.values()]
        given += [value for share in self.shares for value in share.fixed]
        given += [value for cost in self.shared_costs for value in cost.fixed]
        if {UNTAGGED, OTHER} & set(given):
            raise ValueError(f"{UNTAGGED} and {OTHER} stand for missing and folded values and cannot be given")
        return self


class Verdict(NamedTuple):
    """What a set of tags becomes."""

    tags: dict[str, str]
    #: Number of the share rule that splits the record, or None.
    share: int | None
    #: Number of a share rule, and which of its consumers this is.
    uses: tuple[tuple[int, str], ...]
    #: Required tags that are missing.
    missing: tuple[str, ...]


class _Decision(NamedTuple):
    """What rules, owners, marks and shares say of the values they look at."""

    #: Tags of the rules that match, in their order, and whether they override.
    given: tuple[tuple[dict[str, str], bool], ...]
    owner: dict[str, str]
    mark: dict[str, str]
    share: int | None
    #: Share rules that count this record as a consumer, by number.
    consumes: tuple[int, ...]


class Attributed(NamedTuple):
    """Records as they go on the log, and what must be there before them."""

    records: list[SpendRecord]
    before: list[Message]


class Attribution:
    """The attribution of all connectors of one process. `open` it on the log, then `apply` it to every batch.

    `known_tags` are names that must come out in this spelling, whatever the case they come in: those that scopes and
    budgets use. `marks` are rules of Curb's own: the first that matches counts, and nobody else can give their tags.
    """

    def __init__(
        self, settings: AttributionSettings, known_tags: Iterable[str] = (), marks: Sequence[TagRule] = ()
    ) -> None:
        self._settings = settings
        self._marks = [(matcher(mark.match), mark.tags) for mark in marks]
        self._reserved = frozenset(tag for mark in marks for tag in mark.tags)
        self._names = _names(settings, known_tags)
        self._values = {
            tag: {other.casefold(): value for value, others in spellings.items() for other in (value, *others)}
            for tag, spellings in settings.values.items()
        }
        self._lower = frozenset(settings.lower_case)
        self._allowed = {
            tag: ({value.casefold(): value for value in allowed.values}, allowed.otherwise)
            for tag, allowed in settings.allowed.items()
        }
        self._rules = [(matcher(rule.match), rule.tags, rule.override) for rule in settings.rules]
        self._owners = [(matcher(owner.match), _owner_tags(owner)) for owner in settings.owners]
        self._shares = [matcher(share.match) for share in settings.shares]
        self._consumers = [matcher(share.consumers) for share in settings.shares]
        names = _names_looked_at(settings, marks)
        self._fields = tuple(field for field in FIELDS if field in names and field != "source")
        self._looked_at = tuple(sorted(names))
        self._decided: dict[tuple[str | None, ...], _Decision] = {}
        self._remembered: dict[tuple[object, ...], Verdict] = {}
        self._remembered_chars = 0
        self._shared = SharedCosts(settings.shares)
        self._untagged = UntaggedSpend(settings.required)

    async def open(self, log: Log) -> None:
        """Go on where the last process stopped. Raises TransientError while the log cannot be reached."""
        if self._settings.shares:
            self._shared.load(await log.table(CURSORS))

    def apply(self, records: Sequence[SpendRecord], *, source: str, at: float) -> Attributed:
        """The records with their final tags, those of shared resources split. Changes the tags in place."""
        source = source.partition("/")[0]  # what backfills a push source is attributed as that is
        verdicts = [self.verdict(record, source) for record in records]
        for record, verdict in zip(records, verdicts, strict=True):
            record.tags = verdict.tags
        if self._shares:
            for record, verdict in zip(records, verdicts, strict=True):
                for share, value in verdict.uses:
                    self._shared.observe(share, value, record)
        attributed: list[SpendRecord] = []
        for record, verdict in zip(records, verdicts, strict=True):
            missing = verdict.missing
            if verdict.share is None:
                attributed.append(record)
            else:
                split = self._shared.split(verdict.share, record, verdict.tags)
                attributed += split
                missing = tuple(tag for tag in missing if tag not in split[0].tags)
            self._untagged.add(record, missing)
        self._untagged.publish(source, at)
        return Attributed(attributed, self._shared.messages(at))

    def appended(self, messages: Sequence[Message]) -> None:
        """What `before` held is on the log; until this is said, every batch brings it again."""
        self._shared.appended(messages)

    def verdict(self, record: SpendRecord, source: str) -> Verdict:
        """What the tags of a record of the connector `source` become. Do not change the answer: it is remembered."""
        tags = record.tags
        key = (source, *tags.items(), *[field_of(record, field) for field in self._fields])
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= MAX_REMEMBERED or self._remembered_chars > MAX_REMEMBERED_CHARS:
                self._remembered.clear()
                self._decided.clear()  # never more than what is remembered
                self._remembered_chars = 0
            self._remembered_chars += sum(map(len, tags)) + sum(map(len, tags.values()))
            found = self._remembered[key] = self._work_out(record, source)
        return found

    def _work_out(self, record: SpendRecord, source: str) -> Verdict:
        tags = self._normal(record.tags)
        for tag, value in self._settings.defaults.get(source, {}).items():
            tags.setdefault(tag, value)

        decision = self._decision(tags, record, source)
        for given, override in decision.given:
            tags = {**tags, **given} if override else {**given, **tags}
        tags = {**decision.owner, **tags}
        if self._reserved:
            tags = {tag: value for tag, value in tags.items() if tag not in self._reserved} | decision.mark
        shares = [(number, self._settings.shares[number].tag) for number in decision.consumes]
        uses = tuple((number, tags[tag]) for number, tag in shares if tag in tags)
        missing = tuple(tag for tag in self._settings.required if tag not in tags)
        return Verdict(tags, decision.share, uses, missing)

    def _decision(self, tags: Mapping[str, str], record: SpendRecord, source: str) -> _Decision:
        """Remembered by the values that are looked at: a new API key or user changes nothing for rules on projects."""
        fields = [field_of(record, field) for field in self._fields]
        key = (source, *map(tags.get, self._looked_at), *fields)
        found = self._decided.get(key)
        if found is None:
            seen = {name: tags[name] for name in self._looked_at if name in tags}
            fallback = {"source": source, **dict(zip(self._fields, fields, strict=True))}
            found = self._decided[key] = self._decide(seen, fallback)
        return found

    def _decide(self, tags: dict[str, str], fields: Mapping[str, str]) -> _Decision:
        def look(name: str) -> str | None:
            own = tags.get(name)
            return own if own is not None else fields.get(name) or None

        matched = []
        for matches, given, override in self._rules:
            if matches(look):
                tags = {**tags, **given} if override else {**given, **tags}
                matched.append((given, override))
        owner = next((given for matches, given in self._owners if matches(look)), {})
        tags = {**owner, **tags}
        mark: dict[str, str] = {}
        if self._reserved:
            mark = next((given for matches, given in self._marks if matches(look)), {})
            tags = {tag: value for tag, value in tags.items() if tag not in self._reserved} | mark
        share = next((number for number, matches in enumerate(self._shares) if matches(look)), None)
        consumes = () if share is not None else tuple(self._consuming(look))
        return _Decision(tuple(matched), owner, mark, share, consumes)

    def _normal(self, given: Mapping[str, str]) -> dict[str, str]:
        """The tags in normal spelling. Of two spellings of one tag the right one wins, then the alias named first."""
        ranks: dict[str, int] = {}
        tags: dict[str, str] = {}
        for key, value in given.items():
            name, rank = self._names.get(key.casefold(), (key, 0))
            rank = -1 if key == name else rank
            if name in ranks and ranks[name] <= rank:
                continue
            normal = self._normal_value(name, value)
            if normal is not None:
                tags[name], ranks[name] = normal, rank
        return tags

    def _normal_value(self, tag: str, value: str) -> str | None:
        """The value in normal spelling, or None for a value that counts as missing."""
        if value in (UNTAGGED, OTHER):
            return None  # nobody outside may say so: the first means missing, the second is the rollup's own
        if tag in self._lower:
            value = value.lower()
        value = self._values.get(tag, {}).get(value.casefold(), value)
        if tag in self._allowed:
            right, otherwise = self._allowed[tag]
            return right.get(value.casefold(), otherwise)
        return value

    def _consuming(self, look: Look) -> Iterator[int]:
        for number, (share, matches) in enumerate(zip(self._settings.shares, self._consumers, strict=True)):
            if share.by is not None and matches(look):
                yield number


def _names(settings: AttributionSettings, known_tags: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Any spelling of a tag's name, in one case → its right spelling and how far down the list it stands."""
    names: dict[str, tuple[str, int]] = {}
    for name, others in settings.keys.items():
        for rank, spelling in enumerate((name, *others)):
            names.setdefault(spelling.casefold(), (name, rank))
    configured = [*settings.values, *settings.allowed, *settings.lower_case, *settings.required]
    configured += [share.tag for share in settings.shares]
    for name in (*configured, *known_tags):
        names.setdefault(name.casefold(), (name, 0))
    return names


def matcher(patterns: Patterns) -> Callable[[Look], bool]:
    """Whether what a look finds fits all patterns."""
    compiled = [(name, re.compile(translate(pattern))) for name, pattern in patterns.items()]

    def matches(look: Look) -> bool:
        for name, pattern in compiled:
            text = look(name)
            if text is None or pattern.match(text) is None:
                return False
        return True

    return matches


def field_of(record: SpendRecord, name: str) -> str:
    """One of FIELDS but `source`, which the record need not carry; empty where its kind has none."""
    if name == "records":
        return "costs" if isinstance(record, CostRecord) else "gpu" if isinstance(record, GpuRecord) else "usage"
    value: str = getattr(record, name, "")
    return value


def _owner_tags(owner: SpendOwner) -> dict[str, str]:
    given = (("team", owner.team), ("criticality", owner.criticality))
    return {name: value for name, value in given if value is not None}


def _names_looked_at(settings: AttributionSettings, marks: Sequence[TagRule]) -> set[str]:
    """The tags and fields that decide what a record becomes."""
    matches = [rule.match for rule in (*settings.rules, *marks)] + [owner.match for owner in settings.owners]
    matches += [match for share in settings.shares for match in (share.match, share.consumers)]
    return {name for match in matches for name in match}


def _one_home(where: str, aliases: dict[str, tuple[str, ...]]) -> None:
    home: dict[str, str] = {}
    for name, others in aliases.items():
        for spelling in {each.casefold() for each in (name, *others)}:
            if spelling in home:
                raise ValueError(f"{where}: {spelling!r} stands for both {home[spelling]} and {name}")
            home[spelling] = name
