"""Who may do what at the HTTP port: tokens with roles, and names under which it may be called without one.

A browser on this machine sends to 127.0.0.1 what any page asks it to. So whoever has no token must call the port by a
name that is its own: a page of evil.example that made its name an address of this machine is refused.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from curb.config.file import HttpSettings, Role
from curb.serve.limits import BURST_S, Guesses, RateLimits, client_of
from curb.serve.pages.paths import is_open, is_page
from curb.serve.pages.sessions import COOKIE, Session, Sessions, by_https, give_cookie
from curb.serve.pages.sign_in import asks_to_sign_in
from curb.serve.proxied import AuthProxy, ProxiedPerson
from curb.stream import metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: The name of a request's token, and what it may do.
Caller = Callable[[web.Request], tuple[str, frozenset[str]]]
#: What a role includes beside itself.
_INCLUDES: dict[Role, tuple[Role, ...]] = {
    "admin": ("read", "propose", "approve", "operate"),
    "operate": ("read", "propose", "approve"),
    "approve": ("read", "propose"),
    "propose": ("read",),
    "read": (),
    "ingest": (),
}
_READS = frozenset({"GET", "HEAD"})
#: The inbox has tokens of its own, and what Slack sends is signed.
_INBOX, _SLACK = "/v1/ingest/", "/v1/slack/"

#: The name of `http.token`, which has none of its own.
_UNNAMED = "operator"
#: What a token for less than all may write. Handlers look at what is in it.
_WRITES: dict[str, Role] = {"/v1/proposals": "propose", "/v1/commands": "approve", "/press": "approve"}
#: Below this path is more money, which stays until it is spent.
_MONEY = "/v1/budget-increases"


class Access:
    """Checks every request before its handler, and before its body is read."""

    def __init__(
        self, settings: HttpSettings, sessions: Sessions | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`now` gives monotonic seconds."""
        self._sessions = sessions
        self._proxy = AuthProxy(settings.auth_proxy) if settings.auth_proxy is not None else None
        self._guesses = Guesses(now)
        self._rate = RateLimits(settings.requests_per_s * BURST_S, settings.requests_per_s, now)
        per_s = settings.inbox_requests_per_s
        self._inbox_rate = RateLimits(per_s * BURST_S, per_s, now) if per_s is not None else None
        self._tokens: list[tuple[bytes, str, frozenset[str]]] = []
        if settings.token:
            self._add(_UNNAMED, settings.token.get_secret_value(), ["admin"])
        for each in settings.tokens:
            self._add(each.name, each.token.get_secret_value(), each.roles)
        #: Without a token that may read, whoever is on this machine may read.
        self._trusts_loopback = self._proxy is None and not any("read" in roles for _, _, roles in self._tokens)
        self._open = frozenset(f"/{name}" for name in settings.open_paths)
        self._names = frozenset({"localhost", settings.host.lower()})
        self._allowed_names = tuple(name.lower() for name in settings.allowed_hosts)
        self._checks_names = bool(self._allowed_names) or _is_local(settings.host)

    def _add(self, name: str, token: str, roles: Iterable[Role]) -> None:
        self._tokens.append((token.encode(), name, frozenset(roles).union(*(_INCLUDES[role] for role in roles))))

    @property
    def has_readers(self) -> bool:
        """Whether there is a token to sign in with."""
        return not self._trusts_loopback

    def known(self, token: str) -> tuple[str, frozenset[str]]:
        """The name of a token and what it may do; nothing for an unknown one."""
        name, found = "", frozenset[str]()
        for known, of, roles in self._tokens:
            if hmac.compare_digest(token.encode("utf-8", "surrogateescape"), known):
                name, found = name or of, found | roles
        if token and not found:
            metrics.HTTP_WRONG_TOKENS.inc()
        return name, found

    def caller(self, request: web.Request) -> tuple[str, frozenset[str]]:
        """The name of the token of a request that was let through, and what it may do; "" for none."""
        return self._token(request)

    def may_try(self, request: web.Request, token: str) -> float:
        """Seconds until this client may try this token; 0 where it may now."""
        return self._guesses.wait_s(client_of(request.remote), token) if token else 0.0

    def tried(self, request: web.Request, token: str, right: bool) -> None:
        """It was checked."""
        if token:
            self._guesses.found(client_of(request.remote), token, right)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """401 without a token for it, 403 from another site or with a token for less, 421 under a foreign name, 429 for
        too many requests or tokens.
        """
        if request.path.startswith(_SLACK):
            return await handler(request)
        given = request.headers.get(hdrs.AUTHORIZATION, "")
        if wait_s := self.may_try(request, given):
            return _later("too many different tokens were tried from this address", wait_s)
        if request.path.startswith(_INBOX):
            return await self._check_inbox(request, handler, given)
        return await self._check(request, handler)

    async def _check_inbox(self, request: web.Request, handler: Handler, given: str) -> web.StreamResponse:
        """The inbox says by its answer whether the token was right."""
        if self._inbox_rate is not None and (wait_s := self._inbox_rate.take((request.path, given))):
            return _later("too many requests with this token", wait_s)
        answer = await handler(request)
        if answer.status != 404:  # no such connector: the token was not looked at
            self.tried(request, given, answer.status != 401)
        return answer

    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if is_open(path):
            # A form of another site must not sign anybody in or out.
            if request.method not in _READS and self._from_another_site(request):
                return _problem(403, "refused: another site asks for it")
            return await handler(request)
        if self._sessions is not None and is_page(path) and (person := self._person(request)) is not None:
            return await self._for_person(person, self._sessions, request, handler)
        session = self._session(request)
        roles = self._token(request)[1] if session is None else session.roles
        sender = request.headers.get(hdrs.AUTHORIZATION) if roles and session is None else client_of(request.remote)
        if path != "/healthz" and (wait_s := self._rate.take(sender)):
            return _later("too many requests", wait_s)
        if path in self._open:
            # What probes and Prometheus call it is theirs to say, unless it is only for this machine.
            if path != "/healthz" and "read" not in roles and self._checks_names and not self._is_own_name(request):
                return _foreign_name()
            return await handler(request)
        needed = _needed(request)
        if needed in roles:
            return await handler(request)
        if roles:
            return _problem(403, f"this token may not {needed}")
        if not (self._trusts_loopback and needed == "read" and _is_loopback(request.remote)):
            return self._asks_for_token(request)
        if not self._is_own_name(request):
            return _foreign_name()
        if self._from_another_site(request):
            return _problem(403, "refused: another site asks for it")
        return await handler(request)

    def _person(self, request: web.Request) -> ProxiedPerson | None:
        """Whom the proxy has signed in, if there is one."""
        return self._proxy.person(request) if self._proxy is not None else None

    async def _for_person(
        self, person: ProxiedPerson, sessions: Sessions, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """A page for somebody whom the proxy has signed in. The cookie is what binds forms to the person."""
        if self._from_another_site(request):
            return _problem(403, "refused: another site asks for it")
        roles = person.roles.union(*(_INCLUDES[role] for role in person.roles))
        needed = _needed(request)
        if needed not in roles:
            return _problem(403, f"no group of {person.by} may {needed}; see http.auth_proxy.groups")
        known = sessions.of(request)
        if known is not None and (known.by, known.roles, known.groups) == (person.by, roles, person.groups):
            return await handler(request)
        key = sessions.open_once(person.by, roles, person.groups)
        headers = request.headers.copy()
        headers[hdrs.COOKIE] = f"{COOKIE}={key}"
        answer = await handler(request.clone(headers=headers))
        give_cookie(answer, key, secure=by_https(request))
        return answer

    def _session(self, request: web.Request) -> Session | None:
        """The session of a page's request that no other site makes."""
        if self._sessions is None or not is_page(request.path) or self._from_another_site(request):
            return None
        return self._sessions.of(request)

    def _token(self, request: web.Request) -> tuple[str, frozenset[str]]:
        """Whose the request's token is, and what it may do."""
        given = request.headers.get(hdrs.AUTHORIZATION, "")
        if is_page(request.path):
            # A browser sends a password by itself, also where another site asks for it: pages are read with it.
            if request.method not in _READS or self._from_another_site(request):
                return "", frozenset()
            if given.startswith("Basic "):
                return self._known(request, given, _password(given))
        scheme, _, token = given.partition(" ")
        return self._known(request, given, token) if scheme == "Bearer" else ("", frozenset())

    def _known(self, request: web.Request, given: str, token: str) -> tuple[str, frozenset[str]]:
        found = self.known(token)
        self.tried(request, given, bool(found[1]))
        return found

    def _asks_for_token(self, request: web.Request) -> web.Response:
        if is_page(request.path) and self.has_readers:
            return asks_to_sign_in(request)
        return web.json_response({"error": "missing or wrong bearer token"}, status=401)

    def _is_own_name(self, request: web.Request) -> bool:
        host = request.headers.get(hdrs.HOST, "")
        return not host or self._is_own(host)

    def _is_own(self, host: str) -> bool:
        name = _name_in(host)
        if name is None:
            return False
        # A page can make its own name an address of this machine, but not an address.
        return name in self._names or name.endswith(".localhost") or _is_address(name) or self._is_allowed(name)

    def _is_allowed(self, name: str | None) -> bool:
        return name is not None and any(fnmatchcase(name, allowed) for allowed in self._allowed_names)

    def _from_another_site(self, request: web.Request) -> bool:
        """Whether a browser says that a page of another site asks; a link that is followed does not count."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None:
            place = _place_in(origin)
            if place != request.headers.get(hdrs.HOST) and not self._is_allowed(_name_in(place)):
                return True
        site, mode = request.headers.get("Sec-Fetch-Site"), request.headers.get("Sec-Fetch-Mode")
        return site == "cross-site" and mode != "navigate"


def _needed(request: web.Request) -> Role:
    """The least role for a request; handlers look at what is in it."""
    if request.method in _READS:
        return "read"
    path = request.path
    return "admin" if path == _MONEY or path.startswith(f"{_MONEY}/") else _WRITES.get(path, "operate")


def _foreign_name() -> web.Response:
    return _problem(421, "this is not a name of this server; http.allowed_hosts adds one")


def _later(error: str, wait_s: float) -> web.Response:
    answer = _problem(429, f"{error}; send again later")
    answer.headers[hdrs.RETRY_AFTER] = str(math.ceil(wait_s))
    return answer


def _problem(status: int, error: str) -> web.Response:
    return web.json_response({"error": error}, status=status)


def _name_in(host: str) -> str | None:
    """The name or address in `name:port`, small; None where there is none."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _place_in(origin: str) -> str:
    """The `name:port` of an origin, "" where it is none: that is nobody's."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _password(authorization: str) -> str:
    """The password of HTTP's basic authentication, or ""."""
    try:
        login = base64.b64decode(authorization.removeprefix("Basic "), validate=True).decode()
    except ValueError:
        return ""
    return login.partition(":")[2]


def _is_local(host: str) -> bool:
    return host == "localhost" or _is_loopback(host)


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True
