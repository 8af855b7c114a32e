"""`curb init` without a network: answers, amounts, the text of the file, and that it is written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from curb.actions.levers.litellm_keys import GatewayKey, KeyList
from curb.cli.init import command
from curb.cli.init.answers import Answers, WrongAnswerError, checked
from curb.cli.init.file_text import Draft, file_text
from curb.cli.init.proposal import propose, rounded_up
from curb.cli.init.spend import PastSpend
from curb.cli.main import app
from curb.config.file import load_text, variables
from curb.connectors.pricing.book import shipped_book
from curb.detector.budgets.rows import matches
from curb.detector.rules.caps import Config as CapConfig
from curb.detector.state.scopes import DEFAULT_SCOPES
from curb.serve.next_steps import next_steps
from curb.wiring import make_attribution
from tests.fakes.spend import T0, usage

HOSTILE = ["a\nmode: auto", "${HOME}", '"]}', "*", "ü 🙂 \x85\x07", "yes", "  - x: y # z"]
LITELLM = Answers(gateway="litellm", litellm_url="http://localhost:4000")


def spend(*calls: tuple[float, str, str, float]) -> PastSpend:
    """Calls as (hours after T0, team, key, dollars)."""
    found = PastSpend()
    found.add([usage("r", T0 + 3600 * hour, usd, key=key, tags={"team": team}) for hour, team, key, usd in calls])
    return found


def text_of(answers: Answers = LITELLM, past: PastSpend | None = None, keys: KeyList | None = None) -> str:
    return file_text(Draft(answers, propose(past, answers.monthly_usd), keys, "2026-11-30"))


def loaded(text: str) -> Any:
    return load_text(text, dict.fromkeys(variables(text), "json://localhost"))


def run(directory: Path, *arguments: str, input: str | None = None, **environment: str) -> Result:
    variables = {"COLUMNS": "200", "CURB_CONFIG": str(directory / "curb.yaml"), **environment}
    runner = CliRunner(env=variables)
    return runner.invoke(app, ["init", "--log-dir", str(directory / "data"), *arguments], input=input)


@pytest.fixture(autouse=True)
def one_price_book(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes longer than all else."""
    monkeypatch.setattr(command, "load_prices", lambda settings: shipped_book())


# --- amounts ----------------------------------------------------------------------------------------------------------


def test_amounts_follow_the_spend_of_the_last_days() -> None:
    seen = spend((0, "search", "k1", 4.0), (1, "search", "k1", 6.0), (30, "ads", "k2", 2.0), (48, "ads", "k2", 8.0))
    found = propose(seen, None)
    # $20 in two days: $10 a day, 31 days, a third more. A key's most expensive hour is $8, its day $10, the day $10.
    assert found.fleet_month_usd == 500.0
    assert (found.fleet_day_usd, found.key_day_usd, found.key_hour_usd) == (20.0, 20.0, 20.0)
    assert [(each.team, each.amount_usd) for each in found.teams] == [("search", 300.0), ("ads", 300.0)]
    assert "2 keys within 2.0 days" in found.source


def test_a_known_budget_is_taken_as_it_is() -> None:
    assert propose(spend((0, "search", "k1", 4.0)), 77.0).fleet_month_usd == 77.0
    found = propose(None, 3100.0)
    assert (found.fleet_month_usd, found.fleet_day_usd, found.key_day_usd) == (3100.0, 300.0, 150.0)


def test_without_spend_the_figures_are_safe_and_say_so() -> None:
    found = propose(PastSpend(), None)
    assert found.fleet_month_usd == 1000.0
    assert found.key_hour_usd <= CapConfig().usd_per_hour
    assert "no spend could be read" in found.source


def test_costs_that_are_no_numbers_count_as_nothing() -> None:
    assert spend((0, "search", "k1", float("nan")), (0, "search", "k1", 2.0)).usd == 2.0


