"""YAML text to plain data, with `${NAME}` and `${NAME:-default}` filled in from the environment."""

from __future__ import annotations

import os
import re
from typing import Any

import yaml

from curb.config.errors import ConfigError, ConfigErrors

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def parse_yaml(text: str) -> dict[str, Any]:
    """The mapping in `text`; an empty document is an empty mapping. Raises ConfigErrors."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise ConfigErrors([ConfigError("", f"not valid YAML{where}: {problem}", "check the indentation")]) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigErrors([ConfigError("", "must be a mapping of keys", "start with `log:` or `connectors:`")])
    return data


def expand_environment(data: dict[str, Any], errors: list[ConfigError]) -> dict[str, Any]:
    """A copy of `data` with variables filled in; an unset variable is an error with its path."""
    expanded: dict[str, Any] = _expand(data, "", errors)
    return expanded


def _expand(value: Any, path: str, errors: list[ConfigError]) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item, f"{path}.{key}" if path else str(key), errors) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{path}[{index}]", errors) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        found = os.environ.get(name, default)
        if found is None:
            errors.append(ConfigError(path, f"environment variable {name} is not set", f"export {name}=... first"))
            return ""
        return found

    return _VARIABLE.sub(fill, value)
