"""What the house tests look at: the project's files, and Python sources parsed once."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The rooms of the house and their floors; imports go down only. All but `curb` lie at the root of the repository and
#: are imported as `curb.ROOM`, through a link in `curb/`.
FLOORS = {"curb": 2, "connectors": 1, "detector": 1, "actions": 1, "stream": 0}

#: Directories whose code keeps to the limits of size and form.
CODE = (*FLOORS, "benchmarks", "docs")

_NOT_OURS = {"__pycache__", "build", "dist", "demo-out", "curb-data", "node_modules"}
_TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".ipynb", ".sh", ".properties", ".xml", ""}


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project: no environments, caches, build products or data of a running Curb."""
    found = []
    for directory, names, leaves in os.walk(ROOT):
        names[:] = [name for name in names if _is_ours(name)]
        found += [Path(directory) / leaf for leaf in leaves if leaf != ".git"]  # a file in a second worktree
    return tuple(sorted(found))


def _is_ours(directory: str) -> bool:
    hidden = directory.startswith(".") and directory not in {".ci", ".github"}
    return not hidden and directory not in _NOT_OURS and not directory.endswith(".egg-info")


def text_files() -> Iterator[Path]:
    return (path for path in files() if path.suffix in _TEXT)


def markdown_files() -> Iterator[Path]:
    return (path for path in files() if path.suffix == ".md")


def python_files(*directories: str) -> list[Path]:
    return [path for path in files() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in directories]


def name(path: Path) -> str:
    """How a message calls a file: its path from the root."""
    return path.relative_to(ROOT).as_posix()


def room(module: str) -> str:
    """The room of a module: `detector` for `curb.detector.heads.past`, `curb` for `curb.cli.main`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else parts[0]


def module_name(path: Path) -> str:
    """How the module of a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "curb" or parts[0] not in FLOORS else ("curb", *parts))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name(path))
