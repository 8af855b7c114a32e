"""How well the population model tells abuse from growth on labelled streams, and other ways of doing it beside it.

Run as `python -m benchmarks.detection.population STREAM...`; each STREAM is a directory with events, labels and truth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.principal_hours import Label, Principal, Stream, due_step, labels, load, trailing
from curb.detector.rules.abuse import Config as PopulationConfig
from curb.detector.rules.abuse import Population, Use, features

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ABUSE = frozenset({"agent_loop", "fanout", "leaked_key", "retry_storm"})
GROWTH = frozenset({"launch_day", "new_tenant", "nightly_batch", "month_end", "backfill"})
#: An alert is due when a label has cost this much and lasted so long.
DUE_USD, DUE_MINUTES = 5.0, 30
_FROZEN_HOURS, _WARMUP_HOURS = 24, 72
#: A burst of nobody's making: the last hour over 3 times that of the day before it, and over $2.
_BURST_RATIO, _BURST_USD = 3.0, 2.0


class Model(Protocol):
    """Learns hours of all principals and scores them; more is more unusual."""

    def score(self, use: Use, at_hour: int) -> Floats: ...
    def learn(self, use: Use, at_hour: int, frozen: Bools) -> None: ...


class Changes:
    """The shipped model."""

    def __init__(self, count: int) -> None:
        self._population = Population(PopulationConfig())
        self._population.grow(count)

    def score(self, use: Use, at_hour: int) -> Floats:
        """Length of the vector of changes."""
        return self._population.judge(use).score

    def learn(self, use: Use, at_hour: int, frozen: Bools) -> None:
        """One hour."""
        self._population.learn(use, frozen)

    def distance(self, use: Use) -> Floats:
        """The changes themselves, with the two flags; shape (features, N)."""
        return np.vstack([self._population.judge(use).distance, 3 * use.new_model, 3 * use.new_region])


def absolute(use: Use, at_hour: int) -> Floats:
    """What a principal does, whoever it is; shape (features, N)."""
    value, known = features(use, 5)
    angle = 2 * np.pi * (at_hour % 24) / 24
    flags = np.vstack([use.new_model, use.new_region])
    hour = np.full_like(flags, 0.0) + np.array([[np.sin(angle)], [np.cos(angle)]])
    return np.vstack([np.log1p(use.requests), np.where(known, value, 0.0), flags, hour])


class River:
    """HalfSpaceTrees behind a MinMaxScaler, one for the whole population."""

    def __init__(self, rows: Callable[[Use, int], Floats], learn_before: Changes | None = None) -> None:
        from river import anomaly, preprocessing

        self._model = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=25, window_size=1000, seed=1)
        self._rows, self._before = rows, learn_before

    def score(self, use: Use, at_hour: int) -> Floats:
        """HalfSpaceTrees' own score of every principal."""
        rows = self._rows(use, at_hour).T
        return np.array([self._model.score_one(dict(enumerate(row.tolist()))) for row in rows], np.float64)

    def learn(self, use: Use, at_hour: int, frozen: Bools) -> None:
        """Every principal that did something is one observation."""
        for row in self._rows(use, at_hour)[:, (use.requests >= 5) & ~frozen].T:
            self._model.learn_one(dict(enumerate(row.tolist())))
        if self._before is not None:
            self._before.learn(use, at_hour, frozen)


class Mahalanobis:
    """Distance from the population's mean in its own covariance, over a week of hours."""

    def __init__(self, rows: Callable[[Use, int], Floats], learn_before: Changes | None = None) -> None:
        self._rows, self._before = rows, learn_before
        self._kept: list[Floats] = []

    def score(self, use: Use, at_hour: int) -> Floats:
        """0 until a day is known."""
        rows = self._rows(use, at_hour)
        if len(self._kept) < 24:
            return np.zeros(rows.shape[1])
        past = np.hstack(self._kept)
        covariance = np.cov(past) + 1e-3 * np.eye(len(past))
        centred = rows - past.mean(axis=1, keepdims=True)
        return np.sqrt(np.einsum("fn,fg,gn->n", centred, np.linalg.inv(covariance), centred))

    def learn(self, use: Use, at_hour: int, frozen: Bools) -> None:
        """Keeps a week."""
        self._kept = [*self._kept[-167:], self._rows(use, at_hour)[:, (use.requests >= 5) & ~frozen]]
        if self._before is not None:
            self._before.learn(use, at_hour, frozen)


