"""Looks pinned packages up among known vulnerabilities: with pip-audit, or in a file of OSV where no network is.

`python -m tests.packaging.audit LOCK ...`. With CURB_AUDIT_OSV=PATH, an export of osv.dev (`PyPI/all.zip` of its
bucket, or a directory of its JSON files) is searched; else `pip-audit` of CURB_AUDIT_BIN asks the package index. Exit
code 1 where a vulnerability is known, 2 where nothing could be looked up: that is no audit.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


class Finding(NamedTuple):
    """A known vulnerability of a pinned package; `fixed` are the versions without it, as far as they are known."""

    package: str
    version: str
    id: str
    fixed: str
    summary: str


def pins(lock: str) -> dict[str, list[str]]:
    """Name → versions of a lock file; several where they differ by Python."""
    found = defaultdict[str, list[str]](list)
    for name, version in _PIN.findall(lock):
        found[canonicalize_name(name)].append(version)
    return dict(found)


def advisories(path: Path) -> Iterator[dict[str, Any]]:
    """Every advisory of an export, a zip file or a directory."""
    if path.is_dir():
        yield from (json.loads(each.read_bytes()) for each in sorted(path.rglob("*.json")))
        return
    with zipfile.ZipFile(path) as archive:
        yield from (json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json"))


def found_in(advisory: Mapping[str, Any], pinned: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """What of the pinned packages an advisory is about (https://ossf.github.io/osv-schema)."""
    if advisory.get("withdrawn"):
        return
    for affected in advisory.get("affected", ()):
        package = affected.get("package", {})
        name = canonicalize_name(package.get("name", ""))
        if package.get("ecosystem") != "PyPI":
            continue
        ends = [event["fixed"] for each in affected.get("ranges", ()) for event in each["events"] if "fixed" in event]
        for version in pinned.get(name, ()):
            if _is_affected(affected, version):
                yield Finding(name, version, advisory["id"], ", ".join(ends) or "-", advisory.get("summary", ""))


def _is_affected(affected: Mapping[str, Any], version: str) -> bool:
    if version in affected.get("versions", ()):
        return True
    ranges = (each["events"] for each in affected.get("ranges", ()) if each.get("type") in ("ECOSYSTEM", "SEMVER"))
    return any(_is_within(events, Version(version)) for events in ranges)


def _is_within(events: list[dict[str, str]], version: Version) -> bool:
    """Whether the last event before the version makes it one of those affected."""
    within = False
    for event in sorted(events, key=_at):
        (kind, _), at = next(iter(event.items())), _at(event)
        if kind == "last_affected":
            within = within and version <= at
        elif at <= version:
            within = kind == "introduced"
    return within


def _at(event: Mapping[str, str]) -> Version:
    (text,) = event.values()
    try:
        return Version(text)
    except InvalidVersion:  # of no package that pip installs
        return Version("0")


def of_export(path: Path, pinned: Mapping[str, Sequence[str]]) -> list[Finding]:
    """All findings of an export; raises ValueError for one without advisories."""
    findings, count = dict[Finding, None](), 0
    for advisory in advisories(path):
        count += 1
        findings |= dict.fromkeys(found_in(advisory, pinned))
    if not count:
        raise ValueError(f"{path} holds no advisories")
    print(f"{sum(map(len, pinned.values()))} packages looked up in {count} advisories of {path}")
    return list(findings)


def of_index(program: str, lock: Path) -> list[Finding]:
    """All findings of the package index; raises ValueError where it knows advisories of no package at all."""
    command = [program, "-r", str(lock), "--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise ValueError(f"pip-audit failed: {done.stderr[-1000:]}") from None
    looked_up = [each for each in packages if "vulns" in each]
    if not looked_up:
        raise ValueError(
            "the package index gives out no advisories; name an export of osv.dev with CURB_AUDIT_OSV=PATH"
        )
    for each in packages:
        if "skip_reason" in each:
            print(f"not looked up: {each['name']}: {each['skip_reason']}")
    print(f"{len(looked_up)} packages looked up in the package index")
    return [
        Finding(each["name"], each["version"], vulnerability["id"], ", ".join(vulnerability["fix_versions"]) or "-", "")
        for each in looked_up
        for vulnerability in each["vulns"]
    ]


def main(locks: list[str]) -> int:
    """Audit each lock file and print what was found."""
    export, code = os.environ.get("CURB_AUDIT_OSV"), 0
    for name in locks:
        lock = Path(name)
        try:
            if export:
                findings = of_export(Path(export), pins(lock.read_text(encoding="utf-8")))
            else:
                findings = of_index(os.environ.get("CURB_AUDIT_BIN", "pip-audit"), lock)
        except (OSError, ValueError) as error:
            print(f"{lock}: {error}", file=sys.stderr)
            return 2
        for found in sorted(findings):
            print(
                f"{lock}: {found.package} {found.version}: {found.id}, fixed in {found.fixed} {found.summary}".rstrip()
            )
        print(f"{lock}: {len(findings)} known vulnerabilities")
        code = code or int(bool(findings))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
