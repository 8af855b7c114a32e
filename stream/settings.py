"""The base of all settings: no unknown keys, frozen, and secrets that may live in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jmespath
from jmespath.exceptions import JMESPathError
from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, model_validator


class Settings(BaseModel):
    """A part of the configuration. A SecretStr field `x` may be given as `x_file`, the path of a file holding it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for name, field in cls.model_fields.items():
            file_key = f"{name}_file"
            if file_key not in data or "SecretStr" not in str(field.annotation):
                continue
            if name in data:
                raise ValueError(f"give either {name} or {file_key}, not both")
            data[name] = SecretStr(_read_secret(file_key, data.pop(file_key)))
        return data


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name!r}; use a name such as UTC or Europe/Berlin") from None
    return name


#: The name of a time zone, such as Europe/Berlin.
TimeZone = Annotated[str, AfterValidator(_known_zone)]


def _compiles(expression: str) -> str:
    try:
        jmespath.compile(expression)
    except JMESPathError as error:
        # The first line says what is wrong; the others draw the expression.
        raise ValueError(f"no JMESPath expression: {str(error).splitlines()[0]}") from None
    return expression


#: A JMESPath expression, such as `usage.prompt_tokens`.
Expression = Annotated[str, AfterValidator(_compiles)]


def _read_secret(key: str, path: Any) -> str:
    try:
        secret = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: cannot read {path!s} ({type(error).__name__})") from None
    if not secret:
        raise ValueError(f"{key}: {path!s} is empty")
    return secret
