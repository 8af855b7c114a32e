"""Who the end user is, where an application sends more than a name: one person, not one of each session."""

from __future__ import annotations

import json
import re
from typing import Any

#: Claude Code's older form: a hash of the device, the account where somebody is logged in, and the session.
_CLAUDE_CODE = re.compile(r"user_(?P<device>[0-9a-f]+)_account_(?P<account>[0-9a-f-]*)_session_[0-9a-f-]+")
#: Fields of a JSON id that name a person, the best first; compared without case, dashes and underscores.
_PERSON = (
    *("accountuuid", "accountid", "useruuid", "userid", "enduserid", "enduser", "useremail", "email", "username"),
    *("user", "customerid", "customer", "accountemail", "account", "sub", "uid", "id", "login", "name"),
    *("deviceid", "anonymousid"),
)
#: Fields that change with every session or request of the same person.
_PASSING = re.compile(r"session|conversation|thread|request|trace|span|message|run|turn|time|nonce")


def person(end_user: str) -> str:
    """The person in an end user's id; the id itself where it is no JSON, "" where it names nobody.

    Of JSON without a known field, the fields that do not change with the session are taken together.
    """
    text = end_user.strip()
    if code := _CLAUDE_CODE.fullmatch(text):
        return code["account"] or code["device"]
    if not text.startswith(("{", '"')):
        return end_user
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return end_user
    if isinstance(given, str):
        return given if given.startswith('"') else person(given)
    return _named(given) or _lasting(given)


def _named(given: dict[str, Any]) -> str:
    plain = {_plain(name): value for name, value in given.items()}
    for name in _PERSON:
        value = plain.get(name)
        if isinstance(value, dict) and (inner := _named(value)):
            return inner
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return ""


def _lasting(given: dict[str, Any]) -> str:
    kept = {name: value for name, value in given.items() if value and not _PASSING.search(_plain(name))}
    return json.dumps(kept, sort_keys=True) if kept else ""


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
