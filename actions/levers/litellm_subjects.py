"""What LiteLLM can limit: for each kind of subject where it is read and changed, and which fields really bind."""

from __future__ import annotations

from typing import Any, NamedTuple

#: The name of a model that no proxy has: a customer that may use only it may use none.
NO_MODEL = "curb-blocked"


class Subject(NamedTuple):
    """One kind of subject in the proxy's admin API.

    Only columns of its own are named: fields that the proxy keeps in `metadata` cannot be cleared again.
    """

    #: Path of the call that reads it, the name of the query parameter, and where in the answer the row is.
    read: str
    query: str
    row: str
    #: Path of the call that changes it, and the field that names it there.
    update: str
    id_field: str
    #: Tag of an alert that holds it, unless the configuration says otherwise.
    tag: str
    #: Limits it has, apart from `rpm_limit`, that can be set and cleared again.
    limits: frozenset[str]
    #: What makes the proxy refuse its very next call.
    block: dict[str, Any]
    #: True when the call that changes a missing subject creates it.
    update_creates: bool = False


SUBJECTS: dict[str, Subject] = {
    "key": Subject(
        read="key/info",
        query="key",
        row="info",
        update="key/update",
        id_field="key",
        tag="api_key",
        limits=frozenset({"tpm_limit", "max_parallel_requests", "max_budget"}),
        block={"blocked": True},
    ),
    # /team/block takes a minute to bite; this bites at once. The proxy keeps no max_parallel_requests for teams.
    "team": Subject(
        read="team/info",
        query="team_id",
        row="team_info",
        update="team/update",
        id_field="team_id",
        tag="team",
        limits=frozenset({"tpm_limit", "max_budget"}),
        block={"blocked": True},
    ),
    # Users have no `blocked`, and a null leaves their max_parallel_requests as it is.
    "user": Subject(
        read="v2/user/info",
        query="user_id",
        row="",
        update="user/update",
        id_field="user_id",
        tag="user",
        limits=frozenset({"tpm_limit", "max_budget"}),
        block={"rpm_limit": 0},
        update_creates=True,
    ),
    # Zeros and nulls are ignored for customers, so no limit could be taken back. Their `blocked` binds only in the
    # Enterprise edition; the list of models they may use binds everywhere, and an empty list clears it.
    "customer": Subject(
        read="customer/info",
        query="end_user_id",
        row="",
        update="customer/update",
        id_field="user_id",
        tag="end_user",
        limits=frozenset(),
        block={"models": [NO_MODEL]},
    ),
}


def is_blocked(row: dict[str, Any], subject: Subject) -> bool:
    """Whether none of its calls passes, by whatever means."""
    if row.get("status") in {"revoked", "deleted", "expired"} or row.get("rpm_limit") == 0:
        return True
    return all(row.get(name) == value for name, value in subject.block.items())
