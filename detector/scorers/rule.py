"""The rule that turns what configured scorers find, such as River's detectors, into findings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.scorers.bank import ScorerBank
from curb.detector.scorers.protocol import ScorerSettings
from curb.detector.state.rule import NOT_MEASURED, Family, Finding, Rule, RuleContext
from curb.detector.state.view import View
from curb.stream.log.codec import encode

logger = logging.getLogger(__name__)


class ScorerRule(Rule):
    """Findings of one configured scorer."""

    config = ScorerSettings
    settings_at = "scorers"

    def __init__(self, config: ScorerSettings, context: RuleContext) -> None:
        self._settings, self._bank = config, ScorerBank(config, context.step_s)
        self.name = f"scorer.{config.name}"
        self.families = (Family(f"scorer-{config.name}", NOT_MEASURED),)

    def close(self, view: View) -> list[Finding]:
        """Findings of kind runaway, in the tier the scorer is configured with."""
        registry = view.registry

        def name_of(i: int) -> str:
            return f"{registry.scopes[i]}: {encode(registry.tags[i]).decode()}"

        found = self._bank.close(view.start, view.bucket.amounts._asdict(), registry.scopes, name_of, view.bucket.gap)
        return [
            Finding(
                series=each.series,
                family=self.families[0],
                kind="runaway",
                tier=self._settings.tier,
                score=each.score,
                words=f"{each.metric.replace('_', ' ')} of {each.value:,.6g}/h, usually {each.usual:,.6g}/h, "
                f"says scorer {self._settings.name}",
            )
            for each in found
        ]

    def dump(self) -> dict[str, NDArray[Any]]:
        return {"bank": np.frombuffer(self._bank.dump(), np.uint8)}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load what `dump` gave; models of another version learn again from nothing, and the log says so."""
        why = self._bank.load(arrays["bank"].tobytes())
        if why:
            logger.warning("scorer learns again from nothing", extra={"scorer": self._settings.name, "reason": why})
