"""Configuration errors as people need them: all of them, each with its YAML path and a hint."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


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
    """Pydantic's errors with YAML paths and hints; inputs are never shown, they may be secrets."""
    found = []
    for item in error.errors(include_url=False, include_input=False, include_context=True):
        location = item["loc"]
        message = str(item["msg"]).removeprefix("Value error, ")
        found.append(ConfigError(_path(prefix, location), message, _hint(item, location, model)))
    return found


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
        keys = _keys_at(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), keys, n=1)
        if close:
            return f"did you mean `{close[0]}`?"
        return f"the keys here are: {', '.join(keys)}" if keys else "remove this key"
    if kind == "missing":
        return "add this key"
    if kind == "union_tag_not_found":
        return "add `kind`"
    if kind.endswith("_type") or kind.endswith("_parsing"):
        return "check the type: numbers without quotes, lists with `- `"
    return ""


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
