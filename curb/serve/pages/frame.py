"""What all pages of the dashboard share: templates, headers, style and script, and the frame around the content.

Plain HTML that works without scripts. Jinja escapes every value, so a tag is never markup; the policy header forbids
inline scripts and styles, and everything from elsewhere.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

from aiohttp import hdrs, web
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from curb.actions.notify import wording
from curb.detector.state.wording import duration
from curb.format import printable, tags_text
from curb.serve.pages.paths import is_page
from curb.serve.pages.sessions import Session, Sessions
from curb.serve.running import Running
from curb.stream.money import chance, usd
from curb.stream.records.spend import Alert, LedgerEntry
from curb.stream.time import iso

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Without a referrer a browser does not say either where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {"page.css": "text/css", "page.js": "text/javascript", "page.svg": "image/svg+xml"}
#: Seconds that a browser keeps style and script; their address changes with their content.
_KEEP_S = 86400
#: Rows of a page. By hand: a few screens of a phone.
ROWS = 50


#: The name of a request's token, and what it may do.
Caller = Callable[[web.Request], tuple[str, frozenset[str]]]


class MenuEntry(NamedTuple):
    """An entry of the menu."""

    path: str
    name: str


MENU = (
    MenuEntry("/", "Now"),
    MenuEntry("/exposure", "Exposure"),
    MenuEntry("/models", "Models"),
    MenuEntry("/series", "Series"),
    MenuEntry("/alerts", "Alerts"),
    MenuEntry("/actions", "Actions"),
    MenuEntry("/config", "Config"),
)


class Pages:
    """Renders pages of one daemon for whoever looks."""

    def __init__(self, daemon: Running, sessions: Sessions, caller: Caller) -> None:
        self.daemon, self.sessions, self._caller = daemon, sessions, caller

    def session(self, request: web.Request) -> Session | None:
        """Who looks, if signed in."""
        return self.sessions.of(request)

    @property
    def has_tokens(self) -> bool:
        """Whether there is a token to sign in with."""
        return bool(self.daemon.config.http.token or self.daemon.config.http.tokens)

    def is_admin(self, request: web.Request) -> bool:
        """Whether whoever looks may see paths: an admin, or where nobody signs in, whoever is on this machine."""
        session, http = self.session(request), self.daemon.config.http
        roles = self._caller(request)[1] if session is None else session.roles
        return "admin" in roles or not (self.has_tokens or http.auth_proxy)

    def render(self, request: web.Request, name: str, *, code: int = 200, **values: Any) -> web.Response:
        """The page `name` with the frame around it; a notice for whoever looks is shown once."""
        session = self.session(request)
        notice = ""
        if session is not None and code == 200:
            notice, session.notice = session.notice, ""
        return html(
            name,
            code=code,
            menu=MENU,
            here=request.path,
            next=request.path_qs,
            session=session,
            may_approve=session is not None and "approve" in session.roles,
            may_operate=session is not None and "operate" in session.roles,
            may_admin=session is not None and "admin" in session.roles,
            has_tokens=self.has_tokens,
            notice=notice,
            once=secrets.token_urlsafe(9),
            **values,
        )


def html(name: str, *, code: int = 200, **values: Any) -> web.Response:
    """A template as an answer."""
    text = TEMPLATES.get_template(name).render(**values)
    return web.Response(text=text, status=code, content_type="text/html", headers=HEADERS)


def see_other(path: str) -> web.Response:
    """To another page, after a form was taken."""
    return web.Response(status=303, headers=HEADERS | {hdrs.LOCATION: path})


def add_static_routes(app: web.Application) -> None:
    """Add `GET /page.css`, `/page.js` and `/page.svg`."""
    for name, kind in _STATIC.items():
        app.router.add_get(f"/{name}", _static(name, kind))


def _static(name: str, kind: str) -> Any:
    body = _read(name)

    async def answer(request: web.Request) -> web.Response:
        headers = HEADERS | {hdrs.CACHE_CONTROL: f"public, max-age={_KEEP_S}"}
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    return answer


def _read(name: str) -> bytes:
    return (files("curb.serve.pages") / "static" / name).read_bytes()


def local_path(given: str) -> str:
    """`given` where it is the path of a page to look at, else "/": nobody is sent to another site."""
    is_plain = given.isprintable() and "\\" not in given and not given.startswith("//") and len(given) <= 2000
    path = given.partition("?")[0]
    return given if is_plain and is_page(path) and not path.startswith("/press") else "/"


def usd_or_dash(value: float | None) -> str:
    """Dollars, or a dash where they are not known."""
    return "–" if value is None else usd(value)


def when(at: float | None) -> str:
    """A time for people, in UTC; a dash for none."""
    return "–" if at is None else iso(at).replace("T", " ").replace("Z", " UTC")


def seen(entry: LedgerEntry) -> str:
    """The state of an action that a button is about: the same press on another state is another request."""
    return f"{entry.state}@{entry.at:.3f}"


def percent(part: float) -> str:
    """A share between 0 and 100 %."""
    return f"{100 * min(1.0, max(0.0, part)):.1f}%"


def _visible(value: Any) -> Any:
    """Text without control and formatting characters: none can turn around what a person reads."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


def _since(alert: Alert) -> Markup | str:
    """When an alert began; of a bill its day."""
    began = wording.began(alert)
    return wording.shown_time(alert, began) if wording.is_by_day(alert) else when(began)


def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("curb.serve.pages"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    templates.filters |= {"usd": usd_or_dash, "time": when, "tags": tags_text, "percent": percent, "chance": chance}
    templates.filters |= {"after": lambda seconds: f"after {duration(seconds)}", "lasts": duration}
    templates.filters |= {"spent": wording.dollars, "over": wording.over, "achieved": wording.achieved}
    templates.filters |= {"person": wording.person, "step": wording.step, "began": wording.began}
    templates.filters |= {"kind": wording.kind_words, "seen": seen, "since": _since}
    templates.globals["versions"] = {name: hashlib.sha256(_read(name)).hexdigest()[:12] for name in _STATIC}
    return templates


TEMPLATES = _templates()
