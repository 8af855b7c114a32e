"""Feedback applied to findings: silenced and planned ones become digest lines, doubted ones need a higher score."""

from __future__ import annotations

from collections.abc import Sequence, Set

from curb.detector.incidents.knowledge import RISE, Knowledge
from curb.detector.state.registry import SeriesRegistry
from curb.detector.state.rule import Finding
from curb.stream.records.revisions import fingerprint_of


def subject_fingerprint(kind: str, registry: SeriesRegistry, i: int) -> str:
    """The identity of alerts of one kind on one series."""
    return fingerprint_of(kind, registry.scopes[i], sorted(registry.tags[i].items()))


def with_feedback(
    findings: Sequence[Finding], knowledge: Knowledge, registry: SeriesRegistry, at: float, notice_threshold: float
) -> list[Finding]:
    """The findings after feedback; `notice_threshold` is the score that a statistic nobody doubted must reach."""
    if not findings or not knowledge.has_opinions:
        return [finding for finding in findings if not finding.recurring]
    rises, real = knowledge.rises(at), knowledge.real_fingerprints()
    result = []
    for finding in findings:
        fingerprint = subject_fingerprint(finding.kind, registry, finding.series)
        if finding.recurring and not _called_real(finding, real, registry):
            continue
        quiet = knowledge.silenced(registry.tags[finding.series], at) is not None
        quiet |= knowledge.excused_until(fingerprint) > at
        rise = rises.get(fingerprint, 0.0)
        if rise > 0:
            # A rule's score is a multiple of its limit: one verdict asks for twice the limit.
            needed = notice_threshold + rise if finding.family.statistic else 1 + rise / RISE
            quiet |= finding.score < needed
        result.append(finding._replace(tier="digest") if quiet else finding)
    return result


def _called_real(finding: Finding, real: Set[str], registry: SeriesRegistry) -> bool:
    """Under either name: whether a burn is called abusive differs from one time to the next."""
    return any(subject_fingerprint(kind, registry, finding.series) in real for kind in ("runaway", "abusive"))
