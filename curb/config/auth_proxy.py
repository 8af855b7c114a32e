"""The proxy that signs people in at the pages, and what its groups may do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field, IPvAnyNetwork, field_validator

from curb.actions.policy.roles import Approver
from curb.stream.settings import Settings

#: The group that everybody is in whom the proxy names.
EVERYBODY = "*"
#: How records, and `actions.approvers`, name a person and a group of the proxy. No name of a token has a colon.
PERSON, GROUP = "sso:", "group:"
#: What a group may do at the pages.
PageRole = Literal["read", "approve", "operate", "admin"]
#: Addresses of a network that is named as a proxy, at most, as bits of the host part. By hand: a subnet of a cluster.
_MOST_HOST_BITS = 16


class AuthProxySettings(Settings):
    """A proxy such as oauth2-proxy, or one's own OIDC gateway: it signs people in and says who they are."""

    addresses: tuple[IPvAnyNetwork, ...] = Field(
        min_length=1, description="Addresses, or small networks, from which its headers are believed."
    )
    user_header: str = Field(
        default="X-Forwarded-User", pattern=r"^[A-Za-z0-9-]{1,64}$", description="Header with the person's name."
    )
    groups_header: str = Field(
        default="X-Forwarded-Groups",
        pattern=r"^[A-Za-z0-9-]{1,64}$",
        description="Header with the person's groups, separated by commas.",
    )
    groups: dict[str, tuple[PageRole, ...]] = Field(
        min_length=1,
        description="Group → `read`, `approve` (read, and answer proposals), `operate` or `admin` at the pages; the "
        "group `*` is everybody. How many dollars a group may approve is in `actions.approvers`, as `group:NAME`.",
    )

    @field_validator("addresses")
    @classmethod
    def _are_few(cls, given: tuple[IPvAnyNetwork, ...]) -> tuple[IPvAnyNetwork, ...]:
        for network in given:
            if isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network):
                bits = network.max_prefixlen - network.prefixlen
                if bits > _MOST_HOST_BITS:
                    raise ValueError(
                        f"{network} is too many addresses: whoever has one of them could claim to be anybody; name "
                        "those of the proxy alone"
                    )
        return given


def unknown_groups(
    approvers: Mapping[str, Approver], proxy: AuthProxySettings | None
) -> Iterable[tuple[str, str, str]]:
    """Path, problem and hint of approvers that no proxy can name."""
    known = set(proxy.groups) if proxy is not None else set[str]()
    for role, approver in approvers.items():
        for number, person in enumerate(approver.people):
            path, group = f"actions.approvers.{role}.people[{number}]", person.removeprefix(GROUP)
            if person.startswith((GROUP, PERSON)) and proxy is None:
                yield path, f"{person!r} is a name of a proxy, and none is configured", "see http.auth_proxy"
            elif person.startswith(GROUP) and group not in known:
                what = f"http.auth_proxy.groups has no group {group!r}, so it can answer nothing"
                yield path, what, f"add `{group}: [approve]` there"
