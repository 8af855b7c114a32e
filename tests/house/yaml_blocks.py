"""Every piece of YAML that claims to be a configuration of Curb: fenced blocks in Markdown, and whole files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.house.tree import ROOT, files, markdown_files, name

#: ```yaml is Curb's configuration; ```yaml litellm, ```yaml compose and so on belong to somebody else.
FENCE = re.compile(r"^(?P<indent> *)```ya?ml[ \t]*(?P<owner>[^\n]*)\n(?P<body>.*?)^(?P=indent)```", re.M | re.S)
VARIABLE = re.compile(r"\$\{(\w+)\}")
#: What belongs to other programs although it lies in deploy/ or in the demo.
FOREIGN_FILES = re.compile(r"^(compose|envoy|litellm|prometheus|grafana|script)\b")

#: Folders of objects of a cluster, of charts, of rules, and of what Grafana reads.
FOREIGN_FOLDERS = {"grafana", "helm", "kubernetes", "prometheus"}


class Block(NamedTuple):
    """A configuration and where it stands."""

    where: str
    text: str

    def __str__(self) -> str:
        return self.where


def configurations() -> list[Block]:
    found = []
    for path in markdown_files():
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if not match["owner"].strip():
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(f"{name(path)}:{line}", dedent(match["body"], len(match["indent"]))))
    for path in files():
        place = path.relative_to(ROOT).parts[0]
        if FOREIGN_FOLDERS & set(path.relative_to(ROOT).parts):
            continue
        if path.suffix in {".yaml", ".yml"} and place in {"deploy", "curb"} and not FOREIGN_FILES.search(path.name):
            found.append(Block(name(path), path.read_text(encoding="utf-8")))
    return found


def dedent(body: str, indent: int) -> str:
    return "".join(line[indent:] if line[:indent].isspace() else line for line in body.splitlines(keepends=True))


def environment(text: str) -> dict[str, str]:
    """A value for each variable that has no default, so that a block loads on a machine that has none of them."""
    return {
        variable: "http://localhost:4000" if "URL" in variable or "ENDPOINT" in variable else "example-value"
        for variable in VARIABLE.findall(text)
    }


def with_local_files(text: str, directory: Path) -> str:
    """The block with each `x_file: path` pointed at a file that exists here and holds a secret."""
    secret = directory / "secret"
    secret.write_text("example-secret\n", encoding="utf-8")

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: str(secret) if str(key).endswith("_file") else replace(item) for key, item in value.items()}
        return [replace(item) for item in value] if isinstance(value, list) else value

    return yaml.safe_dump(replace(yaml.safe_load(text)), sort_keys=False)


def kinds_in(text: str) -> set[tuple[str, str]]:
    """(section, kind) of each connector, action, notifier and scorer a block configures."""
    data = yaml.safe_load(text) or {}
    actions = data.get("actions") or {}
    sections = {
        "connectors": data.get("connectors"),
        "actions": actions.get("actions"),
        "notifiers": actions.get("notifiers"),
        "scorers": (data.get("detector") or {}).get("scorers"),
    }
    return {(section, item["kind"]) for section, items in sections.items() for item in items or [] if "kind" in item}