class Forest(Mahalanobis):
    """Isolation forest over a week of hours, planted anew each day."""

    _trees, _sample, _depth = 60, 256, 8
    _planted: list[list[tuple[int, float]]] | None = None

    def score(self, use: Use, at_hour: int) -> Floats:
        """Depth at which a principal is alone, averaged over the trees; shallow is unusual."""
        rows = self._rows(use, at_hour)
        if len(self._kept) < 24:
            return np.zeros(rows.shape[1])
        past = np.hstack(self._kept)
        rng = np.random.default_rng(len(self._kept))
        sizes = [past[:, rng.integers(past.shape[1], size=self._sample)] for _ in range(self._trees)]
        depth = np.mean([self._alone(sample, rows, rng) for sample in sizes], axis=0)
        return np.asarray(-depth, np.float64)

    def _alone(self, sample: Floats, rows: Floats, rng: np.random.Generator) -> Floats:
        depth = np.zeros(rows.shape[1])
        parts = [(sample, np.arange(rows.shape[1]), 0)]
        while parts:
            past, who, level = parts.pop()
            spread = np.flatnonzero(np.ptp(past, axis=1) > 0) if past.shape[1] > 1 else np.array([], int)
            if level == self._depth or not len(spread) or not len(who):
                depth[who] = level + 2 * np.log(max(past.shape[1], 1))
                continue
            f = int(rng.choice(spread))
            cut = rng.uniform(past[f].min(), past[f].max())
            parts.append((past[:, past[f] < cut], who[rows[f, who] < cut], level + 1))
            parts.append((past[:, past[f] >= cut], who[rows[f, who] >= cut], level + 1))
        return depth


def models(count: int) -> dict[str, Model]:
    """Every way, fresh, for a population of `count`."""
    first, second, third = Changes(count), Changes(count), Changes(count)
    return {
        "changes (shipped)": Changes(count),
        "HalfSpaceTrees, what it does": River(absolute),
        "HalfSpaceTrees, what changed": River(lambda use, _: first.distance(use), first),
        "Mahalanobis, what it does": Mahalanobis(absolute),
        "Mahalanobis, what changed": Mahalanobis(lambda use, _: second.distance(use), second),
        "isolation forest, what it does": Forest(absolute),
        "isolation forest, what changed": Forest(lambda use, _: third.distance(use), third),
    }


@dataclass
class Scored:
    """Scores of one model: of labels by kind when their alert was due, and of bursts nobody planted."""

    labels: list[tuple[str, float]]
    bursts: list[float]

    def of(self, kinds: frozenset[str]) -> Floats:
        """Scores of the labels of these kinds."""
        return np.array([score for kind, score in self.labels if kind in kinds])


def area(more: Floats, less: Floats) -> float:
    """Area under the curve: how often one of `more` scores over one of `less`; ties count half."""
    if not len(more) or not len(less):
        return float("nan")
    over, same = more[:, None] > less[None], more[:, None] == less[None]
    return float((over + 0.5 * same).mean())


def without_users(stream: Stream) -> Stream:
    """The source does not know how many people there are."""
    sums = stream.sums.copy()
    sums[3] = 0.0
    return replace(stream, sums=sums)


def without_jobs(stream: Stream) -> Stream:
    """Jobs carry no tag: their rows are the key's own."""
    keys = sorted({who.key for who in stream.principals})
    to = np.array([keys.index(who.key) for who in stream.principals])

    def merge(values: Floats) -> Floats:
        merged = np.zeros((*values.shape[:-2], len(keys), values.shape[-1]))
        for i, k in enumerate(to.tolist()):
            merged[..., k, :] += values[..., i, :]
        return merged

    new_model, new_region = merge(stream.new_model_usd), merge(stream.new_region_usd)
    principals = [Principal(key, "") for key in keys]
    return Stream(stream.start, stream.step_s, principals, merge(stream.sums), new_model, new_region)


def noisy_users(stream: Stream) -> Stream:
    """The number of people is off by a slowly wandering factor: sd .35, four hours."""
    rng = np.random.default_rng(5)
    sums = stream.sums.copy()
    keep = float(np.exp(-stream.step_s / (4 * 3600)))
    noise = rng.normal(0, 0.35, sums.shape[1])
    for step in range(sums.shape[2]):
        noise = keep * noise + np.sqrt(1 - keep**2) * rng.normal(0, 0.35, len(noise))
        sums[3, :, step] *= np.exp(noise)
    return replace(stream, sums=sums)


