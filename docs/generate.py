"""Writes what only repeats the code: configuration, metrics, commands, the API, and the picture of the rooms.

`python docs/generate.py` writes them; with `--check` it only says which are out of date and exits with 1.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer.main
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel, HttpUrl, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.cli.lazy import LazyGroup
from curb.cli.main import app
from curb.config.file import CurbConfig
from curb.connectors.kinds import KINDS
from curb.detector.scorers.kinds import SCORERS
from curb.stream import metrics
from docs import api_page, house

REFERENCE = Path(__file__).resolve().parent / "reference"
IMAGES = REFERENCE.parent / "images"
GENERATED = "<!-- Written by docs/generate.py from the code; change it there. -->\n"

#: (title, where in the file, the folder of the kinds' own pages, the table of kinds)
ROOMS = (
    ("Connectors", "connectors[]", "connectors", KINDS),
    ("Scorers", "detector.scorers[]", "scorers", SCORERS),
    ("Actions", "actions.actions[]", "actions", ACTIONS),
    ("Notifiers", "actions.notifiers[]", "notifiers", NOTIFIERS),
)
#: Python's names of simple types, as a person who writes YAML calls them.
TYPE_NAMES: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret",
    HttpUrl: "URL",
    Any: "any",
    type(None): "nothing",
}


def main() -> int:
    """Write or check all pages; the exit code."""
    check = sys.argv[1:] == ["--check"]
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(REFERENCE.parents[1])} {'is out of date: run make docs' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages()[path], encoding="utf-8")
    return 1 if check and stale else 0


def pages() -> dict[Path, str]:
    """Each generated page's path and what it must hold."""
    return {
        REFERENCE / "configuration.md": configuration_page(),
        REFERENCE / "metrics.md": metrics_page(),
        REFERENCE / "cli.md": cli_page(),
        REFERENCE / "api.md": api_page.page(GENERATED),
        IMAGES / "house.svg": house.picture(),
    }


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines) + "\n"


# --- configuration ------------------------------------------------------------------------------------------------


def configuration_page() -> str:
    """Every key of the file, part by part, then every kind."""
    parts = [
        "# Configuration\n",
        GENERATED,
        "One YAML file, checked whole by `curb check-config`; an unknown key is an error. `${NAME}` and "
        "`${NAME:-default}` in a value are filled in from the environment. A *secret* called `x` may be given as "
        "`x_file` instead, the path of a file that holds it. [curb.example.yaml](../../deploy/curb.example.yaml) shows "
        "every part with comments.\n",
        "## The file\n",
        keys_table(CurbConfig),
    ]
    for path, model in nested_models(CurbConfig):
        parts += [f"## `{path}`\n", first_paragraph(model), keys_table(model)]
    for title, path, folder, kinds in ROOMS:
        parts += [
            f"## {title}: `{path}`\n",
            f"Each entry has one of these kinds; more on its own page in `{folder}/`.\n",
        ]
        for kind in sorted(kinds):
            config: type[BaseModel] = kinds.config(kind)
            parts += [f"### `kind: {kind}`\n", f"See [{kind}]({folder}/{kind}.md).\n", keys_table(config)]
            for nested_path, nested in nested_models(config):
                parts += [f"#### `{kind}`: `{nested_path}`\n", first_paragraph(nested), keys_table(nested)]
    return "\n".join(parts)


def keys_table(model: type[BaseModel]) -> str:
    rows = [
        (f"`{key}`", type_name(field), default(field), description(key, field)) for key, field in keys(model).items()
    ]
    return table(("Key", "Type", "Default", "Meaning"), *rows)


def description(key: str, field: FieldInfo) -> str:
    """What the field says of itself."""
    return as_markdown(field.description or ("Chooses this kind." if key == "kind" else ""))


