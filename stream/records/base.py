"""The base of all records on the log."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: The newest version of the schema of all records. It grows when a field changes its meaning; a new field needs none.
VERSION = 1
#: `v` of a record: a later one is not guessed at, it is a dead letter.
Version = Annotated[int, msgspec.Meta(ge=1, le=VERSION)]


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A line on the log. Fields a reader does not know are ignored; defaults are left out."""

    #: Version of the schema.
    v: Version = msgspec.field(default=1)
