"""People whom a proxy in front of the pages has signed in, by headers that count from its addresses alone."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from aiohttp import web

from curb.actions.notify.wording import clean
from curb.config.auth_proxy import EVERYBODY, PERSON, AuthProxySettings
from curb.config.file import Role
from curb.serve.pages.sessions import LONGEST_NAME

#: Groups of a person that count. By hand: more than anybody is in, and a header has an end.
_MOST_GROUPS = 200


class ProxiedPerson(NamedTuple):
    """Who the proxy says it is. `by` is how records name them: "sso:ana@example.org"."""

    by: str
    groups: tuple[str, ...]
    roles: frozenset[Role]


class AuthProxy:
    """Reads a proxy's headers."""

    def __init__(self, settings: AuthProxySettings) -> None:
        self._settings = settings

    def person(self, request: web.Request) -> ProxiedPerson | None:
        """Who sends a request; None where it did not come from the proxy, or the proxy names nobody.

        A header that came twice names nobody: one of the two may be the client's own.
        """
        names = request.headers.getall(self._settings.user_header, [])
        if len(names) != 1 or not self._is_proxy(request.remote):
            return None
        name = clean(names[0], LONGEST_NAME).strip()
        # A space or a bracket would end the name where records show it.
        if not name or any(character.isspace() or character in "()" for character in name):
            return None
        groups = self._groups(request)
        found = (self._settings.groups.get(group, ()) for group in (EVERYBODY, *groups))
        return ProxiedPerson(f"{PERSON}{name}", groups, frozenset(role for roles in found for role in roles))

    def _is_proxy(self, remote: str | None) -> bool:
        try:
            address = ipaddress.ip_address(remote or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._settings.addresses)

    def _groups(self, request: web.Request) -> tuple[str, ...]:
        given = request.headers.getall(self._settings.groups_header, [])
        if len(given) != 1:
            return ()
        names = [name.strip() for name in given[0].split(",")[:_MOST_GROUPS]]
        return tuple(dict.fromkeys(name for name in names if name and name != EVERYBODY and name.isprintable()))
