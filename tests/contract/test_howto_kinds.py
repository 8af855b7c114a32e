"""The how-tos of own kinds: their examples, installed as written, load and keep every promise; wrong ones do not."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from typer.testing import CliRunner

from curb.actions.kinds import ACTIONS, NOTIFIERS
from curb.cli.main import app
from curb.config.errors import ConfigErrors
from curb.config.file import load_text
from curb.stream.clock import ManualClock
from curb.stream.errors import PermanentError
from curb.stream.kinds import KindError
from curb.testing.actions import ACTION_PROMISES, ActionBench
from curb.testing.notifiers import NOTIFIER_PROMISES, NotifierBench
from curb.wiring import make_actions
from tests.fakes.memory_log import MemoryLog
from tests.house.test_size import code_lines
from tests.house.tree import ROOT

#: A named block: ```python my_gateway.py, and its text.
BLOCK = re.compile(r"^```(?:python|toml|yaml) (?P<name>\S+)\n(?P<text>.*?)^```", re.M | re.S)
MAX_LINES = 40

Install = Callable[..., Any]


def blocks(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / "howto" / page).read_text(encoding="utf-8")
    return {match["name"]: match["text"] for match in BLOCK.finditer(text)}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(page, old=new)`: the package of a page, with texts of its module replaced; returns its test module."""
    loaded: list[str] = []

    def install_(page: str, changes: dict[str, str] | None = None) -> Any:
        found = blocks(page)
        project = tomllib.loads(found["pyproject.toml"])["project"]
        info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
        groups = project["entry-points"].items()
        lines = [
            line for group, points in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        for name in (each for each in found if each.endswith(".py")):
            text = found[name]
            for old, new in (changes or {}).items() if not name.startswith("test_") else ():
                assert old in text, f"{page} has no {old!r} to change"
                text = text.replace(old, new)
            (tmp_path / name).write_text(text, encoding="utf-8")
            loaded.append(name.removesuffix(".py"))
        monkeypatch.syspath_prepend(tmp_path)
        return importlib.import_module(next(name for name in loaded if name.startswith("test_")))

    yield install_
    for name in loaded:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("page", "module"), [("write-an-action.md", "my_gateway.py"), ("write-a-notifier.md", "my_chat.py")]
)
def test_the_example_is_short_and_loads(page: str, module: str, install: Install) -> None:
    assert len(code_lines(blocks(page)[module])) <= MAX_LINES
    install(page)
    config = load_text(blocks(page)["example"])
    assert [each.kind for each in (*config.actions.actions, *config.actions.notifiers)] == [module.removesuffix(".py")]


@pytest.mark.parametrize("promise", ACTION_PROMISES)
async def test_the_action_keeps_the_promise(promise: str, install: Install) -> None:
    bench: type[ActionBench] = install("write-an-action.md").Bench
    await ACTION_PROMISES[promise](bench)


@pytest.mark.parametrize("promise", NOTIFIER_PROMISES)
async def test_the_notifier_keeps_the_promise(promise: str, install: Install) -> None:
    bench: type[NotifierBench] = install("write-a-notifier.md").Bench
    await NOTIFIER_PROMISES[promise](bench)


SWAP = 'swap(plan, await self.call("GET", plan.target))'
WRONG_ACTIONS = [
    ("plan_changes_nothing", {'self.call("GET", key)': 'self.call("PATCH", key, {"rpm": 500})'}, "it may only read"),
    (
        "plans_hold_what_they_change_and_raise_nothing",
        {"self.config.rpm_for(rate)": "900", '["rpm"] <= after["rpm"]': '["rpm"] == after["rpm"]'},
        "would raise a limit",
    ),
    ("apply_twice_is_once_and_reads_back", {"found == plan.after": "True"}, "verify.. says in force before apply"),
    ("undo_restores_and_may_be_repeated", {"if found.back:": "if False:"}, "undo.. did not restore"),
    ("a_change_by_hand_is_drift", {"found.raise_drift()": "pass"}, "must raise DriftError, and raised nothing"),
    ("a_change_by_hand_is_drift", {"if found.back:": "if True:", "found.back)": "plan.before)"}, "overwrote a change"),
    (
        "a_deleted_target_ends_the_lease",
        {"with gone_is_drift(plan):": "if True:"},
        "must raise DriftError, not NotFound",
    ),
    ("apply_twice_is_once_and_reads_back", {"return Outcome(await": "return (await"}, "apply.. gives dict, no Outcome"),
    ("apply_twice_is_once_and_reads_back", {"Effect(found == plan.after, found)": "True"}, "verify.. gives bool, no"),
    ("plan_changes_nothing", {'"shave"': '"pause"'}, "TargetRate.'shave'., and `verbs` of the action has ..pause"),
    ("only_what_is_declared_is_called", {'"GET /keys/{key}", ': ""}, "`permissions` says"),
    ("a_configuration_refuses_unknown_keys_and_hides_secrets", {"token: SecretStr": "token: str"}, "make the field a"),
]