VARIANTS: Mapping[str, Callable[[Stream], Stream]] = {
    "as it is": lambda stream: stream,
    "no users": without_users,
    "noisy users": noisy_users,
    "no job tags": without_jobs,
}


def evaluate(stream: Stream, wanted: Sequence[Label], only_first: bool) -> dict[str, Scored]:
    """Walk through the stream hour by hour: score with what was known, then learn."""
    hour = 3600 // stream.step_s
    number = {who: i for i, who in enumerate(stream.principals)}
    place = {
        label.id: number.get(label.principal, number.get(Principal(label.principal.key, ""), 0)) for label in wanted
    }
    labelled = np.zeros(stream.sums.shape[1:], np.bool_)
    due: dict[int, list[Label]] = {}
    for label in wanted:
        labelled[place[label.id], label.steps[0] : label.steps[-1] + hour] = True
        due.setdefault(due_step(label, DUE_USD, DUE_MINUTES * 60 // stream.step_s), []).append(label)
    each = dict(list(models(len(number)).items())[: 1 if only_first else None])
    result = {name: Scored([], []) for name in each}
    frozen_until = np.zeros(len(number), int)
    for step, use, burst in _hours(stream, due):
        at_hour = (step + 1) // hour
        fired = np.flatnonzero(burst & ~labelled[:, step])
        for name, model in each.items():
            if step in due or len(fired):
                score = model.score(use, at_hour)
                result[name].labels += [(label.kind, float(score[place[label.id]])) for label in due.get(step, ())]
                result[name].bursts += score[fired].tolist()
        for label in due.get(step, ()):
            if label.incident:
                frozen_until[place[label.id]] = step + _FROZEN_HOURS * hour
        if (step + 1) % hour == 0:
            for model in each.values():
                model.learn(use, at_hour, frozen_until > step)
    return result


def _hours(stream: Stream, due: Mapping[int, object]) -> Iterator[tuple[int, Use, Bools]]:
    """The steps that end an hour or have a label due: the last hour's use, and who bursts (at hour ends only)."""
    hour = 3600 // stream.step_s
    last_hour = trailing(stream.sums, hour)
    day_mean = trailing(stream.sums[0], 24 * hour) / 24
    new_model, new_region = trailing(stream.new_model_usd, hour), trailing(stream.new_region_usd, hour)
    job = np.array([bool(who.job) for who in stream.principals])
    for step in range(hour - 1, stream.sums.shape[2]):
        ends = (step + 1) % hour == 0
        if not ends and step not in due:
            continue
        cost, requests, errors, users, tokens_in, tokens_out = last_hour[:, :, step]
        usd = np.maximum(cost, 1e-9)
        use = Use(
            cost,
            requests,
            errors,
            users,
            tokens_in,
            tokens_out,
            new_model[:, step] / usd,
            new_region[:, step] / usd,
            job,
        )
        burst = (cost > _BURST_RATIO * day_mean[:, step - hour]) & (cost > _BURST_USD)
        yield step, use, burst & (ends and step > _WARMUP_HOURS * hour)


def main(directories: Sequence[str]) -> None:
    """Print one table: rows are variants of the streams and models."""
    threshold = PopulationConfig().abusive_threshold
    print("| stream | model | AUC to growth | AUC to bursts | abuse named | growth named | bursts named |")
    print("|---|---|---|---|---|---|---|")
    read = [(stream, labels(Path(each), stream)) for each in directories for stream in [load(Path(each))]]
    for variant, change in VARIANTS.items():
        total: dict[str, Scored] = {}
        for stream, wanted in read:
            for name, scored in evaluate(change(stream), wanted, only_first=variant != "as it is").items():
                held = total.setdefault(name, Scored([], []))
                held.labels += scored.labels
                held.bursts += scored.bursts
        for name, scored in total.items():
            abuse, growth, bursts = scored.of(ABUSE), scored.of(GROWTH), np.array(scored.bursts)
            row = f"| {variant} | {name} | {area(abuse, growth):.3f} | {area(abuse, bursts):.3f} |"
            if name.startswith("changes"):
                named = [f"{int((part >= threshold).sum())} of {len(part)}" for part in (abuse, growth, bursts)]
                print(row, " | ".join(named), "|")
            else:
                print(row, "– | – | – |")


if __name__ == "__main__":
    main(sys.argv[1:])
