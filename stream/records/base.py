"""The base of all records on the log."""

from __future__ import annotations

import msgspec


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line on the log. Fields a reader does not know are ignored; defaults are left out."""

    #: Version of the schema.
    v: int = msgspec.field(default=1)
