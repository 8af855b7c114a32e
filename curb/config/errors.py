"""Configuration errors as people need them: all of them, each with its YAML path and a hint."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

#: Pydantic's words that name its own types, in the words of YAML.
_MESSAGES = {
    "extra_forbidden": "unknown key",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "frozen_set_type": "must be a list",
    "set_type": "must be a list",
    "dict_type": "must be a mapping",
    "missing": "is missing",
}
_LISTS = frozenset({"tuple_type", "list_type", "frozen_set_type", "set_type"})
#: A name that needs no quotes in YAML.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class ConfigError:
    """One thing that is wrong. `path` is like `connectors[0].port`; empty for the whole file."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = self.path or "(file)"
        return f"{where}: {self.message}" + (f"\n    hint: {self.hint}" if self.hint else "")


class ConfigErrors(Exception):
    """The configuration cannot be used; `errors` holds every reason."""

    def __init__(self, errors: list[ConfigError]) -> None:
        count = f"{len(errors)} error{'s' if len(errors) != 1 else ''} in the configuration"
        super().__init__("\n".join([count, *(f"  {error}" for error in errors)]))
        self.errors = errors


def from_validation(error: ValidationError, model: type[BaseModel], prefix: str = "") -> list[ConfigError]:
    """Pydantic's errors with YAML paths and hints. Inputs may be secrets; only a name where a list belongs is shown."""
    found = []
    paths = [_path(prefix, item["loc"]) for item in error.errors(include_url=False, include_input=False)]
    for item in error.errors(include_url=False, include_input=True, include_context=True):
        location = item["loc"]
        if item["type"] == "too_short" and any(path.startswith(f"{_path(prefix, location)}[") for path in paths):
            continue  # only without its wrong entries, which are errors of their own
        message = _MESSAGES.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ")
        found.append(ConfigError(_path(prefix, location), message, _hint(item, location, model)))
    return found


def unknown(path: str, name: str, known: Collection[str]) -> ConfigError:
    """The error of a key that does not exist, with the key that was meant, or those there are."""
    return ConfigError(f"{path}.{name}", _MESSAGES["extra_forbidden"], _meant(name, known))


def without_consequences(errors: Iterable[ConfigError], unset: Collection[str]) -> list[ConfigError]:
    """The errors that a person can mend: not those that follow from an unset variable or from a wrong entry.

    `unset` holds the paths of unset variables; their own errors stay.
    """
    found = list(errors)
    entries = any(each.path.startswith(("actions.actions[", "actions.notifiers[")) for each in found)
    kept = []
    for each in found:
        is_own = each.message.startswith("environment variable ")
        if not is_own and any(each.path == path or each.path.startswith((f"{path}.", f"{path}[")) for path in unset):
            continue
        # These look for entries by name or kind; a wrong entry is there, and yet not found.
        if entries and (each.path == "actions" or each.path.endswith(".slack_channel")):
            continue
        kept.append(each)
    return kept


def _path(prefix: str, location: tuple[int | str, ...]) -> str:
    path = prefix
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("embedded", "kafka"):  # the branch a discriminated union took, not a key of the file
            path += f".{part}" if path else part
    return path


def _hint(item: Any, location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    kind = item["type"]
    if kind == "extra_forbidden":
        return _meant(str(location[-1]), _keys_at(model, location[:-1]))
    if kind == "missing":
        return "add this key"
    if kind == "union_tag_not_found":
        return "add `kind`"
    if kind in _LISTS and isinstance(item["input"], str):
        is_secret = "Secret" in str(_annotation_at(model, location))
        shown = item["input"] if not is_secret and _PLAIN.fullmatch(item["input"]) else "..."
        return f"write a list: [{shown}]"
    if kind.endswith("_type") or kind.endswith("_parsing"):
        return "check the type: numbers without quotes, lists with `- `"
    return ""


def _meant(name: str, keys: Collection[str]) -> str:
    close = difflib.get_close_matches(name, keys, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"the keys here are: {', '.join(sorted(keys))}" if keys else "remove this key"


def _annotation_at(model: type[BaseModel], location: tuple[int | str, ...]) -> Any:
    """The annotation of the field at a location, or of the last field on the way that is known."""
    current: type[BaseModel] | None = model
    annotation: Any = None
    for part in location:
        field = current.model_fields.get(part) if current is not None and isinstance(part, str) else None
        if field is not None:
            annotation = field.annotation
            current = _model_in(annotation)
    return annotation


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int) or current is None:
            continue
        field = current.model_fields.get(part)
        if field is None:
            continue
        current = _model_in(field.annotation)
    return sorted(current.model_fields) if current is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
