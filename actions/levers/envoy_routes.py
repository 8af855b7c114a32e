"""Where in Envoy's route configuration a subject's limit stands: read, put in, and taken out byte for byte."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from curb.actions.levers import yaml_text
from curb.actions.levers.yaml_text import Node
from curb.stream.errors import PermanentError

#: Seconds; Envoy fills a bucket no more often. By definition of Envoy, 50 ms.
_LEAST_FILL_S = 0.05
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


class DescriptorPlace(NamedTuple):
    """Which list of descriptors is meant, and how a subject is named there."""

    virtual_host: str
    #: Name of a route that has its own filter configuration; empty for that of the virtual host.
    route: str
    #: Name of the local rate limit filter in `typed_per_filter_config`.
    filter: str
    #: Key of the descriptor entry that holds the subject, and the header it is taken from.
    descriptor_key: str
    header: str


class Bucket(NamedTuple):
    """A token bucket of Envoy."""

    max_tokens: int
    tokens_per_fill: int
    fill_s: float

    @property
    def requests_per_minute(self) -> float:
        return 60.0 * self.tokens_per_fill / self.fill_s


def bucket_for(requests_per_minute: int, burst_s: float) -> Bucket:
    """Lets that many pass a minute, rounded down, evenly but for a burst worth `burst_s` seconds."""
    fill = max(1, math.ceil(requests_per_minute * _LEAST_FILL_S / 60.0))
    fill_ms = math.ceil(60_000.0 * fill / requests_per_minute)
    return Bucket(max(fill, math.ceil(requests_per_minute * burst_s / 60.0)), fill, fill_ms / 1000.0)


def written(bucket: Bucket) -> str:
    """The bucket as Curb writes it: JSON, which YAML is too."""
    fill = f"{bucket.fill_s:g}s"
    return json.dumps(
        {"max_tokens": bucket.max_tokens, "tokens_per_fill": bucket.tokens_per_fill, "fill_interval": fill}
    )


class Routes:
    """A file of route configurations. PermanentError when the place is not in it, or not clear."""

    def __init__(self, text: str, place: DescriptorPlace) -> None:
        self.text, self._place = text, place
        hosts = [
            host
            for resource in yaml_text.items(yaml_text.child(yaml_text.nodes(text), "resources"))
            for host in yaml_text.items(yaml_text.child(resource, "virtual_hosts"))
            if yaml_text.scalar(yaml_text.child(host, "name")) == place.virtual_host
        ]
        host = _only(hosts, f"virtual host {place.virtual_host!r}")
        routes = yaml_text.sequence(yaml_text.child(host, "routes"))
        if routes is None:
            raise PermanentError(f"virtual host {place.virtual_host!r} has no list of routes")
        self._routes = routes
        holder = host
        if place.route:
            named = [r for r in routes.value if yaml_text.scalar(yaml_text.child(r, "name")) == place.route]
            holder = _only(named, f"route {place.route!r}")
        own = yaml_text.child(yaml_text.child(holder, "typed_per_filter_config"), place.filter)
        descriptors = yaml_text.sequence(yaml_text.child(own, "descriptors"))
        if descriptors is None:
            where = f"typed_per_filter_config of {place.filter} in {place.route or place.virtual_host!r}"
            raise PermanentError(f"{where} has no list `descriptors`; an empty one, [], will do")
        self._descriptors = descriptors
        #: How many descriptors there are, and the prefix of the counters of what they refuse.
        self.descriptors = len(descriptors.value)
        self.stat_prefix = yaml_text.scalar(yaml_text.child(own, "stat_prefix")) or ""

    def bucket(self, subject: str | None) -> str | None:
        """Source of the bucket of a subject, or of the descriptor that stands for all subjects (None)."""
        descriptor = self._descriptor(subject)
        return None if descriptor is None else yaml_text.source(self.text, _bucket_of(descriptor))

    def limit(self, subject: str | None) -> Bucket | None:
        """The same as figures."""
        descriptor = self._descriptor(subject)
        return None if descriptor is None else _bucket(yaml_text.data(_bucket_of(descriptor)))

    def block(self, subject: str) -> int | None:
        """What status the route answers that turns all requests of a subject away; None without such a route."""
        route = self._block(subject)
        return None if route is None else _status(route)

    def with_bucket(self, subject: str, bucket: str | None) -> str:
        """The text with that source as the subject's bucket; None takes its descriptor out."""
        descriptor = self._descriptor(subject)
        if descriptor is None:
            if bucket is None:
                return self.text
            entry = json.dumps({"key": self._place.descriptor_key, "value": subject})
            item = f'{{"entries": [{entry}], "token_bucket": {bucket}}}'
            return yaml_text.with_first(self.text, self._descriptors, item)
        if bucket is None:
            return yaml_text.without(self.text, self._descriptors, descriptor)
        return yaml_text.replaced(self.text, _bucket_of(descriptor), bucket)

    def with_block(self, subject: str, status: int | None) -> str:
        """The text with a first route that answers that status to the subject; None takes it out."""
        found = self._block(subject)
        if found is not None:
            return self.text if status is not None else yaml_text.without(self.text, self._routes, found)
        if status is None:
            return self.text
        route = {"match": _match(self._place, subject), "direct_response": {"status": status}}
        return yaml_text.with_first(self.text, self._routes, json.dumps(route))

    def _descriptor(self, subject: str | None) -> Node | None:
        found = [item for item in self._descriptors.value if self._is_of(item, subject)]
        if len(found) > 1:
            raise PermanentError(f"{len(found)} descriptors of the same {self._place.descriptor_key}")
        return found[0] if found else None

    def _is_of(self, descriptor: Node, subject: str | None) -> bool:
        entries = yaml_text.items(yaml_text.child(descriptor, "entries"))
        if len(entries) != 1 or yaml_text.scalar(yaml_text.child(entries[0], "key")) != self._place.descriptor_key:
            return False
        return (yaml_text.scalar(yaml_text.child(entries[0], "value")) or None) == subject

    def _block(self, subject: str) -> Node | None:
        wanted = _match(self._place, subject)
        found: list[Node] = [route for route in self._routes.value if _status(route) is not None]
        matches = [(yaml_text.child(route, "match"), route) for route in found]
        return next((route for match, route in matches if match is not None and yaml_text.data(match) == wanted), None)


