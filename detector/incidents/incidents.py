"""One incident, one alert: findings on a series open an alert, keep it up to date and end it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curb.detector.incidents.alert_budget import AlertBudget
from curb.detector.incidents.causes import rescaled
from curb.detector.incidents.feedback import subject_fingerprint
from curb.detector.incidents.fleet import OVER_RATIO, Open
from curb.detector.incidents.fleet import VARIANT as FLEET
from curb.detector.incidents.knowledge import Knowledge
from curb.detector.incidents.roots import found_at, roots
from curb.detector.incidents.sentence import Summary, incident
from curb.detector.state.bucket import ClosedBucket
from curb.detector.state.columns import Column, Columns
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Families, Finding
from curb.detector.state.scopes import Scope
from curb.detector.state.view import View
from curb.stream.records.revisions import alert_id_of, needs_revision, resolved, revised
from curb.stream.records.spend import TIER_RANK, Alert, Baseline, Cause, Tier
from curb.stream.settings import Settings
from curb.stream.time import HOUR_S

#: An excess that pauses for less than this is the same excess.
_PAUSE_S = 900


_SUMS = ("expected_usd", "actual_usd", "failed")


class RunningExcess:
    """The running excess of every series, and of its alert: an alert's goes on through any pause."""

    def __init__(self) -> None:
        self._columns = Columns(
            {
                #: Epoch seconds, -1: there is none.
                "since": Column(dtype=np.int64, fill=-1),
                **{name: Column() for name in _SUMS},
                #: The same of what runs now, whatever an alert said before.
                "run_since": Column(dtype=np.int64, fill=-1),
                **{f"run_{name}": Column() for name in _SUMS},
                "pause_s": Column(),
                "hourly": Column(),
            },
            64,
        )

    def follow(self, bucket: ClosedBucket, kept: Iterable[int]) -> None:
        """Count a closed bucket; the excess of the series in `kept` goes on through any pause."""
        self._columns.grow(len(bucket.cost))
        scores, state = bucket.scores, self._columns
        over = scores.rate > OVER_RATIO * scores.expected_fast
        added = (scores.expected_rate * bucket.hours, bucket.cost, bucket.amounts.errors)
        for run in ("", "run_"):
            since = state[f"{run}since"]
            since[over & (since < 0)] = bucket.start
            running = np.flatnonzero(since >= 0)
            for name, amount in zip(_SUMS, added, strict=True):
                state[run + name][running] += amount[running]
        state["pause_s"][...] = np.where(over, 0.0, state["pause_s"] + (bucket.end - bucket.start))
        ends = np.flatnonzero(state["pause_s"] >= _PAUSE_S)
        self._end("run_", ends)
        self._end("", np.setdiff1d(ends, np.fromiter(kept, np.intp), assume_unique=True))
        hourly, share = state["hourly"], min(1.0, (bucket.end - bucket.start) / HOUR_S)
        hourly += share * (bucket.cost / bucket.hours - scores.expected_rate - hourly)

    def _end(self, run: str, ends: NDArray[np.intp]) -> None:
        self._columns[f"{run}since"][ends] = -1
        for name in _SUMS:
            self._columns[run + name][ends] = 0.0

    def start(self, i: int, bucket: ClosedBucket, said_until: float | None = None) -> None:
        """An alert opens on series `i`: what it exceeds is counted from the running excess on, or from now.

        What an alert before it said until `said_until`, epoch seconds, is not said again.
        """
        state = self._columns
        if said_until is not None:
            ran = state["run_since"][i] >= said_until
            for name in ("since", *_SUMS):
                state[name][i] = state[f"run_{name}"][i] if ran else -1
        if state["since"][i] < 0:
            state["since"][i] = bucket.start
            state["expected_usd"][i] = bucket.scores.expected_rate[i] * bucket.hours
            state["actual_usd"][i] = bucket.cost[i]
            state["failed"][i] = bucket.amounts.errors[i]

    def since(self, i: int) -> float:
        """Start of the excess, epoch seconds."""
        return float(self._columns["since"][i])

    def sums(self, i: int) -> tuple[float, float]:
        """Expected and actual dollars since then."""
        return float(self._columns["expected_usd"][i]), float(self._columns["actual_usd"][i])

    def running_usd(self, i: int) -> float:
        """Dollars over the expected of what runs now, whatever an alert said before."""
        return float(self._columns["run_actual_usd"][i] - self._columns["run_expected_usd"][i])

    def failed(self, i: int) -> float:
        """Requests that failed since then."""
        return float(self._columns["failed"][i])

    def hourly(self, i: int) -> float:
        """Average of the last hour over the expected, $/h."""
        return float(self._columns["hourly"][i])

    def dump(self) -> dict[str, NDArray[Any]]:
        """What `load` takes."""
        return self._columns.dump("excess")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave; earlier versions counted no failures, and nothing beside an alert."""
        none = np.zeros_like(arrays["excess.actual_usd"])
        new = {f"excess.{name}": none for name in ("failed", *(f"run_{name}" for name in _SUMS))}
        new["excess.run_since"] = np.full_like(arrays["excess.since"], -1)
        self._columns.load("excess", {**new, **arrays})


_SECOND_AFTER_S, _SECOND_RATIO, _SECOND_USD_PER_HOUR = 8 * 3600.0, 4.0, 1.0
_OTHER_AFTER_S, _SLOW_AFTER_S, _OTHER_QUIET_S = 3 * 3600.0, 24 * 3600.0, 8 * 3600.0
#: Work that comes every night leaves a rule quiet for a day in between, and it is the same.
_SLOW_QUIET_S = 36 * 3600.0
_PEAK_S, _ECHO_SHARE = 3 * 3600.0, 0.25
_CALM_RATIO = 1.2
#: Times the dollars in the words of an alert at which it is said again. By hand: a fifth, and 13 times for tenfold.
_GROWN = 1.2


class AlertSettings(Settings):
    """When alerts update and end, and what the rules beside the score look for."""

    update_every_s: float = Field(
        default=300,
        gt=0,
        description="A firing alert is revised at least this often, and when its rate moves by 10 %.",
    )
    calm_usd_per_hour: float = Field(
        default=0.5, ge=0, description="A burn within 20 % plus this much of the expected one counts as calm."
    )
    calm_s: float = Field(default=15 * 60, gt=0, description="A finding ends after this long at a calm rate.")
    quiet_s: float = Field(default=60 * 60, gt=0, description="A finding ends after this long with a low score.")
    join_s: float = Field(
        default=24 * 3600, ge=0, description="What fires again within this time belongs to the old alert."
    )
    freeze_s: float = Field(
        default=48 * 3600, ge=0, description="How long a firing series does not learn; then this is its new normal."
    )
    adopt: bool = Field(
        default=True,
        description="Whether what fires for longer than `freeze_s` becomes normal by itself. If not, it fires until it "
        "is over or a person says that it is not an anomaly. Bills never do by themselves.",
    )
    budget: AlertBudget = Field(default=AlertBudget(), description="How many alerts of statistics are too many.")
    notice_at_risk_usd: float = Field(
        default=5,
        ge=0,
        description="A notice is worth this many dollars at risk until somebody sees it; below, it is a digest line.",
    )
    page_at_risk_usd: float = Field(
        default=10,
        ge=0,
        description="A page is worth this many dollars at risk until somebody answers; below, it is a notice. Of what "
        "statistics find only what waiting still costs counts: dollars that are gone wake nobody.",
    )
    response_notice_s: float = Field(default=8 * 3600, ge=0, description="Time until a person sees a notice.")
    response_page_s: float = Field(default=3600, ge=0, description="Time until a person answers a page.")


class Waste(NamedTuple):
    """Spend of which nothing is expected: dollars, since when (epoch seconds), and whether it goes on."""

    usd: float
    since: float
    goes_on: bool = True


class Said(NamedTuple):
    """What an alert says, beside its figures."""

    tier: Tier
    channel: str
    score: float
    words: str
    causes: Sequence[Cause] = ()
    waste: Waste | None = None


class Episode(msgspec.Struct):
    """An incident on one series: the newest revision of its alert, and what keeps it together."""

    alert: Alert
    opened_at: float
    #: When a rule last found something that belongs to it; later findings join for a while after.
    last_seen: float
    #: When each family of findings was last heard.
    families: dict[str, float]
    #: Highest hourly excess of its first hours, $/h.
    peak_usd_per_hour: float = 0.0
    quiet_s: float = 0.0
    calm_s: float = 0.0
    lasting: bool = False
    #: Dollars in the words of its newest revision, where no figure of the alert has them.
    counted_usd: float = 0.0
    #: Numbers of the principals that an alert on a sum stands for.
    members: set[int] = msgspec.field(default_factory=set)

    @property
    def firing(self) -> bool:
        return self.alert.status == "firing"


class Incidents:
    """At most one alert at a time for each series."""

    def __init__(
        self,
        settings: AlertSettings,
        registry: SeriesRegistry,
        scopes: Sequence[Scope],
        time_zone: str,
        families: Families,
        knowledge: Knowledge,
    ) -> None:
        self._settings, self._registry, self._scopes = settings, registry, scopes
        self._families, self._knowledge = families, knowledge
        self._zone = ZoneInfo(time_zone)
        self._billed = {scope.name for scope in scopes if scope.is_billed}
        self._episodes: dict[int, Episode] = {}
        self._excess = RunningExcess()

    @property
    def firing(self) -> list[Alert]:
        """Newest revisions of what fires now."""
        return [episode.alert for episode in self._episodes.values() if episode.firing]

    def open(self) -> dict[int, Open]:
        """What fires now, by series."""
        return {
            i: Open(each.alert.channel, each.opened_at, each.members)
            for i, each in self._episodes.items()
            if each.firing
        }

    def firing_mask(self, n: int) -> NDArray[np.bool_]:
        """Series with an alert that fires, of `n`, or that one on a sum stands for."""
        return self._mask(n, (each for i, e in self._episodes.items() if e.firing for each in (i, *e.members)))

    def frozen_mask(self, at: float, n: int) -> NDArray[np.bool_]:
        """Series that must not learn at `at`: an incident is no new normal, unless it lasts or people say so."""
        return self._mask(
            n, (each for i, e in self._episodes.items() if self._is_frozen(e, at) for each in (i, *e.members))
        )

    def _is_frozen(self, episode: Episode, at: float) -> bool:
        if episode.alert.tier == "digest":
            return False
        verdict = self._knowledge.verdict(episode.alert.alert_id)
        if verdict == "not_an_anomaly":
            return False
        stays = verdict == "real" or not self._settings.adopt
        return at - episode.opened_at < self._settings.freeze_s or (stays and episode.firing)

    @staticmethod
    def _mask(n: int, chosen: Iterable[int]) -> NDArray[np.bool_]:
        mask = np.zeros(n, np.bool_)
        for i in chosen:
            mask[i] = True
        return mask

    def close(
        self,
        view: View,
        findings: Sequence[Finding],
        baseline: BaselineOf,
        causes: CausesOf,
        spoken_for: Set[int] = frozenset(),
    ) -> list[Alert]:
        """New revisions after a bucket; `baseline` says what is normal for a series, `causes` where excess is from.

        What fires on the series in `spoken_for` ends: a wider alert goes on with it.
        """
        self._causes_of = causes
        self._excess.follow(view.bucket, self._episodes)
        self._forget_old(view.bucket.at)
        by_series: dict[int, list[Finding]] = {}
        for finding in findings:
            by_series.setdefault(self._subject(finding.series), []).append(finding)
        self._to_roots(by_series, view)
        revisions = [self._end(i, view.bucket.at) for i in sorted(spoken_for & self.open().keys())]
        for i in sorted({*by_series, *self._episodes}):
            revisions += self._next(i, by_series.get(i, []), view, baseline)
        return revisions

    def _subject(self, i: int) -> int:
        """A part of a whole that has an alert is not reported by itself, such as a node of a group that ran away."""
        above = self._registry.above(i)
        if above is None or self._registry["planned"][i]:
            return i
        episode = self._episodes.get(above)
        return above if episode is not None and episode.firing and episode.alert.tier != "digest" else i

    def _to_roots(self, by_series: dict[int, list[Finding]], view: View) -> None:
        """Many parts of one whole that are found at once are one incident of the whole."""
        opened = {i: e.opened_at for i, e in self._episodes.items() if e.firing and e.alert.tier != "digest"}
        found = found_at(by_series, opened, view.bucket.at)
        for child, root in roots(found, view, self._scopes).items():
            if child in by_series and child not in self._episodes:
                moved = [finding._replace(series=root, since=None) for finding in by_series.pop(child)]
                by_series.setdefault(root, []).extend(moved)

    def _forget_old(self, at: float) -> None:
        """Drop what ended too long ago for anything to join it, once its series may learn again."""
        for i, episode in list(self._episodes.items()):
            if episode.firing or at - episode.opened_at < self._settings.freeze_s:
                continue
            if at - episode.last_seen > self._settings.join_s:
                del self._episodes[i]

    def _next(self, i: int, found: list[Finding], view: View, baseline: BaselineOf) -> list[Alert]:
        episode, at = self._episodes.get(i), view.bucket.at
        if not found:
            return self._go_on(i, episode, view) if episode is not None and episode.firing else []
        found = [self._worth(finding, view) for finding in found]
        best = max(found, key=lambda finding: (TIER_RANK[finding.tier], finding.score))
        if episode is None:
            return [self._open(i, best, found, view, baseline)]
        joins = episode.firing or at - episode.last_seen <= self._settings.join_s
        outranks = episode.alert.tier == "digest" and best.tier != "digest"
        if not joins or outranks or self._is_another(i, episode, best, found, at):
            over = [resolved(episode.alert, at)] if episode.firing else []
            return [*over, self._open(i, best, found, view, baseline)]
        if best.tier == "digest" and not episode.firing and episode.alert.tier != "digest":
            return []  # a line for the digest brings nothing back that people know is over
        self._hear(i, episode, found, at)
        if episode.firing:
            return self._go_on(i, episode, view, best)
        if at - episode.last_seen > 0:
            return []  # an echo of what is over
        episode.quiet_s = episode.calm_s = 0.0
        alert = episode.alert
        figures = self._figures(i, view, self._said_again(alert, self._tier(alert.tier, best.tier), best))
        episode.alert = revised(episode.alert, at, status="firing", resolved_at=None, **figures)
        return [episode.alert]

    def _worth(self, finding: Finding, view: View) -> Finding:
        """The finding, at the tier that its dollars at risk are worth."""
        if not finding.family.by_worth:
            return finding
        settings, tier = self._settings, finding.tier
        if tier == "page" and self._at_risk(finding, tier, view) < settings.page_at_risk_usd:
            tier = "notice"
        if tier == "notice" and self._at_risk(finding, tier, view) < settings.notice_at_risk_usd:
            tier = "digest"
        return finding if tier == finding.tier else finding._replace(tier=tier)

    def _at_risk(self, finding: Finding, tier: Tier, view: View) -> float:
        """Dollars over the expected, so far (the rule's own count where that is more) and until somebody answers.

        Those that are gone wake nobody: a page of a statistic is worth what waiting for an answer still costs.
        """
        to_come = self._to_come(finding.series, tier, view)
        if tier == "page" and finding.family.statistic:
            return to_come
        return max(self._excess.running_usd(finding.series), finding.excess_usd or 0.0, 0.0) + to_come

    def _to_come(self, i: int, tier: Tier, view: View) -> float:
        """Dollars over the expected until somebody answers, at the present rate."""
        scores = view.bucket.scores
        return max(0.0, float(scores.rate[i] - scores.expected_fast[i])) * self._response_s(tier) / 3600

    def _response_s(self, tier: Tier) -> float:
        return self._settings.response_page_s if tier == "page" else self._settings.response_notice_s

    def _is_another(self, i: int, episode: Episode, best: Finding, found: list[Finding], at: float) -> bool:
        """Whether this is another incident than the open one: far larger, or of a kind not heard before."""
        if best.tier == "digest":
            return False
        # Growth is only reported: what must be stopped cannot be a later line of it.
        stops = best.tier == "page" and best.kind != "growth"
        if stops and episode.alert.kind == "growth" and episode.alert.tier != "page":
            return True
        age_s, rate = at - episode.opened_at, self._excess.hourly(i)
        if best.family.statistic:
            larger = rate > max(_SECOND_RATIO * episode.peak_usd_per_hour, _SECOND_USD_PER_HOUR)
            if age_s > _SECOND_AFTER_S and larger:
                return True
        for finding in found:
            if finding.family.statistic or finding.tier == "digest":
                continue
            after = _SLOW_AFTER_S if finding.family.slow else _OTHER_AFTER_S
            quiet_s = _SLOW_QUIET_S if finding.family.slow else _OTHER_QUIET_S
            heard = episode.families.get(finding.family.name)
            if age_s > after and (heard is None or (at - heard > quiet_s and not finding.family.lasting_state)):
                return True
        return False

    def _end(self, i: int, at: float) -> Alert:
        episode = self._episodes[i]
        episode.alert = resolved(episode.alert, at)
        return episode.alert

    def _hear(self, i: int, episode: Episode, found: list[Finding], at: float) -> None:
        rate = self._excess.hourly(i)
        if at - episode.opened_at <= _PEAK_S:
            episode.peak_usd_per_hour = max(episode.peak_usd_per_hour, rate)
        for finding in found:
            if finding.family.statistic and rate < _ECHO_SHARE * episode.peak_usd_per_hour:
                continue  # what long windows still remember
            episode.last_seen = at
            episode.families[finding.family.name] = at
            episode.lasting = episode.lasting or finding.lasting
            episode.members |= finding.members

    def _open(self, i: int, best: Finding, found: list[Finding], view: View, baseline: BaselineOf) -> Alert:
        at, before = view.bucket.at, self._episodes.get(i)
        notified = before is not None and before.alert.tier != "digest"
        self._excess.start(i, view.bucket, before.alert.resolved_at or at if before is not None and notified else None)
        scope, tags = self._registry.scopes[i], self._registry.tags[i]
        fingerprint = subject_fingerprint(best.kind, self._registry, i)
        waste = _waste(best)
        alert = Alert(
            fingerprint=fingerprint,
            alert_id=alert_id_of(fingerprint, at),
            revision=1,
            status="firing",
            kind=best.kind,
            scope=scope,
            tags=tags,
            fired_at=at,
            updated_at=at,
            started_at=self._excess.since(i) if waste is None else waste.since,
            baseline=baseline(i),
            **self._figures(i, view, Said(best.tier, best.channel, best.score, best.words, (), waste)),
        )
        episode = Episode(alert, opened_at=at, last_seen=at, families={}, lasting=best.lasting)
        self._episodes[i] = episode
        episode.peak_usd_per_hour = max(0.0, self._excess.hourly(i))
        self._hear(i, episode, found, at)
        return alert

    def _go_on(self, i: int, episode: Episode, view: View, best: Finding | None = None) -> list[Alert]:
        """Revise the alert where its figures moved; end it where it is over."""
        alert, at = episode.alert, view.bucket.at
        tier = alert.tier if best is None else self._tier(alert.tier, best.tier)
        if self._knowledge.silenced(alert.tags, at) is not None:
            tier = "digest"
        figures = self._figures(i, view, self._said_again(alert, tier, best))
        burning = self._is_burning(i, view)
        episode.quiet_s = 0.0 if best is not None and episode.last_seen == at else episode.quiet_s + view.step_s
        # What a rule still sees is not over because it costs no more than usual, such as calls that fail.
        seen = best is not None and not best.family.statistic and episode.last_seen == at
        episode.calm_s = 0.0 if burning or episode.lasting or seen else episode.calm_s + view.step_s
        quiet = episode.quiet_s >= self._settings.quiet_s and (self._settings.adopt or not burning)
        if quiet or episode.calm_s >= self._settings.calm_s:
            episode.alert = resolved(alert, at, **figures)
            return [episode.alert]
        changed = needs_revision(alert, at, figures["usd_per_hour"], self._settings.update_every_s)
        if best is not None and best.family.counts_in_words and best.channel == alert.channel:
            counted_usd, aged = best.excess_usd or 0.0, at - alert.updated_at >= self._settings.update_every_s
            changed = aged and counted_usd > _GROWN * episode.counted_usd
            episode.counted_usd = counted_usd if changed else episode.counted_usd
        if changed or tier != alert.tier:
            episode.alert = revised(alert, at, **figures)
            return [episode.alert]
        return []

    def _said_again(self, alert: Alert, tier: Tier, best: Finding | None) -> Said:
        """What a later revision says: the newest words where they raise the tier, count dollars or are of a fleet."""
        waste = None if best is None else _waste(best)
        newer = best is not None and (waste is not None or best.variant == FLEET or best.family.counts_in_words)
        if best is not None and (
            (tier != alert.tier and tier == best.tier) or (newer and best.channel == alert.channel)
        ):
            return Said(tier, best.channel, best.score, best.words, alert.causes, waste)
        if self._families.of(alert.channel).wastes and alert.expected_usd == 0:
            waste = Waste(alert.excess_usd, alert.started_at, goes_on=False)
        return Said(tier, alert.channel, alert.score, alert.reason, alert.causes, waste)

    @staticmethod
    def _tier(before: Tier, now: Tier) -> Tier:
        """A tier never falls while the alert fires."""
        return max(before, now, key=TIER_RANK.__getitem__)

    def _figures(self, i: int, view: View, said: Said) -> dict[str, Any]:
        scores = view.bucket.scores
        expected_usd, actual_usd = self._excess.sums(i)
        # A run may pause below what is expected, or a rule open without dollars over it: then nothing is over so far.
        excess_usd = max(0.0, actual_usd - expected_usd)
        rate, expected_rate = float(scores.rate[i]), float(scores.expected_fast[i])
        scope, tags, since = self._registry.scopes[i], self._registry.tags[i], self._excess.since(i)
        if said.waste is not None:
            excess_usd, since, goes_on = said.waste
            expected_usd, actual_usd = 0.0, excess_usd
            expected_rate = 0.0 if goes_on else rate
        at_risk = excess_usd + max(0.0, rate - expected_rate) * self._response_s(said.tier) / 3600
        known_days = max(0.0, (view.bucket.end - int(self._registry["first_seen"][i])) / 86400)
        family = self._families.of(said.channel)
        sure = family.sure(said.score, said.tier, known_days)
        causes = self._causes(i, view, said, excess_usd)
        known = self._knowledge.words(scope, tags, since, view.bucket.at)
        return {
            "tier": said.tier,
            "channel": said.channel,
            "score": said.score,
            "reason": said.words,
            "confidence": sure,
            "needs_warmup": family.needs_warmup,
            "causes": causes,
            "expected_usd": expected_usd,
            "actual_usd": actual_usd,
            "excess_usd": excess_usd,
            "usd_per_hour": rate,
            "expected_usd_per_hour": expected_rate,
            "requests_per_minute": view.bucket.requests_per_minute(i),
            "failed_requests": self._excess.failed(i),
            "dollars_at_risk": at_risk,
            "money": "billed" if scope in self._billed else "estimated",
            "explanation": incident(
                Summary(
                    scope, tags, rate, expected_rate, since, view.bucket.end, excess_usd, said.words, causes, at_risk,
                    sure, known, scope in self._billed,
                ),
                self._zone,
            ),
        }  # fmt: skip

    def _causes(self, i: int, view: View, said: Said, excess_usd: float) -> list[Cause]:
        """While it burns, where from; after that, where it came from."""
        if not said.causes or self._is_burning(i, view):
            return self._causes_of(i, excess_usd)
        return rescaled(said.causes, excess_usd)

    def _is_burning(self, i: int, view: View) -> bool:
        scores = view.bucket.scores
        expected = max(float(scores.expected_fast[i]), 0.0)
        return bool(scores.rate[i] > _CALM_RATIO * expected + self._settings.calm_usd_per_hour)

    def dump(self) -> tuple[dict[int, Episode], dict[str, NDArray[Any]]]:
        """What `load` takes."""
        return self._episodes, self._excess.dump()

    def load(self, episodes: Mapping[int, Episode], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `dump` gave."""
        self._episodes = dict(episodes)
        self._excess.load(arrays)


def _waste(finding: Finding) -> Waste | None:
    """What a finding wastes; None where the family does not waste, or the finding was moved to a group."""
    if not finding.family.wastes or finding.excess_usd is None or finding.since is None:
        return None
    return Waste(finding.excess_usd, finding.since)


class CausesOf(Protocol):
    """Where the excess of a series comes from."""

    def __call__(self, number: int, excess_usd: float) -> list[Cause]: ...


class BaselineOf(Protocol):
    """What is normal for a series."""

    def __call__(self, i: int) -> Baseline: ...
