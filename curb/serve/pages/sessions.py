"""Who is signed in at the dashboard: a token that was given once, and a cookie that stands for it until it expires.

In memory: a restart signs everybody out. The cookie counts for pages only, never for the API.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

from curb.stream.clock import Clock

COOKIE = "curb_session"
#: Seconds until a sign-in ends. By hand: a shift of on-call.
_LASTS_S = 12 * 3600.0
#: People signed in at one time; the first to come is signed out for another. By hand: far more than operate one Curb.
_MOST = 1000
#: Characters of a name. By hand: a line of a ledger.
LONGEST_NAME = 64


@dataclass
class Session:
    """One browser of a person who gave a token."""

    #: The name of the token, with that of the person: "on-call (Ana)".
    by: str
    roles: frozenset[str]
    ends_at: float
    #: Of a person whom a proxy has signed in.
    groups: tuple[str, ...] = ()
    #: Every form carries it: a page of another site does not know it.
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    #: What the next page says once.
    notice: str = ""

    def is_form_of(self, form_token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(form_token.encode(), self.form_token.encode())


class Sessions:
    """The sessions of one daemon."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def open(self, by: str, roles: frozenset[str], groups: tuple[str, ...] = ()) -> str:
        """Sign somebody in; what the cookie holds."""
        now = self._clock.now()
        for key in [key for key, session in self._sessions.items() if session.ends_at <= now]:
            del self._sessions[key]
        while len(self._sessions) >= _MOST:
            del self._sessions[self._first_for(roles)]
        key = secrets.token_urlsafe(32)
        self._sessions[key] = Session(by, roles, now + _LASTS_S, groups)
        return key

    def _first_for(self, roles: frozenset[str]) -> str:
        """The first to come of those who may no more than the newcomer; where all may more, the first of all."""
        may_no_more = (key for key, session in self._sessions.items() if session.roles <= roles)
        return next(may_no_more, next(iter(self._sessions)))

    def of(self, request: web.Request) -> Session | None:
        """Who sends a request, if they are signed in."""
        session = self._sessions.get(request.cookies.get(COOKIE, ""))
        return session if session is not None and session.ends_at > self._clock.now() else None

    def open_once(self, by: str, roles: frozenset[str], groups: tuple[str, ...]) -> str:
        """Sign in a person whom a proxy knows; what the cookie holds.

        A person has one session: a link on another site brings no cookie, and the forms that are open stay good.
        """
        now, wanted = self._clock.now(), (by, roles, groups)
        there = (k for k, s in self._sessions.items() if (s.by, s.roles, s.groups) == wanted and s.ends_at > now)
        return next(there, "") or self.open(by, roles, groups)

    def close(self, request: web.Request) -> None:
        """Sign out whoever sends it."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)


def by_https(request: web.Request) -> bool:
    """Whether the browser speaks TLS, with a proxy or with this server."""
    origin = urlsplit(request.headers.get("Origin", ""))
    return request.secure or origin.scheme == "https" or request.headers.get("X-Forwarded-Proto") == "https"


def give_cookie(response: web.StreamResponse, key: str, *, secure: bool) -> None:
    """Scripts cannot read it, and no other site can make a browser send it; `secure` keeps it off plain HTTP."""
    response.set_cookie(
        COOKIE, key, max_age=int(_LASTS_S), path="/", httponly=True, samesite="Strict", secure=secure or None
    )
