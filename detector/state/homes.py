"""One series per principal: a key whose team tag is missing, spelt otherwise or moved is still the same key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from curb.detector.state.reader import PartialSum
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.scopes import Scope, SeriesTags
from curb.stream.records.spend import OTHER, UNTAGGED

#: The tag that names a principal, and its value.
Principal = tuple[str, str]
_tags_decoder = msgspec.json.Decoder(dict[str, str])


class HomesDump(msgspec.Struct):
    """What `Homes.load` takes."""

    #: Attributes of each principal: as first seen, and as shown where that is another.
    first: list[tuple[Principal, SeriesTags]] = []
    shown: list[tuple[Principal, SeriesTags]] = []
    #: Dollars of the day so far by attributes, of principals that came with several.
    usd: list[tuple[Principal, SeriesTags, float]] = []


class Homes:
    """Names the series of every partial sum, for scopes that are `identified_by` a tag.

    The tags before that one are attributes. Sums go to the series of the attributes that the principal was first seen
    with, so its history stays whole; what is shown to people (and matched by policies) is what most of its dollars of
    the last day carried, with all attributes if there are such. A principal without a name is its attributes.
    """

    def __init__(self, scopes: Iterable[Scope], registry: SeriesRegistry) -> None:
        self._registry = registry
        self._scopes = {scope.name: scope for scope in scopes if scope.attributes}
        #: One scope for each tag that names principals: where its dollars are weighed.
        self._weighed = {scope.identified_by: scope.name for scope in reversed(self._scopes.values())}
        self._first: dict[Principal, SeriesTags] = {}
        self._shown: dict[Principal, SeriesTags] = {}
        self._usd: dict[Principal, dict[SeriesTags, float]] = {}
        #: Whether what is shown changed since the registry was given it.
        self._changed = False
        #: Scope and raw tags as they come → raw tags of the series; and of what is weighed, whose it is.
        self._raw: dict[tuple[str, bytes], bytes] = {}
        self._of: dict[tuple[str, bytes], tuple[Principal, SeriesTags]] = {}

    def place(self, parts: Sequence[PartialSum]) -> None:
        """Give each part the tags of its series."""
        for part in parts:
            if part.scope not in self._scopes:
                continue
            key = (part.scope, bytes(part.tags))
            home = self._raw.get(key) or self._find(key)
            if key in self._of:
                principal, attributes = self._of[key]
                if principal in self._usd:
                    by = self._usd[principal]
                    by[attributes] = by.get(attributes, 0.0) + part.effective_cost
            if home != key[1]:
                part.tags = msgspec.Raw(home)
        if self._changed:
            self._show()

    def raw(self, scope: str, raw_tags: bytes) -> bytes:
        """The raw tags of the series that tags of a scope belong to."""
        if scope not in self._scopes:
            return raw_tags
        key = (scope, raw_tags)
        return self._raw.get(key) or self._find(key)

    def _find(self, key: tuple[str, bytes]) -> bytes:
        scope, tags = self._scopes[key[0]], _tags_decoder.decode(key[1])
        own, principal = _split(scope, tags)
        if principal[1] in (UNTAGGED, OTHER):
            self._raw[key] = key[1]
            return key[1]
        first = self._first.setdefault(principal, own)
        if first != own:
            self._usd.setdefault(principal, {})
            if _missing(own) < _missing(self._shown.get(principal, first)):
                self._shown[principal], self._changed = own, True
        if self._weighed[scope.identified_by] == scope.name:
            self._of[key] = (principal, own)
        home = self._raw[key] = msgspec.json.encode(tags | dict(first))
        return home

    def shown(self, scope: str, tags: dict[str, str]) -> dict[str, str]:
        """The tags of a series as people see them."""
        if scope not in self._scopes or not self._shown:
            return tags
        return tags | dict(self._shown.get(_split(self._scopes[scope], tags)[1], ()))

    def begin_day(self) -> None:
        """A day is over: show each principal with the attributes of most of its dollars."""
        for principal, by in self._usd.items():
            now = self._shown.get(principal, self._first[principal])
            best = min([now, *by], key=lambda each: (_missing(each), -by.get(each, 0.0), each != now, each))
            if best != now:
                self._shown[principal], self._changed = best, True
            by.clear()
        if self._changed:
            self._show()

    def _show(self) -> None:
        self._registry.show_as(self.shown)
        self._changed = False

    def dump(self) -> HomesDump:
        """The state, exactly."""
        usd = [(principal, own, dollars) for principal, by in self._usd.items() for own, dollars in by.items()]
        varied = [(principal, (), 0.0) for principal, by in self._usd.items() if not by]
        return HomesDump(list(self._first.items()), list(self._shown.items()), [*usd, *varied])

    def load(self, dump: HomesDump | None, waiting: Iterable[Sequence[PartialSum]]) -> None:
        """Go on where `dump` was made, with the registry of that time.

        A state from before has none, and parts that wait: then each principal is at home in the oldest of its series.
        """
        if dump is None:
            for scope, raw in map(self._registry.key, range(len(self._registry))):
                self.raw(scope, bytes(raw))
            for parts in waiting:
                self.place(parts)
            return
        self._first, self._shown = dict(dump.first), dict(dump.shown)
        for principal, own, dollars in dump.usd:
            by = self._usd.setdefault(principal, {})
            if own:
                by[own] = dollars
        if self._shown:
            self._show()


def _split(scope: Scope, tags: dict[str, str]) -> tuple[SeriesTags, Principal]:
    own = tuple((tag, tags[tag]) for tag in scope.group_by[: scope.attributes])
    return own, (scope.identified_by, tags[scope.identified_by])


def _missing(attributes: SeriesTags) -> int:
    return sum(value == UNTAGGED for _, value in attributes)
