"""The units of systemd start commands that exist, share account and log, and are hardened alike."""

from __future__ import annotations

import shlex
from configparser import ConfigParser

import pytest

from docs.generate import all_commands, parameters
from tests.house.tree import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = ("curb.service", "curb-reaper.service")


def directives(unit: str) -> list[tuple[str, str]]:
    """(name, value) of all lines of a unit, in order."""
    lines = (FOLDER / unit).read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if line and line[0] not in "#["]
    return [(name, value) for name, _, value in pairs]


def one(unit: str, name: str) -> str:
    (value,) = (value for each, value in directives(unit) if each == name)
    return value


@pytest.mark.parametrize(("unit", "command"), [(UNITS[0], "curb run"), (UNITS[1], "curb reaper")])
def test_a_unit_starts_a_command_with_the_configuration(unit: str, command: str) -> None:
    program, name, option, path = shlex.split(one(unit, "ExecStart"))
    assert (program, option, path) == ("/opt/curb/bin/curb", "-c", "/etc/curb/curb.yaml")
    assert f"curb {name}" == command
    _, options = parameters(dict(all_commands())[command])
    assert any(option in each.opts for each in options)


def test_the_report_is_sent_by_a_timer_with_the_hardening_of_the_daemon() -> None:
    program, name, *options = shlex.split(one("curb-report.service", "ExecStart"))
    _, known = parameters(dict(all_commands())["curb report"])
    names = {name for each in known for name in each.opts}
    assert (program, name) == ("/opt/curb/bin/curb", "report")
    assert {each for each in options if each.startswith("-")} <= names
    hardened = [each for each in directives("curb.service") if each[0].startswith(("Protect", "Private", "Restrict"))]
    assert set(hardened) <= set(directives("curb-report.service"))
    assert one("curb-report.timer", "OnCalendar")


def test_both_share_account_log_and_hardening() -> None:
    own = {"Description", "Wants", "ExecStart", "OOMScoreAdjust"}
    daemon, reaper = ([each for each in directives(unit) if each[0] not in own] for unit in UNITS)
    assert daemon == reaper
    assert ("ProtectSystem", "strict") in daemon
    assert ("StateDirectory", "curb") in daemon
    assert ("WorkingDirectory", "/var/lib/curb") in daemon
    assert "curb.conf" not in {path.name for path in FOLDER.iterdir()}


def test_the_reaper_outlives_the_daemon() -> None:
    named = [value for name, value in directives(UNITS[1]) if name not in {"ExecStart", "Description"}]
    assert not any("curb.service" in value for value in named), "it must not stop with the daemon"
    assert "curb-reaper.service" in one("curb.service", "Wants")
    assert one("curb-reaper.service", "Restart") == one("curb.service", "Restart") == "always"


def test_the_units_can_be_parsed() -> None:
    for unit in UNITS:
        parser = ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        parser.read_string((FOLDER / unit).read_text(encoding="utf-8"))
        assert parser.sections() == ["Unit", "Service", "Install"]


def test_the_account_is_made() -> None:
    text = (FOLDER / "curb.sysusers.conf").read_text(encoding="utf-8")
    assert f"u {one('curb.service', 'User')} -" in text
