"""Which value a gateway knows the subject of an alert by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from curb.actions.levers.haproxy import Config
from curb.stream.errors import PermanentError
from curb.stream.records.spend import OTHER, UNTAGGED
from tests.fakes.alerts import an_alert

NEEDED = {"kind": "haproxy", "name": "limits", "socket": "/run/haproxy.sock", "map_file": "/etc/haproxy/limits.map"}


def subjects(**settings: Any) -> Config:
    """The shared part of a gateway's configuration, as one kind has it."""
    return Config.model_validate(NEEDED | settings)


@pytest.mark.parametrize("tags", [{}, {"api_key": ""}, {"api_key": UNTAGGED}, {"api_key": OTHER}, {"team": "k1"}])
def test_an_alert_that_names_no_subject_has_none(tags: dict[str, str]) -> None:
    assert subjects().tag_of(an_alert(tags=tags)) == ""


def test_without_values_the_tag_is_the_value() -> None:
    settings = subjects(tag="client")
    assert settings.tag_of(an_alert(tags={"client": "batch-1"})) == "batch-1"
    assert settings.subject("batch-1") == "batch-1"


def test_with_values_only_those_are_known_and_none_is_shown() -> None:
    settings = subjects(**{"values": {"k1": "sk-secret"}})
    assert settings.subject("k1") == "sk-secret"
    assert "sk-secret" not in repr(settings)
    with pytest.raises(PermanentError, match="does not know the api_key 'k2'"):
        settings.subject("k2")


def test_values_may_lie_in_a_file_of_their_own_that_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    settings = subjects(values_path=path)
    with pytest.raises(PermanentError, match="No such file"):
        settings.subject("k1")
    path.write_text("k1: sk-one\n7: sk-seven\n")
    assert [settings.subject(tag) for tag in ("k1", "7")] == ["sk-one", "sk-seven"]
    path.write_text("k1: sk-new\n")
    assert settings.subject("k1") == "sk-new"
    with pytest.raises(PermanentError, match=r"keys\.yaml does not know the api_key '7'"):
        settings.subject("7")


@pytest.mark.parametrize("text", ["- k1\n", "k1: [sk-secret]\n", "k1: 'sk-secret\n", "k1: 5\n", ""])
def test_a_file_that_is_no_mapping_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(PermanentError, match=r"keys\.yaml is no") as caught:
        subjects(values_path=path).subject("k1")
    assert "sk-secret" not in str(caught.value)


def test_one_value_for_two_tags_is_refused() -> None:
    settings = subjects(**{"values": {"k1": "sk-secret", "k2": "sk-secret", "k3": "sk-three"}})
    assert settings.subject("k3") == "sk-three"
    with pytest.raises(PermanentError, match="another api_key has the same value as 'k2'") as caught:
        settings.subject("k2")
    assert "sk-secret" not in str(caught.value)


def test_two_mappings_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="not both"):
        subjects(**{"values": {"a": "b"}, "values_path": tmp_path})


@pytest.mark.parametrize("value", ["", "a b", "a;show info", "#1", "a\nb", '"a"', "a\\b", "-a", "\u00e4", "x" * 201])
def test_a_value_that_could_be_more_than_data_is_refused(value: str) -> None:
    settings: dict[str, Any] = {"values": {"k1": value}}
    with pytest.raises(PermanentError, match="signs that are not"):
        subjects(**settings).subject("k1")
