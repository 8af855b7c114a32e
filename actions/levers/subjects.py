"""How a tag of an alert names a subject at a gateway that knows it by another value, such as the key itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SecretStr, model_validator

from curb.actions.action import RateConfig
from curb.actions.levers.locked_file import read_text
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED, Alert

#: What needs no quoting in YAML, in a map file or on a command line, so that a tag is never more than data.
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,199}")


class SubjectConfig(RateConfig):
    """Keys of every action that finds its subject by a tag."""

    tag: str = Field(default="api_key", description="Tag of the alert that holds the subject.")
    values: dict[str, SecretStr] = Field(
        default={},
        description="Tag value → what the gateway knows the subject by, where they differ. Given, no other is known.",
    )
    values_path: Path | None = Field(
        default=None, description="YAML file with such a mapping, read again each time; instead of `values`."
    )

    @model_validator(mode="after")
    def _one_mapping(self) -> SubjectConfig:
        if self.values and self.values_path:
            raise ValueError("give either values or values_path, not both")
        return self

    def tag_of(self, alert: Alert) -> str:
        """What the alert calls the subject; empty when it names none."""
        tag = alert.tags.get(self.tag, "")
        return "" if tag in (UNTAGGED, OTHER) else tag

    def subject(self, tag: str) -> str:
        """What the gateway calls it. PermanentError when it is not known, or cannot be written down safely."""
        known = _mapping(self.values_path) if self.values_path else self.values
        found = known.get(tag)
        if found is None and (self.values_path or self.values):
            raise PermanentError(f"{self.values_path or '`values`'} does not know the {self.tag} {tag[:60]!r}")
        if found is not None and list(known.values()).count(found) > 1:  # two leases on one thing would mix up its past
            raise PermanentError(f"another {self.tag} has the same value as {tag[:60]!r}")
        value = found.get_secret_value() if found is not None else tag
        if not _PLAIN.fullmatch(value):
            raise PermanentError(
                f"the value of {self.tag} {tag[:60]!r} has signs that are not letters, digits, ._:@/+=-"
            )
        return value


def _mapping(path: Path) -> dict[str, SecretStr]:
    try:
        data: Any = yaml.safe_load(read_text(path))
    except yaml.YAMLError:  # its text shows a piece of the file
        raise PermanentError(f"{path} is no YAML") from None
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise PermanentError(f"{path} is no mapping of tag values to texts; quote what looks like a number")
    return {str(tag): SecretStr(value) for tag, value in data.items()}