def as_markdown(text: str) -> str:
    """Plain words in Markdown: __other__ and *.jsonl stay what they are."""
    parts = text.split("`")  # every second part is code already
    parts[::2] = [re.sub(r"(__\w+__)", r"`\1`", part).replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


def keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a model as the file writes them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def nested_models(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The models below `model`, depth first, each with its path such as `actions.routes[].match`."""
    for key, field in keys(model).items():
        found = list(models_in(field.annotation))
        for each in found:
            if inspect.isabstract(each) or not each.model_fields:  # kinds have sections of their own
                continue
            many = "[]" if get_origin(field.annotation) in (list, tuple) else ""
            many = "{}" if get_origin(field.annotation) is dict else many
            path = f"{prefix}{key}{many}"
            yield (path if len(found) == 1 else f"{path} (kind: {kind_of(each)})"), each
            yield from nested_models(each, f"{path}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def kind_of(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else model.__name__


def type_name(field: FieldInfo) -> str:
    limits = [text for each in field.metadata if (text := limit(each))]
    return ", ".join([name_of(field.annotation), *limits])


def name_of(annotation: Any) -> str:
    """A type in words, such as `list of text` or `"json" or "text"`."""
    if annotation in TYPE_NAMES:
        return TYPE_NAMES[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        names = dict.fromkeys(name_of(part) for part in parts if part is not type(None))
        return " or ".join(names)
    if origin is dict:
        return f"map of {name_of(parts[0])} to {name_of(parts[1])}"
    if origin in (list, tuple, set, frozenset):
        return f"list of {name_of(parts[0])}".replace("list of see below", "list, see below")
    if parts:  # Annotated[type, constraints...] and the like
        limits = [text for each in parts[1:] if (text := limit(each))]
        return ", ".join([name_of(parts[0]), *limits])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "see below"
    return getattr(annotation, "__name__", str(annotation))


def limit(constraint: Any) -> str:
    """One constraint in words; empty for what has nothing to say to a reader."""
    for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        if (bound := getattr(constraint, attribute, None)) is not None:
            return f"{sign} {without_fractions(bound)}"
    if pattern := getattr(constraint, "pattern", None):
        return f"`{pattern}`"
    if least := getattr(constraint, "min_length", None):
        return f"length ≥ {least}"
    if most := getattr(constraint, "max_length", None):
        return f"length ≤ {most}"
    return ""


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return "–"
    if isinstance(value, BaseModel):
        return "see below"
    plain = without_fractions(json.loads(json.dumps(value, default=as_plain)))
    if plain in ([], {}, ""):
        return "empty"
    return f"`{plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)}`"


def without_fractions(value: Any) -> Any:
    """14.0 as 14, also inside lists and maps."""
    if isinstance(value, dict):
        return {key: without_fractions(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_fractions(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_plain(value: Any) -> Any:
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else str(value)


def first_paragraph(model: type[BaseModel]) -> str:
    return as_markdown(" ".join((model.__doc__ or "").split("\n\n")[0].split())) + "\n"


# --- metrics ------------------------------------------------------------------------------------------------------


def all_metrics() -> list[tuple[str, str, tuple[str, ...], str]]:
    """(name, type, labels, meaning) of every metric, by name."""
    found = []
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            for family in each.describe():
                name = f"{family.name}_total" if family.type == "counter" else family.name
                found.append((name, family.type, tuple(each._labelnames), family.documentation))
        elif isinstance(each, metrics.ScrapedMetric):
            found.append((each.name, each.kind, each.labels, each.meaning))
    return sorted(found)


def metrics_page() -> str:
    """Every metric under /metrics."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels) or "–", meaning)
        for name, kind, labels, meaning in all_metrics()
    ]
    head = "# Metrics\n", GENERATED, "What `/metrics` of the daemon publishes, in Prometheus' text format.\n"
    return "\n".join([*head, table(("Name", "Type", "Labels", "Meaning"), *rows)])


# --- command line -------------------------------------------------------------------------------------------------


def all_commands() -> list[tuple[str, Any]]:
    """(full name, command) of every command that is not hidden, `curb` itself first."""
    return list(_walk("curb", typer.main.get_command(app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, listed in getattr(command, "commands", {}).items():
        each = command.load(child) if isinstance(command, LazyGroup) else listed
        if not each.hidden:
            yield from _walk(f"{name} {child}", each)


def parameters(command: Any) -> tuple[list[Any], list[Any]]:
    """(arguments, options) of a command that are not hidden."""
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    return arguments, options


def spelled(option: Any) -> str:
    """How an option is written: all its names."""
    return ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def cli_page() -> str:
    """Every command with its arguments and options."""
    parts = ["# Command line\n", GENERATED, "`curb COMMAND --help` says the same at the prompt.\n"]
    for name, command in all_commands():
        arguments, options = parameters(command)
        words = [name, *(each.name.upper() for each in arguments), *(["[OPTIONS]"] if options else [])]
        words += ["COMMAND"] if getattr(command, "commands", {}) else []
        parts += [f"## `{name}`\n", f"{plain_text(command.help)}\n", f"```\n{' '.join(words)}\n```\n"]
        rows = [(f"`{each.name.upper()}`", option_default(each), meaning(each)) for each in arguments]
        rows += [(spelled(each), option_default(each), meaning(each)) for each in options]
        if rows:
            parts.append(table(("Name", "Default", "Meaning"), *rows))
    return "\n".join(parts)


def plain_text(help_text: str | None) -> str:
    """A help text without the markup for terminals."""
    return re.sub(r"\[/?bold\]", "`", help_text or "").strip()


def meaning(parameter: Any) -> str:
    """What a parameter is for, and the environment variable that may stand in for it."""
    variable = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
    return plain_text(parameter.help) + variable


def option_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "–" if value is None or value is False or callable(value) or value == () else f"`{value}`"


if __name__ == "__main__":
    sys.exit(main())
