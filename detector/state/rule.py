"""The seam of rules: what a rule declares, what it is asked, and what it answers: findings on series, by family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from curb.detector.state.columns import Bools, Parts
from curb.detector.state.view import View
from curb.stream.records.spend import AlertKind, Tier
from curb.stream.settings import Settings

#: Share of digest lines that were of interest: three in 22, on the tuning streams, 2026-11-21.
_DIGEST_SHARE = 0.15
#: A rule that judges by a series' own past is worth this share of its confidence at the birth of the series, and all
#: of it after so many days. Chosen by hand, not measured.
_NEWBORN_SHARE, _SETTLED_DAYS = 0.5, 3.0


@dataclass(frozen=True)
class Confidence:
    """The share of alerts at a score that turned out to be of interest, between the points by straight lines."""

    #: (score, share), by rising score; none where nobody measured them.
    points: tuple[tuple[float, float], ...]
    #: How, when and on which streams it was measured.
    measured: str = ""


#: How they were measured, on streams that no threshold was chosen on: of base, nousers, noisyusers, hard and clean.
MEASURED = "(right + 1) / (all + 2) of 12 to 104 alerts, seeds 321 to 323, benchmarks.detection.confidence, 2026-11-30"
#: The same of too few alerts there, on the streams that the thresholds were chosen on: they flatter a little.
TUNING_STREAMS = "(right + 1) / (all + 2) of 3 to 30 alerts, tuning streams, 2026-11-21"
#: For a rule whose alerts nobody counted: they say nothing about how sure they are.
NOT_MEASURED = Confidence(())


class Docs(NamedTuple):
    """A line of the table of rules in docs/explain/how-detection-works.md."""

    title: str
    finds: str
    when: str
    tiers: str


@dataclass(frozen=True)
class Family:
    """Findings of one family are about the same trouble. All that others need to know of them stands here."""

    #: What alerts carry as their channel, up to the "/".
    name: str
    confidence: Confidence
    #: None for a rule that people configure themselves, such as a watched metric.
    docs: Docs | None = None
    #: Judged against the past of the series itself, so that a young series makes it less sure.
    by_past: bool = False
    #: Measures a burn, on the scale of the heads; other families know for certain what they saw.
    statistic: bool = False
    #: Looks at days: a first finding within a day belongs to the incident that is open.
    slow: bool = False
    #: Says how a series is, not what it does: found again it is never another incident.
    lasting_state: bool = False
    #: Whether actions wait until the series is known for their warm-up; False where a short past is what is found.
    needs_warmup: bool = True
    #: Whether its tiers also need dollars at risk; False for what is about data, or has limits in dollars of its own.
    by_worth: bool = True
    #: All that the subject spends while it is found is waste, so nothing of it is expected: its findings count the
    #: dollars (`excess_usd`) and say since when (`since`).
    wastes: bool = False
    #: Its words hold dollars so far, which no figure of the alert has: a later revision has the newest words.
    counts_in_words: bool = False

    def sure(self, score: float, tier: Tier, known_days: float) -> float:
        """The confidence of an alert, 0 to 1, rising with the score: of ten alerts at 0.9, nine are of interest. 0 says
        that nobody measured it."""
        if not self.confidence.points:
            return 0.0
        scores, shares = zip(*self.confidence.points, strict=True)
        found = float(np.interp(score if np.isfinite(score) else scores[0], scores, shares))
        if self.by_past:
            found *= _NEWBORN_SHARE + (1 - _NEWBORN_SHARE) * min(1.0, max(0.0, known_days) / _SETTLED_DAYS)
        return min(found, _DIGEST_SHARE) if tier == "digest" else found


class Families:
    """The families of all rules by their name, also of rules that are off: their alerts may still fire."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._by_name = {family.name: family for family in families}

    def of(self, channel: str) -> Family:
        """The family of an alert's channel; a name that no rule declares any more is not measured."""
        name = channel.split("/", 1)[0]
        return self._by_name.get(name, Family(name, NOT_MEASURED))


class Finding(NamedTuple):
    """One rule's finding on one series at one bucket; it is repeated for as long as it holds."""

    series: int
    family: Family
    kind: AlertKind
    tier: Tier
    #: Comparable within a family only.
    score: float
    #: What was seen and why it counts, a clause that goes on after "who burns $x/h": "12 requests per user ...".
    words: str
    #: Dollars over the expected that the rule itself counts; None where the running excess of the series is meant.
    excess_usd: float | None = None
    #: The rule reports a state that may last at a low burn (a growth, an idle machine): calm spend does not end it.
    lasting: bool = False
    #: It came at the same time on earlier days: not notified, unless people call it real.
    recurring: bool = False
    #: The window or the case within the family, such as "30min"; "" for none.
    variant: str = ""
    #: When it began, epoch seconds; None where the running excess of the series says it.
    since: float | None = None
    #: Where many principals have the same at once, its cause is outside of them (an outage, a price, a release); it is
    #: looked for by what the trouble is made of. "" for what is each one's own.
    shared_by: Literal["", "errors", "usd"] = ""
    #: The principals that a finding on a sum stands for.
    members: Set[int] = frozenset()

    @property
    def channel(self) -> str:
        """What the alert carries: "new_model", "unexplained/30min"."""
        return f"{self.family.name}/{self.variant}" if self.variant else self.family.name


class RuleConfig(Settings):
    """Settings of a rule that can be switched off."""

    enabled: bool = Field(default=True, description="Whether the rule is on.")


class RuleContext(NamedTuple):
    """What a rule may know beside its own settings."""

    #: Length of a bucket in seconds; it divides an hour.
    step_s: int
    #: Name of the business time zone: days and weeks follow it.
    time_zone: str = "UTC"
    #: Seconds; in a younger stream everything is new, so that nothing is.
    warmup_s: float = 3 * 86400.0
    #: A burn within 20 % plus this much of the expected one counts as calm, $/h.
    calm_usd_per_hour: float = 0.5
    #: Scopes of bills alone, whose words are of days.
    billed: frozenset[str] = frozenset()


class Rule(Parts, ABC):
    """Judges every bucket with what it knew before, then learns from it.

    Pure: no clock, no input or output, no chance; the same buckets give the same findings, and a rule that was loaded
    from a dump goes on to the bit. `curb.testing.rules` checks all of this. State that is neither in `parts` nor among
    the `moments` needs an own `dump` and `load`, which extend these.
    """

    #: Unique; the state of the rule is saved under it.
    name: str
    #: What it looks at, in few words: "error rates".
    part: str = ""
    #: What it finds; a channel belongs to one rule.
    families: tuple[Family, ...] = ()
    #: Its settings, and where they stand below `detector` in the configuration: by default at `rules.NAME`.
    config: ClassVar[type[Settings]] = RuleConfig
    settings_at: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, config: Any, context: RuleContext) -> None: ...

    @abstractmethod
    def close(self, view: View) -> Sequence[Finding]:
        """Judge a closed bucket. In a gap (`view.bucket.gap`) nothing is known and nothing is learned."""

    def name_kinds(self, view: View, findings: Sequence[Finding]) -> Sequence[Finding]:
        """The findings of all rules, of which this one may say that they are of another kind."""
        return findings

    def forget(self, view: View, over: Bools) -> None:
        """Incidents of the series in `over`, of shape (all series,), ended: take their spend out of the windows."""
        return
