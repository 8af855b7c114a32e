"""The commented example configuration holds every key, and the detector's at their defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from curb.detector.settings import DetectorSettings
from docs.generate import keys
from tests.house.test_reference import all_models
from tests.house.tree import ROOT

TEXT = (ROOT / "deploy" / "curb.example.yaml").read_text(encoding="utf-8")


def plain(value: Any) -> Any:
    """As YAML would say it."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def differences(path: str, default: BaseModel, given: dict[str, Any]) -> Iterator[str]:
    """Keys of a part that are left out or not at their default; what is empty by default may be shown filled."""
    for key in type(default).model_fields:
        value = getattr(default, key)
        if isinstance(value, BaseModel):
            yield from differences(f"{path}.{key}", value, given.get(key, {}))
        elif value not in (None, ()) and given.get(key) != plain(value):
            yield f"{path}.{key} is {plain(value)} by default, and {given.get(key, 'not there')} in the example"


def test_the_detector_is_shown_with_its_defaults() -> None:
    wrong = list(differences("detector", DetectorSettings(), yaml.safe_load(TEXT)["detector"]))
    assert not wrong, "deploy/curb.example.yaml:\n" + "\n".join(wrong)


def test_a_difference_is_seen() -> None:
    given = plain(DetectorSettings())
    assert not list(differences("detector", DetectorSettings(), given))
    given["score"]["hold_minutes"] = 11
    del given["feed"]["factor"]
    found = list(differences("detector", DetectorSettings(), given))
    assert [each.split(" ")[0] for each in found] == ["detector.score.hold_minutes", "detector.feed.factor"]


def test_every_key_is_in_the_example() -> None:
    there = set(re.findall(r"^[ #-]*(?:- )?([a-z0-9_]+):|[{,] *([a-z0-9_]+):", TEXT, re.MULTILINE))
    names = {name for pair in there for name in pair if name}
    missing = [f"{path}.{key}" for path, model, _ in all_models() for key in keys(model) if key not in names]
    assert not missing, "not in deploy/curb.example.yaml:\n" + "\n".join(missing)
