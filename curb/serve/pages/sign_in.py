"""Signing in at the dashboard: a form takes a token once, and a cookie stands for it; signing out."""

from __future__ import annotations

import math
from typing import Protocol
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from curb.actions.notify.wording import clean
from curb.connectors.intake.body import Bodies
from curb.serve.pages.forms import read_form
from curb.serve.pages.frame import html, local_path, see_other
from curb.serve.pages.sessions import COOKIE, LONGEST_NAME, Sessions, by_https, give_cookie

#: Added to the address when a browser that came from another site is sent here again.
_AGAIN = "from_link"


class TokenCheck(Protocol):
    """Who looks tokens up, and slows down who tries many."""

    def known(self, token: str) -> tuple[str, frozenset[str]]:
        """The name of a token and what it may do."""

    def may_try(self, request: web.Request, token: str) -> float: ...

    def tried(self, request: web.Request, token: str, right: bool) -> None: ...


def add_routes(app: web.Application, sessions: Sessions, tokens: TokenCheck, bodies: Bodies) -> None:
    """Add `GET` and `POST /sign-in`, and `POST /sign-out`."""
    door = _Door(sessions, tokens, bodies)
    app.router.add_get("/sign-in", door.form)
    app.router.add_post("/sign-in", door.sign_in)
    app.router.add_post("/sign-out", door.sign_out)


def asks_to_sign_in(request: web.Request) -> web.Response:
    """401 with the form, or for a link on another site the same page once more.

    A browser keeps the cookie from a request that another site caused; a page of our own may cause it.
    """
    if request.method not in ("GET", "HEAD"):
        problem = "You are not signed in any more, so nothing was done. Sign in, then repeat it."
        return html("sign_in.html", code=401, next=_page_before(request), again="", problem=problem)
    came_by_link = request.headers.get("Sec-Fetch-Site") == "cross-site" and _AGAIN not in request.query
    again = f"{request.path}?{urlencode([*request.query.items(), (_AGAIN, '1')])}" if came_by_link else ""
    return html("sign_in.html", code=401, next=local_path(request.path_qs), again=again, problem="")


def _page_before(request: web.Request) -> str:
    """The page whose form was sent."""
    try:
        place = urlsplit(request.headers.get("Referer", ""))
    except ValueError:
        return "/"
    return local_path(f"{place.path}?{place.query}" if place.query else place.path)


class _Door:
    def __init__(self, sessions: Sessions, tokens: TokenCheck, bodies: Bodies) -> None:
        self._sessions, self._tokens, self._bodies = sessions, tokens, bodies

    async def form(self, request: web.Request) -> web.Response:
        return html("sign_in.html", next=local_path(request.query.get("next", "/")), again="", problem="")

    async def sign_in(self, request: web.Request) -> web.Response:
        form = await read_form(request, self._bodies)
        target = local_path(form["next"])
        if wait_s := self._tokens.may_try(request, form["token"]):
            problem = f"Too many tokens were tried from this address. Try again in {math.ceil(wait_s)} s."
            return html("sign_in.html", code=429, next=target, again="", problem=problem)
        name, roles = self._tokens.known(form["token"])
        self._tokens.tried(request, form["token"], bool(roles))
        if "read" not in roles:
            problem = "This token may not read pages." if roles else "This is not a token of this server."
            return html("sign_in.html", code=403, next=target, again="", problem=problem)
        person = clean(form["name"], LONGEST_NAME).strip().replace("(", "").replace(")", "")
        answer = see_other(target)
        key = self._sessions.open(f"{name} ({person})" if person else name, roles)
        give_cookie(answer, key, secure=by_https(request))
        return answer

    async def sign_out(self, request: web.Request) -> web.Response:
        session = self._sessions.of(request)
        form = await read_form(request, self._bodies)
        if session is not None and session.is_form_of(form["form_token"]):
            self._sessions.close(request)
        answer = see_other("/")
        answer.del_cookie(COOKIE, path="/")
        return answer