@pytest.mark.parametrize(
    ("amount", "expected"), [(0, 5), (5, 5), (5.01, 6), (31, 40), (99, 100), (100, 100), (101, 150)]
)
def test_figures_are_round(amount: float, expected: float) -> None:
    assert rounded_up(amount) == expected


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        LITELLM,
        Answers(gateway="litellm", litellm_url="https://llm.example.com/proxy", slack="bot", slack_env="SLACK_BOT",
                slack_channel="C0123456789"),
        Answers(gateway="file", usage_file="/var/log/usage*.jsonl"),
        Answers(gateway="otlp", kafka="a:9092,b:9092", time_zone="Europe/Berlin"),
        Answers(gateway="other", monthly_usd=5000),
        Answers(gateway="none"),
    ],
    ids=lambda each: each.gateway,
)  # fmt: skip
def test_the_file_loads_and_is_in_shadow_mode(answers: Answers) -> None:
    config = loaded(text_of(answers, spend((0, "search", "k1", 4.0))))
    assert config.actions.mode == "shadow"
    budgets = {budget.name: budget.hard for budget in config.detector.budgets}
    assert budgets.items() >= {"fleet-month": False, "fleet-day": False, "each-key-day": True}.items()
    acting = [kind for route in config.actions.routes if route.act for kind in route.match.kind]
    assert ("budget" in acting) == (answers.gateway == "litellm"), "a key that has spent its cap is throttled"
    assert (config.http.host == "0.0.0.0") == answers.is_remote == (config.http.token is not None)
    assert [each.kind for each in config.actions.notifiers][-1] == "console"
    assert config.log.kind == ("kafka" if answers.kafka else "embedded")


def test_over_partitions_the_fleet_is_one_series() -> None:
    config = loaded(text_of(replace(LITELLM, kafka="a:9092"), spend((0, "search", "k1", 4.0))))
    *usual, fleet = config.detector.scopes
    assert tuple(usual) == DEFAULT_SCOPES
    record = usage("r", T0, tags={"team": "ads"})
    tags = make_attribution(config).verdict(record, "litellm").tags
    assert fleet.series(tags) == (("fleet", "all"),)
    budgets = {each.name: each for each in config.detector.budgets}
    assert (budgets["fleet-day"].scope, budgets["fleet-day"].shared) == ("fleet", False)


def test_secrets_stay_references() -> None:
    text = text_of(LITELLM)
    assert variables(text) == ["CURB_LITELLM_TOKEN", "CURB_LITELLM_KEY"]
    assert "token: ${CURB_LITELLM_TOKEN}" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_other_people_are_data(name: str) -> None:
    keys = KeyList([GatewayKey("h", name, {}, False, 0.0, False)], 1)
    past = spend((0, name, "k1", 4.0))
    text = text_of(LITELLM, past, keys)
    config = loaded(text)
    assert config.actions.mode == "shadow"
    assert variables(text) == ["CURB_LITELLM_TOKEN", "CURB_LITELLM_KEY"]
    (budget,) = [each for each in config.detector.budgets if each.match]
    assert matches(budget.match, {"team": name})
    assert not matches(budget.match, {"team": "another"})


def test_teams_with_alike_names_get_different_budgets() -> None:
    config = loaded(text_of(LITELLM, spend((0, "A b", "k1", 4.0), (0, "a-B", "k2", 3.0), (0, "?", "k3", 2.0))))
    names = [each.name for each in config.detector.budgets if each.match]
    assert names == ["team-a-b-month", "team-a-b-month-1", "team-unnamed-month"]


def test_keys_without_a_limit_are_named() -> None:
    free = GatewayKey("h1", "batch-bot", {}, False, 3.0, False)
    held = GatewayKey("h2", "chat", {"max_budget": 50.0}, False, 3.0, False)
    text = text_of(LITELLM, None, KeyList([free, held, free._replace(in_unseen_tier=True, name="tiered")], 3))
    assert "# The gateway has 3 keys; 1 of 3 read have no limit of their own." in text
    assert "# Without a limit: batch-bot." in text
    assert "# 1 have a budget at the gateway, $50.00 together." in text


