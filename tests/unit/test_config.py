"""The configuration: every error at once with its path and a hint; secrets come in many ways and are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from curb.config.errors import ConfigErrors
from curb.config.file import FIGURE_PARTS, LOG_PARTS, CurbConfig, load_file, load_text


def errors_of(text: str) -> dict[str, str]:
    with pytest.raises(ConfigErrors) as raised:
        load_text(text)
    return {error.path: str(error) for error in raised.value.errors}


def test_an_empty_file_is_a_working_configuration() -> None:
    assert load_text("") == CurbConfig()
    assert load_text("").actions.mode == "shadow"


def test_six_errors_are_six_errors() -> None:
    found = errors_of(
        """
        log: {kind: embedded, retention_days: -1}
        http: {prot: 8088}
        connectors:
          - {kind: litelm, name: gateway}
          - {name: files}
        detector: {bucket_s: 7}
        actions: {mode: maybe}
        """
    )
    assert set(found) == {
        "log.retention_days",
        "http.prot",
        "connectors[0].kind",
        "connectors[1]",
        "detector.bucket_s",
        "actions.mode",
    }
    assert "did you mean `port`?" in found["http.prot"]
    assert "litellm" in found["connectors[0].kind"]


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    text = "http: {port: 1}\nlog:\n  directory: a\n  kind: embedded\n  directory: b\nhttp: {port: 2}\n"
    with pytest.raises(ConfigErrors) as raised:
        load_text(text)
    assert [error.message for error in raised.value.errors] == [
        "`http` is given twice, in line 1 and in line 6",
        "`directory` is given twice, in line 3 and in line 5",
    ]


def test_a_key_that_overrides_a_merged_one_is_no_duplicate() -> None:
    text = "http: {<<: {port: 1, host: localhost}, port: 2}\n"
    assert (load_text(text).http.port, load_text(text).http.host) == (2, "localhost")


def test_the_message_lists_all_of_them() -> None:
    with pytest.raises(ConfigErrors, match="2 errors in the configuration") as raised:
        load_text("{instance: 'a b', commit_interval_s: 0}")
    assert "instance:" in str(raised.value)
    assert "commit_interval_s:" in str(raised.value)


def test_secrets_come_from_the_environment_or_a_file_and_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURB_TEST_TOKEN", "from-env")
    (tmp_path / "token").write_text("from-file\n", encoding="utf-8")
    by_env = load_text("http: {token: '${CURB_TEST_TOKEN}'}")
    by_file = load_text(f"http: {{token_file: {tmp_path / 'token'}}}")
    assert by_env.http.token is not None
    assert by_env.http.token.get_secret_value() == "from-env"
    assert by_file.http.token is not None
    assert by_file.http.token.get_secret_value() == "from-file"
    assert "from-env" not in repr(by_env)


def test_a_secret_given_twice_or_from_nowhere_is_an_error(tmp_path: Path) -> None:
    found = errors_of(f"http: {{token: a, token_file: {tmp_path / 'missing'}}}")
    assert "not both" in found["http"]
    assert "cannot read" in errors_of(f"http: {{token_file: {tmp_path / 'missing'}}}")["http"]


def test_a_wrong_secret_is_not_quoted() -> None:
    assert "hunter2" not in str(errors_of("http: {token: [hunter2]}"))


def test_a_variable_that_is_not_set_is_an_error_unless_it_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CURB_TEST_UNSET", raising=False)
    assert "CURB_TEST_UNSET is not set" in errors_of("instance: ${CURB_TEST_UNSET}")["instance"]
    assert load_text("instance: ${CURB_TEST_UNSET:-here}").instance == "here"


def test_names_are_unique() -> None:
    text = "connectors: [{kind: litellm, name: a, token: long-token}, {kind: litellm, name: a, token: long-token}]"
    assert "used twice" in errors_of(text)["connectors[1].name"]


def test_a_route_to_nobody_is_an_error() -> None:
    found = errors_of("actions: {routes: [{notify: [nobody]}]}")
    assert "nobody" in "".join(found.values())


def test_a_matcher_that_can_match_nothing_is_an_error() -> None:
    found = errors_of("actions: {limits: {never_touch: [{env: prod}]}, routes: [{match: {tags: {colour: red}}}]}")
    assert set(found) == {"actions.limits.never_touch[0]", "actions.routes[0].match.tags"}
    assert "detector.scopes" in found["actions.limits.never_touch[0]"]


def test_the_embedded_log_needs_no_kind() -> None:
    assert load_text("log: {directory: here}").log.kind == "embedded"
    assert load_text("log: {bootstrap_servers: 'b:9092'}").log.kind == "kafka"


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list", "\t: tab"])
def test_what_is_not_a_mapping_is_one_clear_error(text: str) -> None:
    assert list(errors_of(text)) == [""]


def test_a_missing_file_says_where_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match=r"curb\.example\.yaml"):
        load_file(tmp_path / "none.yaml")


_OF_THE_DAEMON = """
log: {directory: data}
http: {port: 9000, token: "${UNSET_API}", tokens: [{name: a, token: "${UNSET_A}", roles: [read]}]}
connectors:
  - {kind: usage_jsonl, name: gw, token: "${UNSET_INGEST}"}
  - {kind: focus_file, name: bill, url: /none, storage: {secret_access_key_file: /none/key}}
actions:
  actions: [{kind: litellm_limits, name: limits, base_url: "${UNSET_URL}", api_key_file: /none/key}]
  notifiers: [{kind: slack, name: screen, token: "${UNSET_SLACK}", channel: C0123456789}]
  routes: [{notify: [screen], ladder: [{do: notify}, {do: shave_to_normal, act: [limits]}]}]
