"""The audit of pinned packages: what an advisory is about, and that an audit which looked nowhere is no success."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.audit import advisories, main, pins

LOCK = "aio_lib==1.4.0 \\\n    --hash=sha256:00\nother[x]==2.0rc1 ; python_version < '3.12' \\\n    --hash=sha256:01\n"


def advisory(*events: dict[str, str], name: str = "Aio.Lib", **more: Any) -> dict[str, Any]:
    affected: dict[str, Any] = {"package": {"ecosystem": "PyPI", "name": name}}
    if events:
        affected["ranges"] = [{"type": "ECOSYSTEM", "events": list(events)}]
    return {"id": "OSV-1", "summary": "bad", "affected": [affected | more.pop("affected", {})], **more}


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "lock.txt").write_text(LOCK, encoding="utf-8")
    return tmp_path / "lock.txt"


def audit(lock: Path, monkeypatch: pytest.MonkeyPatch, *found: dict[str, Any]) -> int:
    export = lock.parent / "all.zip"
    with zipfile.ZipFile(export, "w") as archive:
        for number, each in enumerate(found):
            archive.writestr(f"OSV-{number}.json", json.dumps(each))
    monkeypatch.setenv("CURB_AUDIT_OSV", str(export))
    return main([str(lock)])


def test_pins_are_read_without_extras_markers_and_hashes() -> None:
    assert pins(LOCK) == {"aio-lib": ["1.4.0"], "other": ["2.0rc1"]}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (advisory({"introduced": "0"}), 1),
        (advisory({"introduced": "0"}, {"fixed": "1.4.0"}), 0),
        (advisory({"introduced": "0"}, {"fixed": "1.10"}), 1),
        (advisory({"introduced": "1.5"}, {"fixed": "1.10"}), 0),
        (advisory({"introduced": "0"}, {"last_affected": "1.4.0"}), 1),
        (advisory({"introduced": "0"}, {"last_affected": "1.3.9"}), 0),
        (advisory({"introduced": "0"}, {"fixed": "1.1"}, {"introduced": "1.3"}, {"fixed": "1.5"}), 1),
        (advisory({"introduced": "0"}, {"fixed": "1.1"}, {"introduced": "1.5"}), 0),
        (advisory(affected={"versions": ["1.4.0"]}), 1),
        (advisory(affected={"versions": ["1.4"]}), 0),
        (advisory({"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"), 0),
        (advisory({"introduced": "0"}, name="unknown"), 0),
        (advisory({"introduced": "0"}, affected={"package": {"ecosystem": "npm", "name": "aio-lib"}}), 0),
        (advisory({"introduced": "0"}, {"fixed": "2.0"}, name="other"), 1),
    ],
)
def test_versions_are_within_an_advisory_or_not(
    lock: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], code: int
) -> None:
    assert audit(lock, monkeypatch, given) == code


def test_findings_are_named(lock: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    audit(lock, monkeypatch, advisory({"introduced": "0"}, {"fixed": "1.5"}))
    assert f"{lock}: aio-lib 1.4.0: OSV-1, fixed in 1.5 bad\n" in capsys.readouterr().out


def test_an_export_without_advisories_and_an_index_without_any_are_no_success(
    lock: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert audit(lock, monkeypatch) == 2
    monkeypatch.setenv("CURB_AUDIT_OSV", str(tmp_path / "none.zip"))
    assert main([str(lock)]) == 2
    monkeypatch.delenv("CURB_AUDIT_OSV")
    program = tmp_path / "pip-audit"
    monkeypatch.setenv("CURB_AUDIT_BIN", str(program))
    for answer, code in (
        ({"name": "aio-lib", "skip_reason": "not found"}, 2),
        ({"name": "aio-lib", "version": "1.4.0", "vulns": []}, 0),
        ({"name": "aio-lib", "version": "1.4.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.5"]}]}, 1),
    ):
        program.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': [answer]})}'\n", encoding="utf-8")
        program.chmod(0o755)
        assert main([str(lock)]) == code


def test_a_directory_of_advisories_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.json").write_text(json.dumps(advisory()), encoding="utf-8")
    assert [each["id"] for each in advisories(tmp_path)] == ["OSV-1"]
