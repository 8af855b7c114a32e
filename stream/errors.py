"""The two errors an outside call can end in, and the one place where an HTTP status becomes one of them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


class TransientError(Exception):
    """Trying again later may work; the room's runner decides when.

    `retry_after` is what the other side asked for, in seconds from now, or None.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(Exception):
    """Trying again with the same request cannot work; the message says what to change."""


def place_of(error: BaseException) -> str:
    """Where an unforeseen error came from, `file:line in function`: the innermost place in Curb, if there is one.

    The text of such an error may quote content, so it is not logged; its place is enough to find the defect.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "nowhere"
    own = [frame for frame in frames if "/site-packages/" not in frame.filename and "curb" in frame.filename]
    frame = (own or frames)[-1]
    return f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} in {frame.name}"


#: Statuses that say "later", beside every 5xx: request timeout, conflict of writers, too early, too many requests.
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})


def error_for_status(
    status: int, headers: Mapping[str, str], detail: str, *, now: float, said: str = ""
) -> TransientError | PermanentError | None:
    """The error an HTTP answer stands for, or None for 2xx and 3xx.

    `detail` is shown to people: the caller passes method, host and path, never a query string, header or body with
    a secret. `said` is the server's own reason, without secrets. `now` (epoch seconds) is needed because Retry-After
    may be a date (RFC 9110, 10.2.3).
    """
    if status < 400:
        return None
    message = f"{detail}: HTTP {status}" + (f": {said}" if said else "")
    if status in _TRANSIENT_STATUSES or status >= 500:
        return TransientError(message, retry_after=_retry_after(headers, now))
    return PermanentError(message)


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError):
        return None