def test_senders_on_other_machines_see_a_name_for_this_one() -> None:
    remote = loaded(text_of(Answers(gateway="litellm", litellm_url="http://litellm:4000")))
    steps = {each.command: each.what for each in next_steps(remote, running=True)}
    assert "http://THIS-MACHINE:8088/v1/ingest/litellm" in steps
    assert steps["http://127.0.0.1:8088/"] == "look at the page, and sign in with the token"
    assert "curb backfill -c curb.yaml --days 30" in steps
    (first, *_) = next_steps(loaded(text_of(Answers(gateway="otlp"))), running=False, path="my.yaml")
    assert first.command == "curb run -c my.yaml"


def test_the_token_is_the_variable_that_the_configuration_names() -> None:
    text = "connectors: [{kind: focus_file, name: bill, url: /bill}, {kind: usage_jsonl, name: gw, token: %s}]"
    for token, shown in (("'${CURB_GW_TOKEN}'", "$CURB_GW_TOKEN"), ("long-enough", "$TOKEN")):
        config = load_text(text % token, {"CURB_GW_TOKEN": "long-enough"})
        assert any(f'"Authorization: Bearer {shown}"' in each.command for each in next_steps(config, running=True))


@pytest.mark.parametrize(
    ("answers", "step"),
    [
        (Answers(gateway="otlp"), "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:8088/v1/ingest/otel"),
        (Answers(gateway="other"), "--data-binary @usage.jsonl http://127.0.0.1:8088/v1/ingest/gateway"),
        (Answers(gateway="none"), "docs/reference/configuration.md"),
        (Answers(gateway="file", usage_file="u.jsonl"), "curb connectors check gateway"),
    ],
)
def test_every_gateway_has_its_steps(answers: Answers, step: str) -> None:
    assert any(step in each.command for each in next_steps(loaded(text_of(answers)), running=True))


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        Answers(gateway="litellm", litellm_url="http://user:planted-secret@litellm:4000"),
        Answers(gateway="litellm", litellm_url="http://litellm:4000/?key=planted-secret"),
        Answers(gateway="litellm", litellm_url="ftp://planted-secret"),
        Answers(gateway="litellm", litellm_url="http://litellm:4000", litellm_key_env="sk-planted-secret"),
        Answers(slack="webhook", slack_env="https://hooks.slack.com/planted-secret"),
        Answers(slack="bot", slack_env="A_TOKEN", slack_channel="planted-secret"),
        Answers(kafka="planted-secret"),
        Answers(gateway="file"),
        Answers(monthly_usd=-1.0),
        Answers(time_zone="Mars/Base"),
    ],
)
def test_wrong_answers_are_refused_without_being_repeated(answers: Answers) -> None:
    with pytest.raises(WrongAnswerError) as refused:
        checked(answers)
    assert "planted-secret" not in str(refused.value)


# --- the command ------------------------------------------------------------------------------------------------------


def test_with_yes_nothing_is_asked(tmp_path: Path) -> None:
    result = run(tmp_path, "--yes")
    assert result.exit_code == 0, result.output
    for text in ("curb.yaml: ok", "CURB_INGEST_TOKEN=$(openssl rand -hex 24)", "http://127.0.0.1:8088/", "at once"):
        assert text in result.output
    path = tmp_path / "curb.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert loaded(path.read_text(encoding="utf-8")).connectors[0].name == "gateway"
    assert [each.name for each in tmp_path.iterdir()] == ["curb.yaml"]