def _match(place: DescriptorPlace, subject: str) -> dict[str, Any]:
    """All requests of a subject."""
    return {"prefix": "/", "headers": [{"name": place.header, "string_match": {"exact": subject}}]}


def _status(route: Node) -> int | None:
    status = yaml_text.scalar(yaml_text.child(yaml_text.child(route, "direct_response"), "status"))
    return int(status) if status is not None and status.isdecimal() else None


class Held(NamedTuple):
    """What Envoy itself says it holds for a subject."""

    bucket: Bucket | None
    #: Status of the route that turns the subject away.
    block: int | None


def held(dump: dict[str, Any], place: DescriptorPlace, subject: str) -> Held | None:
    """What stands in an answer of Envoy's /config_dump; None when it does not hold the place."""
    configs = dump.get("configs") or ()
    hosts = [
        host
        for config in configs
        for host in (config.get("route_config") or {}).get("virtual_hosts") or ()
        if host.get("name") == place.virtual_host
    ]
    holders = [route for host in hosts for route in host.get("routes") or () if route.get("name") == place.route]
    found = holders if place.route else hosts
    own = (found[0].get("typed_per_filter_config") or {}).get(place.filter) if found else None
    if own is None:
        return None
    entries = [{"key": place.descriptor_key, "value": subject}]
    buckets = [each.get("token_bucket") for each in own.get("descriptors") or () if each.get("entries") == entries]
    match = _match(place, subject)
    routes = [route for route in hosts[0].get("routes") or () if route.get("match") == match]
    blocks = [route["direct_response"].get("status") for route in routes if "direct_response" in route]
    return Held(_bucket(buckets[0]) if buckets else None, blocks[0] if blocks else None)


def _bucket_of(descriptor: Node) -> Node:
    bucket = yaml_text.child(descriptor, "token_bucket")
    if bucket is None:
        raise PermanentError("a descriptor has no token_bucket")
    return bucket


def _bucket(data: Any) -> Bucket:
    """Without `tokens_per_fill` it is 1."""
    if isinstance(data, dict):
        fill = _SECONDS.fullmatch(str(data.get("fill_interval", data.get("fillInterval", ""))))
        most = data.get("max_tokens", data.get("maxTokens", 0))
        each = data.get("tokens_per_fill", data.get("tokensPerFill", 1))
        if fill and isinstance(most, int) and isinstance(each, int) and float(fill[1]) > 0:
            return Bucket(most, each, float(fill[1]))
    raise PermanentError(f"no token bucket: {str(data)[:80]}")


def _only(found: list[Node], what: str) -> Node:
    if len(found) != 1:
        raise PermanentError(f"the file has {len(found) or 'no'} {what}; there must be one")
    return found[0]
