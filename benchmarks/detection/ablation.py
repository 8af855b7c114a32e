"""What each part of the detector adds: the shipped defaults beside themselves without it, on the same streams.

Run `python -m benchmarks.detection.ablation --data DIR --seeds 84-85`. Each ablation is a name and the settings it
changes; `--patches FILE` reads others from YAML: `name: {dotted.path: value}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.detection.bars import FIGURES, Figure, mean
from benchmarks.detection.measure import Result, patched
from benchmarks.detection.run import jobs, measured, overrides, parser
from curb.detector.heads.demand import UnexplainedHead
from curb.detector.heads.past_findings import PastRule
from curb.detector.rules.table import RULES, path_of
from curb.detector.settings import DetectorSettings
from curb.detector.state.rule import Rule, RuleConfig

SHIPPED = "as shipped"


def _switched(rule: type[Rule], config: RuleConfig) -> tuple[str, dict[str, Any]]:
    """The name of the ablation of one rule, and the setting that it changes."""
    how, note = ("without", "") if config.enabled else ("with", " (off by default)")
    return f"{how} {rule.part}{note}", {f"{path_of(rule)}.enabled": not config.enabled}


#: Settings by dotted path from the detector's that switch a part off (or on), by what differs then.
ABLATIONS: dict[str, dict[str, Any]] = dict(
    _switched(rule, config) for rule in RULES if isinstance(config := rule.config(), RuleConfig)
) | {
    f"without {PastRule.part}": {f"{path_of(PastRule)}.{tier}_threshold": 1e6 for tier in ("digest", "notice", "page")},
    "without holding for ten minutes": {f"{path_of(rule)}.hold_minutes": 1 for rule in (PastRule, UnexplainedHead)},
    "without the freeze during incidents": {"alerts.freeze_s": 0.0},
    "without joining what fires again": {"alerts.join_s": 0.0},
}
_FIGURES = tuple(figure for figure in FIGURES if figure.name != "CPU s")


def checked(patches: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Patches that change something. Raises KeyError and ValueError, as `patched` does, before anything runs."""
    for name, changes in patches.items():
        if patched(DetectorSettings(), changes) == DetectorSettings():
            raise ValueError(f"ablation {name!r} changes nothing")
    return {name: dict(changes) for name, changes in patches.items()}


def ablation_table(variant: str, by_name: Mapping[str, Sequence[Result]]) -> Table:
    """A line per ablation, the mean over seeds; what differs from the shipped is bold."""
    table = Table("", *(figure.name for figure in _FIGURES), title=f"{variant}: what each part adds")
    shipped = list(by_name[SHIPPED])
    for name, results in by_name.items():
        cells = [_cell(figure, list(results), shipped) for figure in _FIGURES]
        table.add_row(name, *cells, end_section=name == SHIPPED)
    return table


def _cell(figure: Figure, results: list[Result], shipped: list[Result]) -> str:
    value, usual = mean(figure, results), mean(figure, shipped)
    if value is None or usual is None:
        return "–"
    shown = format(value, figure.form)
    return shown if format(usual, figure.form) == shown or results is shipped else f"[bold]{shown}[/]"


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.prog = "python -m benchmarks.detection.ablation"
    made.add_argument("--patches", type=Path, help="YAML with other ablations than the usual ones")
    made.add_argument("--only", help="comma-separated: parts of names of ablations to run")
    made.add_argument("--json", type=Path, help="write all figures here")
    arguments = made.parse_args(argv)
    patches = ABLATIONS if arguments.patches is None else yaml.safe_load(arguments.patches.read_text(encoding="utf-8"))
    if arguments.only:
        wanted = arguments.only.split(",")
        patches = {name: changes for name, changes in patches.items() if any(part in name for part in wanted)}
    base, changes = overrides(arguments.set), {SHIPPED: {}, **checked(patches)}
    plain = jobs(arguments)
    todo = [replace(job, name=name, overrides={**base, **patch}) for name, patch in changes.items() for job in plain]
    console = Console(width=None if Console().is_terminal else 150)
    results = measured(todo, arguments.jobs, console)
    figures = []
    for variant in dict.fromkeys(job.variant for job in plain):
        by_name = {
            name: [result for result in results if (result.job.name, result.job.variant) == (name, variant)]
            for name in changes
        }
        console.print(ablation_table(variant, by_name))
        figures += [
            {"variant": variant, "without": name} | {figure.name: mean(figure, some) for figure in _FIGURES}
            for name, some in by_name.items()
        ]
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
