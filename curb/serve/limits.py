"""How many requests of a client are answered, and how many tokens it may try."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable

logger = logging.getLogger(__name__)
#: Clients, and tokens of clients, that are remembered; the longest unused are forgotten. By hand: a few MiB.
_MOST = 10_000
#: Different wrong tokens that a client may try at once, and seconds for one more. By hand: a person with a list of old
#: tokens stays below it, and a year of guesses is three million.
_GUESSES, _SECONDS_A_GUESS = 20, 10.0
#: Addresses of IPv6 that one client has: a /64 is what a provider gives to one.
_IPV6_CLIENT = 64
#: A request per second is answered so many times over at once, after rest: a page with its parts, or a scrape after a
#: stop.
BURST_S = 10.0


def client_of(remote: str | None) -> str:
    """Who is counted as one client: an address, or with IPv6 its network."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return ""
    if address.version == 6 and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, _IPV6_CLIENT), strict=False))


class RateLimits:
    """For each key a bucket of tokens that holds `burst` and gets `per_s` a second. `now` gives monotonic seconds."""

    def __init__(self, burst: float, per_s: float, now: Callable[[], float]) -> None:
        self._burst, self._per_s, self._now = burst, per_s, now
        #: Key → what was in its bucket, and when. Full ones need not be kept.
        self._held: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: object) -> float:
        """Seconds until one may be taken; 0 where it may now."""
        return max(0.0, (1.0 - self._held_by(key)) / self._per_s)

    def take(self, key: object) -> float:
        """Take one, and 0; or how many seconds are left until that may be."""
        held = self._held_by(key)
        if held < 1.0:
            return (1.0 - held) / self._per_s
        self._held[key] = (held - 1.0, self._now())
        self._held.move_to_end(key)
        if len(self._held) > _MOST:
            self._held.popitem(last=False)
        return 0.0

    def _held_by(self, key: object) -> float:
        held, at = self._held.get(key, (self._burst, 0.0))
        return min(self._burst, held + (self._now() - at) * self._per_s)


class Guesses:
    """Slows down who tries tokens, and nobody else behind the same address: what counts are different wrong ones.

    A client that sends the same wrong token for ever is no guesser, and one whose token was right goes on with it.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._tries = RateLimits(_GUESSES, 1 / _SECONDS_A_GUESS, now)
        #: Client and a hash of what it sent → whether that was right.
        self._seen: OrderedDict[tuple[str, bytes], bool] = OrderedDict()
        # So that no token can be found from its hash.
        self._salt = secrets.token_bytes(16)

    def wait_s(self, client: str, sent: str) -> float:
        """Seconds until this may be checked; 0 where it may now."""
        return 0.0 if (client, self._hash(sent)) in self._seen else self._tries.wait_s(client)

    def found(self, client: str, sent: str, right: bool) -> None:
        """It was checked."""
        key = client, self._hash(sent)
        if not right and key not in self._seen and not self._tries.take(client) and self._tries.wait_s(client):
            extra = {"client": client, "tries": _GUESSES}
            logger.warning("a client tries many tokens; more are answered 429 for some time", extra=extra)
        self._seen[key] = right
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST:
            self._seen.popitem(last=False)

    def _hash(self, sent: str) -> bytes:
        return hashlib.blake2b(sent.encode("utf-8", "surrogateescape"), key=self._salt, digest_size=16).digest()
