"""Every metric, command, option and key of the configuration is described, and the pages say what the code says."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from pydantic import BaseModel

from curb.config.file import CurbConfig
from curb.serve.openapi import OPERATIONS
from curb.stream.records.spend import AlertKind
from docs.generate import REFERENCE, ROOMS, all_commands, all_metrics, keys, nested_models, pages, parameters
from docs.page_pictures import PAGES
from tests.house.tree import FLOORS, ROOT, markdown_files, name, python_files


def page(file: str) -> str:
    return (REFERENCE / file).read_text(encoding="utf-8")


def test_reference_pages_are_up_to_date() -> None:
    stale = [
        name(path) for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `make docs`; out of date: {', '.join(stale)}"


def test_every_metric_is_documented() -> None:
    text = page("metrics.md")
    missing = [metric for metric, *_ in all_metrics() if f"`{metric}`" not in text]
    assert not missing, f"not in docs/reference/metrics.md: {missing}"


def test_metrics_live_in_one_file() -> None:
    wrong = [
        name(path)
        for path in python_files(*FLOORS)
        if name(path) != "stream/metrics.py"
        and re.search(r"\b(Counter|Gauge|Histogram|Summary)\(\s*[\"']", path.read_text(encoding="utf-8"))
    ]
    assert not wrong, f"metrics belong in stream/metrics.py, where the reference page finds them: {wrong}"


def test_every_command_and_option_is_documented() -> None:
    text, missing = page("cli.md"), []
    for command_name, command in all_commands():
        if not (command.help or "").strip():
            missing.append(f"{command_name} has no help text")
        arguments, options = parameters(command)
        spelled = [argument.name.upper() for argument in arguments]
        spelled += [option_name for option in options for option_name in option.opts]
        missing += [f"{command_name} {each}" for each in spelled if f"`{each}`" not in text]
        missing += [f"{command_name} {each.name} has no help" for each in (*arguments, *options) if not each.help]
        if f"`{command_name}`" not in text:
            missing.append(command_name)
    assert not missing, "not in docs/reference/cli.md:\n" + "\n".join(missing)


def all_models() -> list[tuple[str, type[BaseModel], str]]:
    """(path, model, page of its kind or empty) of everything the file may hold."""
    found: list[tuple[str, type[BaseModel], str]] = [("", CurbConfig, "")]
    found += [(path, model, "") for path, model in nested_models(CurbConfig)]
    for _, path, folder, kinds in ROOMS:
        for kind in kinds:
            own = kinds.config(kind)
            found.append((f"{path}({kind})", own, f"{folder}/{kind}.md"))
            found += [(f"{path}({kind}).{below}", model, f"{folder}/{kind}.md") for below, model in nested_models(own)]
    return found


def test_every_key_of_the_configuration_is_documented() -> None:
    text, missing = page("configuration.md"), []
    for path, model, own_page in all_models():
        own = page(own_page) if own_page and (REFERENCE / own_page).exists() else ""
        for key, field in keys(model).items():
            if f"`{key}`" not in text and f"`{key}`" not in own:
                missing.append(f"{path}.{key} is in neither configuration.md nor the page of its kind")
            if not field.description and key not in {"kind", "name"}:
                missing.append(f"{path}.{key} has no description (Field(description=...))")
    assert not missing, "\n".join(missing)


def test_every_endpoint_is_documented() -> None:
    text = page("api.md")
    missing = [f"{each.method} {each.path}" for each in OPERATIONS if f"`{each.method} {each.path}`" not in text]
    assert not missing, f"not in docs/reference/api.md: {missing}"


#: Pages without a picture: another page links to each of them and looks alike, or the demo has nothing to show there
#: (its gateway does not list keys).
NO_PICTURE = {"/exposure", "/actions/{action_id}", "/models/one", "/models/runs", "/sign-in"}


def test_every_page_has_a_picture_or_is_named() -> None:
    shown = {path.partition("?")[0].replace("{alert}", "{alert_id}") for path in PAGES.values()}
    served = {each.path for each in OPERATIONS if each.method == "GET" and each.media == "text/html"}
    assert served - shown == NO_PICTURE & served
    text = (ROOT / "docs/howto/look-at-the-dashboard.md").read_text(encoding="utf-8")
    for name_of in (*PAGES, "phone"):
        picture = f"images/page-{name_of}.png"
        assert f"../{picture})" in text, f"docs/howto/look-at-the-dashboard.md does not show {picture}"
        assert (ROOT / "docs" / picture).exists(), f"{picture}: python docs/page_pictures.py"


def test_every_kind_of_alert_is_documented() -> None:
    text = (ROOT / "docs/howto/read-an-alert.md").read_text(encoding="utf-8")
    missing = [kind for kind in get_args(AlertKind) if f"| `{kind}` |" not in text]
    assert not missing, f"not in docs/howto/read-an-alert.md: {missing}"


@pytest.mark.parametrize("target", ["setup", "demo", "test", "check", "bench", "docs", "help"])
def test_make_has(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), f"no described target {target}"


def test_every_make_command_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = [
        f"{name(path)}: make {target}"
        for path in markdown_files()
        for command in re.findall(r"(?:^|`)make ((?:[a-z]+ ?)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for target in command.split()
        if target not in targets
    ]
    assert not wrong, f"no such target: {wrong}"
