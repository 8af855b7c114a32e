"""The settings of `curb tune` on one's own history, in a notebook."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from curb.evaluate.tune import Bench, JudgedAlert, TriedSetting, TunePoint, measure, prepare
from curb.export import export
from curb.lab.history import History, wait_for


def tried_settings(
    history: History,
    factors: Sequence[dict[str, float]] = (),
    *,
    per_shape: int = 2,
    seed: int = 1,
    minutes: float = 10,
) -> tuple[Bench, list[TriedSetting]]:
    """Back-test the current setting and others on the log, as it is and with injected incidents.

    `factors` are multiples of the current floors (`floors`) and dollars at risk (`notice`, `page`), such as
    `{"floors": 0.4}`; none: those of `curb tune`. The first result is the current setting. Two back-tests a setting;
    what does not fit into `minutes` is left out. Raises TooShortError.
    """
    with TemporaryDirectory(prefix="curb-lab-") as directory:
        path = Path(directory) / "events.jsonl"
        with path.open("wb") as file:
            wait_for(export(history.config, (-math.inf, math.inf), {}, file))
        begun = time.perf_counter()
        judged = judged_alerts(history)
        bench = prepare(path, history.config.detector, per_shape=per_shape, seed=seed, minutes=minutes, judged=judged)
        if factors:
            current = TunePoint.of(history.config.detector)
            bench.points = list(dict.fromkeys([current, *(current.scaled(**each) for each in factors)]))
        return bench, list(measure(bench, begun + minutes * 60, lambda done: None))


def judged_alerts(history: History) -> list[JudgedAlert]:
    """Alerts with a person's verdict, as the search takes them."""
    found = (JudgedAlert.of(each.alert, each.verdict) for each in history.alerts)
    return [each for each in found if each is not None]
