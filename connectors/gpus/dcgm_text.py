"""The text of dcgm-exporter's /metrics → samples, line by line, so that one bad line costs one line."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from curb.connectors.decode import Letters, Rejected
from curb.connectors.gpus.samples import METRICS, Sample
from curb.stream.errors import TransientError

#: A sample that carries a time of its own may differ so far from the clock, seconds.
MAX_SKEW_S = 300.0


def parse(text: bytes, *, letters: Letters, location: str, at: float) -> Sequence[Sample]:
    """The samples of the metrics that are read. What cannot be read goes to `letters`.

    Raises TransientError for a text that is cut off or has no such sample: what is missing in it is not known.
    """
    if text and not text.endswith(b"\n"):
        raise TransientError(f"{location}: the metrics are cut off")
    samples: list[Sample] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.startswith(_WANTED):
            sample = _sample(line, at)
            if isinstance(sample, Sample):
                samples.append(sample)
            else:
                letters.add(sample, location=f"{location}:{number}", content=line)
    if not samples:
        raise TransientError(f"{location}: no DCGM metric in the answer ({', '.join(METRICS)})")
    return samples


_WANTED = tuple(name.encode() + brace for name in METRICS for brace in (b"{", b" "))


def _sample(line: bytes, at: float) -> Sample | Rejected:
    try:
        families = list(text_string_to_metric_families(line.decode("utf-8") + "\n"))
        found = families[0].samples[0]
    except UnicodeDecodeError as error:
        return Rejected("not_utf8", f"invalid UTF-8 at byte {error.start}")
    except (ValueError, IndexError, KeyError):
        return Rejected("invalid", "a line that is no metric")
    if found.timestamp is not None:
        skew = float(found.timestamp) - at
        if skew > MAX_SKEW_S:
            return Rejected("in_the_future", f"its time is {skew:.0f} s ahead")
        if skew < -MAX_SKEW_S:
            return Rejected("too_old", f"its time is {-skew:.0f} s ago")
    return Sample(found.name, found.labels, found.value)
