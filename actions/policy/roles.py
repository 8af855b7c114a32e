"""Roles and approvals: who may approve how many dollars at risk, and who may deny."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from curb.stream.settings import Settings


class Approver(Settings):
    """A role that may approve: who has it, and up to how much."""

    people: tuple[str, ...] = Field(
        min_length=1,
        description="Slack user ids such as U0123ABCD, user names of the command line, names of tokens, and people "
        "and groups of `http.auth_proxy`: `sso:NAME`, `group:NAME`.",
    )
    up_to_usd: float | None = Field(
        default=None, gt=0, description="For alerts with at most so many dollars at risk. Default: any."
    )


def roles_for(approvers: Mapping[str, Approver], named: Sequence[str], dollars_at_risk: float) -> dict[str, Approver]:
    """The roles that may approve so much: those a rung names, or all where it names none."""
    return {
        role: approver
        for role, approver in approvers.items()
        if (not named or role in named) and (approver.up_to_usd is None or dollars_at_risk <= approver.up_to_usd)
    }


def people_of(roles: Mapping[str, Approver]) -> list[str]:
    """Everybody in the roles, once."""
    return list(dict.fromkeys(person for approver in roles.values() for person in approver.people))


def is_one_of(by: str, people: Sequence[str]) -> bool:
    """Whether `by` of a command is one of the people: "slack:U123 (Ana)" is the Slack user U123."""
    who = by.split(" ", 1)[0]
    return who in people or (who.startswith("slack:") and who.removeprefix("slack:") in people)


def may_approve(approvers: Mapping[str, Approver], by: str, named: Sequence[str], dollars_at_risk: float) -> str:
    """Why `by` may not approve, as a clause, or "" when they may."""
    roles = roles_for(approvers, named, dollars_at_risk)
    if is_one_of(by, people_of(roles)):
        return ""
    if not roles:
        return f"nobody may approve ${dollars_at_risk:,.0f} at risk (actions.approvers)"
    return f"for ${dollars_at_risk:,.0f} at risk it takes one of: {', '.join(roles)}"


def may_deny(approvers: Mapping[str, Approver], by: str) -> str:
    """Why `by` may not deny, or "" when they may: whoever may approve anything may say no to everything."""
    return "" if is_one_of(by, people_of(approvers)) else "only people named in actions.approvers may"
