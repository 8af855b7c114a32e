"""Every YAML block of the documentation and every shipped configuration loads through the real validator."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from curb.config.file import ConfigErrors, load_text
from tests.house.yaml_blocks import Block, configurations, environment, with_local_files


@pytest.mark.parametrize("block", configurations(), ids=str)
def test_configuration_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(block.text).items():
        monkeypatch.setenv(variable, value)
    try:
        load_text(with_local_files(block.text, tmp_path))
    except (ConfigErrors, yaml.YAMLError) as error:
        pytest.fail(f"{block.where} is no valid configuration: {error}", pytrace=False)


def test_an_example_configuration_is_shipped() -> None:
    assert "deploy/curb.example.yaml" in {block.where for block in configurations()}


def test_blocks_are_found_with_their_line(tmp_path: Path) -> None:
    text = with_local_files("http: {token_file: /run/secrets/t}\n", tmp_path)
    assert yaml.safe_load(text)["http"]["token_file"] == str(tmp_path / "secret")
    assert environment("a: ${A_URL} ${B:-x}") == {"A_URL": "http://localhost:4000"}


def test_a_wrong_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors):
        load_text(with_local_files("htpp: {port: 1}\n", tmp_path))