"""


@pytest.mark.parametrize("needs", [LOG_PARTS, FIGURE_PARTS])
def test_a_machine_without_the_secrets_reads_the_log(needs: frozenset[str]) -> None:
    config = load_text(_OF_THE_DAEMON, {}, needs=needs)
    assert str(getattr(config.log, "directory", "")) == "data"
    assert config.http.port == 9000
    whole = load_text(
        _OF_THE_DAEMON.replace("${UNSET_URL}", "http://a")
        .replace("api_key_file", "api_key")
        .replace("_key_file", "_key"),
        _Any(),
    )
    assert config.detector.scopes == whole.detector.scopes


class _Any(dict[str, str]):
    """An environment where every variable is set."""

    def get(self, name: str, default: object = None) -> str:  # type: ignore[override]
        return f"secret-of-{name}"


def test_what_a_command_needs_must_be_right() -> None:
    for text, needs, path in [
        ("log: {directory: '${UNSET_LOG}'}", LOG_PARTS, "log.directory"),
        ("log: {directry: a}", LOG_PARTS, "log.directry"),
        ("lgo: {directory: a}", LOG_PARTS, "lgo"),
        ("detector: {time_zone: '${UNSET_ZONE}'}", FIGURE_PARTS, "detector.time_zone"),
        (_OF_THE_DAEMON, None, "connectors[0].token"),
    ]:
        with pytest.raises(ConfigErrors) as raised:
            load_text(text, {}, needs=needs)
        assert path in {error.path for error in raised.value.errors}
    assert load_text("detector: {time_zone: '${UNSET_ZONE}'}", {}, needs=LOG_PARTS).detector == CurbConfig().detector


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "connectors: [{kind: usage_jsonl, name: c, token: '${UNSET_A}'}]",
            {"connectors[0].token": "environment variable UNSET_A is not set|export UNSET_A=... first"},
        ),
        (
            "http: {port: '${UNSET_A}', prot: 1}",
            {
                "http.port": "environment variable UNSET_A is not set|export UNSET_A=... first",
                "http.prot": "unknown key|did you mean `port`?",
            },
        ),
        (
            "detector: {rules: {day_one_cap: {usd_per_hou: 3, until_days: x}}}",
            {
                "detector.rules.day_one_cap.usd_per_hou": "unknown key|did you mean `usd_per_hour`?",
                "detector.rules.day_one_cap.until_days": "Input should be a valid number|",
            },
        ),
        ("detector: {rules: {day_one: {}}}", {"detector.rules.day_one": "unknown key|did you mean `day_one_cap`?"}),
        (
            "actions: {notifiers: [{kind: consol, name: c}], routes: [{notify: [c]}]}",
            {"actions.notifiers[0].kind": "unknown kind 'consol'; did you mean console?|"},
        ),
        (
            "actions: {notifiers: [{kind: slack, name: c}], routes: [{notify: [c]}]}\n"
            "attribution: {owners: [{match: {team: a}, team: a, slack_channel: C0123456789}]}",
            {"actions.notifiers[0].token": "is missing|add this key", "actions.notifiers[0].channel": "is missing|"},
        ),
        (
            "actions: {notifiers: [{kind: console, name: c}], routes: [{notify: c}]}",
            {"actions.routes[0].notify": "must be a list|write a list: [c]"},
        ),
        ("detector: {scopes: [{name: a}]}", {"detector.scopes[0].group_by": "is missing|add this key"}),
        ("http: {token: guessed}", {"http.token": "Value should have at least 8 items|"}),
        (
            "actions: {actions: [{kind: litellm_limits, name: a, base_url: 'http://gw:4000', api_key: k}], "
            "standing: [{name: s, act: a, match: {colour: red}}]}",
            {
                "actions.standing[0].match": "no scope has the tag colour, so this matches nothing|alerts carry",
            },
        ),
        (
            "actions: {actions: [{kind: litellm_limits, name: a, base_url: 'http://gw:4000', api_key: k, "
            "subject: team}], standing: [{name: s, act: a}]}",
            {"actions": "standing[0].by: 'a' finds its subject by the tag 'team', not by 'api_key'|"},
        ),
        ("detector: {scopes: []}", {"detector.scopes": "Tuple should have at least 1 item|"}),
    ],
)
def test_each_mistake_is_one_error_that_says_how_to_mend_it(text: str, said: dict[str, str]) -> None:
    with pytest.raises(ConfigErrors) as raised:
        load_text(text, {})
    found = {error.path: error for error in raised.value.errors}
    assert found.keys() == said.keys()
    assert len(found) == len(raised.value.errors)
    for path, words in said.items():
        message, hint = words.split("|")
        assert found[path].message.startswith(message)
        assert found[path].hint.startswith(hint)


@pytest.mark.parametrize("text", ["a: {amount_usd: ${AMT}}", "log:\n  x: [a, ${AMT}]", "a: {b: http://${AMT}/}"])
def test_a_variable_without_quotes_inside_brackets_is_a_hint(text: str) -> None:
    assert 'a variable needs quotes: "${AMT}"' in errors_of(text)[""]
    assert "check the indentation" in errors_of("a: {b: c, d")[""]


def test_a_secret_where_a_list_belongs_is_not_shown() -> None:
    text = "actions: {notifiers: [{kind: apprise, name: a, urls: hunter2}]}"
    assert "hunter2" not in str(errors_of(text))