@pytest.mark.parametrize("known", [{}, {"CURB_LITELLM_URL": "http://localhost:4000"}])
def test_a_usage_file_alone_chooses_files(tmp_path: Path, known: dict[str, str]) -> None:
    done = run(tmp_path, "--yes", "--usage-file", "/x/*.jsonl", "--port", "9099", **known)
    assert done.exit_code == 0, done.output
    config = loaded((tmp_path / "curb.yaml").read_text())
    assert [(each.kind, str(each.path)) for each in config.connectors] == [("usage_jsonl", "/x/*.jsonl")]
    assert config.http.port == 9099


def test_questions_fill_in_what_no_flag_says(tmp_path: Path) -> None:
    result = run(tmp_path, input="otlp\nbot\nSLACK_BOT\nC0123456789\n$2,500\nn\n")
    assert result.exit_code == 0, result.output
    config = loaded((tmp_path / "curb.yaml").read_text(encoding="utf-8"))
    assert [each.kind for each in config.connectors] == ["otel_genai"]
    assert config.detector.budgets[0].amount_usd == 2500
    assert config.actions.notifiers[0].kind == "slack"


def test_an_existing_file_stays_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "curb.yaml"
    path.write_text("mine", encoding="utf-8")
    refused = run(tmp_path, "--yes")
    assert (refused.exit_code, path.read_text(encoding="utf-8")) == (2, "mine")
    assert "--force" in refused.output
    assert run(tmp_path, "--yes", "--force").exit_code == 0
    assert path.read_text(encoding="utf-8") != "mine"


def test_json_is_one_object(tmp_path: Path) -> None:
    result = run(tmp_path, "--yes", "--json", "--monthly-usd", "3100")
    found = json.loads(result.stdout)
    assert (found["mode"], found["proposal"]["fleet_month_usd"]) == ("shadow", 3100.0)
    assert found["missing_variables"] == ["CURB_INGEST_TOKEN"]
    assert found["next_steps"][1]["command"].startswith("curb run -c ")
    assert found["judged"][0]["after"] == "at once"
    assert run(tmp_path, "--json", "--force").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--gateway", "smtp"], "must be one of: litellm, file, otlp, other, none"),
        (["--gateway", "file"], "--usage-file is needed"),
        (["--gateway", "other", "--usage-file", "u"], "--usage-file means nothing here, as the gateway is other"),
        (["--gateway", "file", "--usage-file", "u", "--litellm-url", "http://l"], "--litellm-url means nothing here"),
        (["--usage-file", "u", "--litellm-key-env", "KEY"], "--litellm-key-env means nothing here"),
        (["--slack-env", "HOOK"], "--slack-env means nothing here, as --slack is none"),
        (["--gateway", "litellm", "--litellm-url", "nowhere"], "--litellm-url must be like"),
        (["--slack", "bot"], "--slack-channel must be"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path, arguments: list[str], why: str) -> None:
    result = run(tmp_path, "--yes", *arguments)
    assert result.exit_code == 2
    assert why in result.output
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_questions_without_an_answer_end_it(tmp_path: Path) -> None:
    result = run(tmp_path, input="otlp\n")
    assert (result.exit_code, list(tmp_path.iterdir())) == (130, [])
    assert "interrupted, nothing was written" in result.output


@pytest.mark.parametrize("at", ["look_at_gateway", "look_at_log"])
def test_an_interruption_leaves_nothing(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, at, interrupted)
    assert run(tmp_path, "--yes").exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_while_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curb.yaml"
    path.write_text("mine", encoding="utf-8")

    def interrupted(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        command.write_whole(path, "half", overwrite=True)
    assert [(each.name, each.read_text(encoding="utf-8")) for each in tmp_path.iterdir()] == [("curb.yaml", "mine")]


def test_a_place_that_cannot_hold_the_log_is_a_failed_test(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file", encoding="utf-8")
    result = run(tmp_path, "--yes")
    assert result.exit_code == 1
    assert "FAIL keep the log in" in result.output
    assert (tmp_path / "curb.yaml").exists()
