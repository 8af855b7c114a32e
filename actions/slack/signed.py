"""Signed requests of Slack: forged, stale and replayed ones are refused."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from pydantic import SecretStr
from slack_sdk.signature import Clock as SlackClock
from slack_sdk.signature import SignatureVerifier

from curb.stream.clock import Clock

#: Seconds of age after which a request is refused. By definition of Slack.
_WINDOW_S = 300.0
#: Signatures remembered against replays. By hand: more than people press in five minutes.
_MOST_KEPT = 10_000


class Signatures:
    """Which requests count. Keeps the signatures of the last five minutes, so that none counts twice here.

    Another replica, or this one after a restart, may take a replayed request; the records it makes have the ids of the
    first, so that nothing is carried out twice.
    """

    def __init__(self, secret: SecretStr, clock: Clock) -> None:
        self._clock = clock
        self._verifier = SignatureVerifier(secret.get_secret_value(), _Now(clock))
        self._taken: OrderedDict[bytes, float] = OrderedDict()

    def refusal(self, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Why a request does not count: "forged", "stale" or "replayed"; None when it does."""
        given = {name.lower(): value for name, value in headers.items()}
        try:
            sent_at = float(int(given.get("x-slack-request-timestamp", "")))
            if abs(self._clock.now() - sent_at) > _WINDOW_S:
                return "stale"
            if not self._verifier.is_valid_request(body, given):
                return "forged"
        except (ValueError, TypeError):  # no number, not UTF-8, a signature that is not ASCII
            return "forged"
        return "replayed" if _mark(given) in self._taken else None

    def taken(self, headers: Mapping[str, str]) -> None:
        """The request was carried out: the same one is refused from now on."""
        now = self._clock.now()
        self._taken[_mark({name.lower(): value for name, value in headers.items()})] = now
        while self._taken and (len(self._taken) > _MOST_KEPT or next(iter(self._taken.values())) < now - 2 * _WINDOW_S):
            self._taken.popitem(last=False)


def _mark(headers: Mapping[str, str]) -> bytes:
    words = f"{headers.get('x-slack-request-timestamp', '')}/{headers.get('x-slack-signature', '')}"
    return hashlib.sha256(words.encode("utf-8", "surrogateescape")).digest()


class _Now(SlackClock):
    """Curb's clock, as slack-sdk asks for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()
