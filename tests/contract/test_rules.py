"""Every rule keeps the promises of a rule; a wrong one is refused with a sentence that says what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from curb.detector.judge import make_rules
from curb.detector.rules import table
from curb.detector.rules.failing_requests import ERRORS
from curb.detector.rules.table import RULES
from curb.detector.settings import DetectorSettings
from curb.detector.state.columns import Column, Columns
from curb.detector.state.rule import NOT_MEASURED, Confidence, Docs, Family, Finding, Rule, RuleConfig, RuleContext
from curb.detector.state.view import View
from curb.testing.rules import Row, faults, ordinary, usage
from tests.house.tree import ROOT

HOWTO = (ROOT / "docs" / "howto" / "write-a-rule.md").read_text(encoding="utf-8")
LINE = Docs("mine", "what is mine", "now", "digest")
MINE = Family("mine", NOT_MEASURED, LINE)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_rule_keeps_its_promises(rule: type[Rule]) -> None:
    assert faults(rule) == []


class Counts(Rule):
    """Sound: a digest line while a principal has had more than a thousand requests in a bucket."""

    name, part = "mine", "what is mine"
    families = (MINE,)

    def __init__(self, config: RuleConfig, context: RuleContext) -> None:
        self.state = Columns({"buckets": Column()}, 64)

    def close(self, view: View) -> Sequence[Finding]:
        subjects = view.principals
        self.state.grow(len(subjects.index))
        self.state["buckets"][...] += subjects.amounts.requests > 1000
        rows = np.flatnonzero((subjects.amounts.requests > 1000) & (self.state["buckets"] > 100))
        return [self.found(int(subjects.index[row]), float(self.state["buckets"][row])) for row in rows.tolist()]

    def found(self, series: int, score: float) -> Finding:
        return Finding(series, self.families[0], "growth", "digest", score, "many requests")

    def dump(self) -> dict[str, Any]:
        return self.state.dump("mine")

    def load(self, arrays: Mapping[str, Any]) -> None:
        self.state.load("mine", arrays)


def many(start: int) -> list[Row]:
    return [usage(requests=2000.0)]


class Nameless(Counts):
    name = ""


class Unset(Rule):
    part, families = "what is mine", (MINE,)

    def __init__(self, config: Any, context: RuleContext) -> None:
        self.at = config.at

    def close(self, view: View) -> Sequence[Finding]:
        return []


class WithoutSettings(Unset):
    name = "mine"


class WithoutClose(Rule):
    name, part, families = "mine", "what is mine", (MINE,)

    def __init__(self, config: RuleConfig, context: RuleContext) -> None: ...


class WithoutPart(Counts):
    part = ""


class OddConfig(Counts):
    config: Any = dict


class Loud(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, score)._replace(tier=cast(Any, "loud"))


class UnknownKind(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, score)._replace(kind=cast(Any, "verbosity"))


class Written(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, score)._replace(score=cast(Any, "high"))


class Configless(Counts):
    def close(self, view: View) -> Sequence[Finding]:
        return [self.found(0, cast(Any, RuleConfig()).limit)]


class Silent(Counts):
    def close(self, view: View) -> Sequence[Finding]:
        super().close(view)
        return cast(Any, None)


class Bare(Counts):
    families = cast(Any, MINE)


class WithoutConfidence(Counts):
    families = (replace(MINE, confidence=Confidence(((1.0, 0.7),))),)


class WithoutDocs(Counts):
    families = (Family("mine", NOT_MEASURED),)


class Taken(Counts):
    families = (replace(MINE, name=ERRORS.name),)


class SameName(Counts):
    name = RULES[1].name


class Misplaced(Counts):
    settings_at = "principals.mine"


class Forgetful(Counts):
    def dump(self) -> dict[str, Any]:
        return {}

    def load(self, arrays: Mapping[str, Any]) -> None:
        return


class Random(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, float(np.random.default_rng().random()))


class Undeclared(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, score)._replace(family=ERRORS)


class Wordless(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, score)._replace(words="")


class Endless(Counts):
    def found(self, series: int, score: float) -> Finding:
        return super().found(series, float("inf"))


class Changes(Counts):
    def close(self, view: View) -> Sequence[Finding]:
        view.bucket.amounts.cost[...] += 1.0
        return super().close(view)


class Noisy(Counts):
    def close(self, view: View) -> Sequence[Finding]:
        super().close(view)
        return [self.found(0, 1.0)]


class Hoards(Counts):
    def close(self, view: View) -> Sequence[Finding]:
        found = super().close(view)
        self.kept = np.append(getattr(self, "kept", np.zeros(100)), np.zeros(100))
        return found

    def dump(self) -> dict[str, Any]:
        return {**super().dump(), "kept": self.kept}

    def load(self, arrays: Mapping[str, Any]) -> None:
        super().load(arrays)
        self.kept = np.array(arrays["kept"])


def test_a_sound_rule_has_no_faults() -> None:
    assert faults(Counts, rows=many) == []
    (found,) = faults(Counts, rows=ordinary)
    assert found.startswith("it finds nothing in the rows that were made for it: four days")


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (Nameless, "name is missing"),
        (Unset, "name is missing"),
        (WithoutSettings, "`config` of the class names its settings"),
        (WithoutClose, "close is missing"),
        (WithoutPart, "part is missing"),
        (OddConfig, "config is no Settings"),
        (Loud, "the tier 'loud': it must be one of page, notice, digest, soft"),
        (UnknownKind, "the kind 'verbosity': it must be one of runaway, abusive, unit_cost"),
        (Written, "the score 'high', which is no number"),
        (Configless, "Configless.close fails: 'RuleConfig' object has no attribute 'limit'"),
        (Silent, "Silent.close gives None, no list of Finding"),
        (Bare, "Bare.families is no tuple of Family"),
        (WithoutConfidence, "has no confidence"),
        (WithoutDocs, "has no docs line"),
        (Taken, "channel errors is declared twice"),
        (SameName, "is another rule's"),
        (Misplaced, "there is no principals.mine"),
        (Forgetful, "does not survive dump and load"),
        (Random, "is not deterministic"),
        (Undeclared, "does not declare"),
        (Wordless, "has no words"),
        (Endless, "has the score inf"),
        (Changes, "changes the amounts"),
        (Noisy, "in a steady"),
        (Hoards, "state grows with time"),
    ],
)
def test_a_wrong_rule_is_refused(rule: type[Rule], why: str) -> None:
    found = faults(rule, rows=many)
    assert len(found) == 1, found
    assert why in found[0]


def test_a_rule_of_the_table_is_made_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RULES", (*RULES, Counts))
    assert isinstance(make_rules(DetectorSettings())[-1], Counts)
    off = DetectorSettings.model_validate({"rules": {"mine": {"enabled": False}}})
    assert not isinstance(make_rules(off)[-1], Counts)
    with pytest.raises(ValueError, match=r"mine\.enabeld: Extra inputs"):
        DetectorSettings.model_validate({"rules": {"mine": {"enabeld": False}}})
    with pytest.raises(ValueError, match=r"no rule 'other' is set here; there are: .*mine"):
        DetectorSettings.model_validate({"rules": {"other": {}}})
    with pytest.raises(ValueError, match="must be a mapping"):
        DetectorSettings.model_validate({"rules": ["mine"]})


def test_the_how_to_shows_a_sound_rule_of_at_most_40_lines() -> None:
    example, check = re.findall(r"```python\n(.*?)```", HOWTO, re.S)
    assert len([line for line in example.splitlines() if line.strip()]) <= 40
    module: dict[str, Any] = {"__name__": "curb.detector.rules.long_answers"}
    exec(example + check, module)
    assert module["faults"](module["LongAnswers"]) == []
    row = "| " + " | ".join(module["LONG_ANSWERS"].docs) + " |"
    assert row.count("|") == 5