@pytest.mark.parametrize(("promise", "changes", "said"), WRONG_ACTIONS)
async def test_a_wrong_action_is_refused_by_a_promise(
    promise: str, changes: dict[str, str], said: str, install: Install
) -> None:
    if ".get_secret_value()" in blocks("write-an-action.md")["my_gateway.py"] and "token: SecretStr" in changes:
        changes = changes | {"of.token.get_secret_value()": "of.token"}
    bench: type[ActionBench] = install("write-an-action.md", changes).Bench
    with pytest.raises(AssertionError, match=said):
        await ACTION_PROMISES[promise](bench)


POST = 'await exchange(http, clock, "POST", url, timeout_s=self.config.timeout_s, headers=headers, data=body)'
WRONG_NOTIFIERS = [
    ("a_notice_whose_answer_got_lost_is_shown_once", {"notice.key": "id(object())"}, "shows 2 messages after a lost"),
    ("a_notice_is_found_and_edited", {'return ""': "return None"}, "send.. returns a reference"),
    ("500_is_transient", {POST: "await http.post(url, headers=headers, data=body)"}, "must raise TransientError"),
]


@pytest.mark.parametrize(("promise", "changes", "said"), WRONG_NOTIFIERS)
async def test_a_wrong_notifier_is_refused_by_a_promise(
    promise: str, changes: dict[str, str], said: str, install: Install
) -> None:
    bench: type[NotifierBench] = install("write-a-notifier.md", changes).Bench
    with pytest.raises(AssertionError, match=said):
        await NOTIFIER_PROMISES[promise](bench)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"def build(": "def make("}, "has no method build"),
        ({'Literal["my_gateway"]': 'Literal["other"]'}, r'needs the field kind: Literal\["my_gateway"\]'),
        ({"Config(RateConfig)": "Config(dict[str, str])"}, "is not a subclass of .*ActionConfig"),
        ({"class Config(": "class Settings("}, "cannot be imported"),
    ],
)
def test_a_wrong_config_is_refused_with_what_is_missing(changes: dict[str, str], said: str, install: Install) -> None:
    if "class Config(" in changes:
        changes = changes | {"config: Config,": "config: Settings,"}
    install("write-an-action.md", changes)
    with pytest.raises(KindError, match=said):
        ACTIONS.config("my_gateway")
    with pytest.raises(ConfigErrors, match=said):
        load_text(blocks("write-an-action.md")["example"])


def test_without_the_package_the_kind_is_unknown() -> None:
    with pytest.raises(KindError, match="unknown kind 'my_chat'; there are: alertmanager, apprise, console"):
        NOTIFIERS.config("my_chat")


CHECKED = [
    ("write-an-action.md", {"async def undo(": "async def undone("}, "actions.actions[0]", "has no method undo"),
    ("write-an-action.md", {"async def verify(": "async def check("}, "actions.actions[0]", "has no method verify"),
    ("write-an-action.md", {"    verbs:": "    words:"}, "actions.actions[0]", "does not declare verbs"),
    ("write-a-notifier.md", {"async def find(": "async def look("}, "actions.notifiers[0]", "has no method find"),
    ("write-a-notifier.md", {"async def send(": "async def post("}, "actions.notifiers[0]", "has no method send"),
]


@pytest.mark.parametrize(("page", "changes", "path", "said"), CHECKED)
def test_check_config_refuses_a_kind_without_a_method(
    page: str, changes: dict[str, str], path: str, said: str, install: Install, tmp_path: Path
) -> None:
    file = tmp_path / "curb.yaml"
    file.write_text(blocks(page)["example"], encoding="utf-8")
    install(page, changes)
    result = CliRunner().invoke(app, ["check-config", "-c", str(file)])
    assert result.exit_code == 2, result.output
    assert f"{path}: " in result.output
    assert said in result.output
    assert "Traceback" not in result.output
    config, clock, http = load_text(blocks(page)["example"]), ManualClock(0.0), cast(aiohttp.ClientSession, None)
    with pytest.raises(PermanentError, match=said):
        make_actions(config, MemoryLog(), clock, http)


@pytest.mark.parametrize("page", ["write-an-action.md", "write-a-notifier.md"])
def test_check_config_takes_a_kind_that_keeps_its_promises(page: str, install: Install, tmp_path: Path) -> None:
    file = tmp_path / "curb.yaml"
    file.write_text(blocks(page)["example"], encoding="utf-8")
    install(page)
    result = CliRunner().invoke(app, ["check-config", "-c", str(file)])
    assert result.exit_code == 0, result.output
