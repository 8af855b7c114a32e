"""The window of ids: exact over runs and files, kept for its time, consistent with the snapshot of a crash."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curb.detector.rollup import dedupe
from curb.detector.rollup.dedupe import DedupeSettings, RecentIds, SavedIds, hashes_of
from curb.detector.rollup.rollup import Rollup
from curb.detector.settings import DetectorSettings
from curb.stream import metrics
from curb.stream.log.topics import USAGE
from tests.fakes.spend import T0, message, usage

HOUR = 3600


def seen(ids: RecentIds, names: list[str], at: float) -> list[bool]:
    """Which of the names were known, as the rollup asks."""
    if ids.is_due(at):
        ids.begin_slice(at)
    ids.offer(len(names))
    new = ids.first_seen(names)
    return [False] * len(names) if new is None else (~new).tolist()


def again(ids: RecentIds, name: str, directory: Path | None, at: float, **settings: float) -> RecentIds:
    """What a process that starts from the snapshot of `ids` has."""
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(ids.dump()), type=SavedIds)
    found = RecentIds(DedupeSettings(**settings), name, directory)
    found.load(saved, at)
    return found


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "_YOUNG_IDS", 64)


@given(st.lists(st.text(max_size=90), min_size=1, max_size=20))
def test_a_hash_is_the_same_whatever_stands_beside(names: list[str]) -> None:
    assert hashes_of(names).tolist() == [int(hashes_of([name])[0]) for name in names]


def test_ids_that_look_alike_have_different_hashes() -> None:
    names = [f"call-{at:08d}" for at in range(300_000)] + [f"{at:x}" for at in range(300_000)]
    names += ["x" * 64 + f"{at}" for at in range(1000)] + [f"é{at}" for at in range(1000)]
    assert len(np.unique(hashes_of(names))) == len(set(names))


@pytest.mark.usefixtures("small_runs")
@given(st.integers(0, 10**6), st.booleans())
def test_what_is_new_is_new_and_what_is_in_the_window_is_known(seed: int, restarts: bool) -> None:
    """Beside a dictionary that forgets nothing, over many slices and merged runs."""
    rng, settings = random.Random(seed), {"window_s": HOUR, "min_ids": 0}
    ids, last, at = RecentIds(DedupeSettings(**settings)), dict[str, float](), float(T0)
    for number in range(120):
        at += rng.choice([0, 1, 60, 200])
        names = [f"{number}-{n}" for n in range(rng.randrange(1, 60))]
        names += rng.choices(list(last), k=rng.randrange(5)) if last else []
        rng.shuffle(names)
        known, first = seen(ids, names, at), set[str]()
        for name, is_known in zip(names, known, strict=True):
            if name in first or (name in last and at - last[name] <= HOUR):
                assert is_known
            elif name not in last:
                assert not is_known
            first.add(name)
        last |= dict.fromkeys(names, at)
        if restarts and number % 40 == 39:
            ids = again(ids, "", None, at, **settings)
    assert len(ids) < 120 * 64


@pytest.mark.usefixtures("small_runs")
def test_a_backfill_that_goes_back_six_hours_counts_nothing_twice(tmp_path: Path) -> None:
    ids = RecentIds(DedupeSettings(min_ids=0), "in/0", tmp_path)
    for minute in range(12 * 60):
        assert not any(seen(ids, [f"{minute}-{n}" for n in range(20)], T0 + 60.0 * minute))
    sent_again = [f"{minute}-{n}" for minute in range(6 * 60, 12 * 60) for n in range(20)]
    assert all(seen(ids, sent_again, T0 + 60.0 * 719))
    assert not any(seen(ids, [f"{minute}-0" for minute in range(4 * 60)], T0 + 60.0 * 719))
    assert ids.window_s(T0 + 60.0 * 719) == 6 * HOUR


@pytest.mark.usefixtures("small_runs")
def test_months_of_little_traffic_are_few_slices(tmp_path: Path) -> None:
    """Each slice costs every look-up: one an hour would be 9,000 in a year."""
    ids = RecentIds(DedupeSettings(min_ids=600), "in/0", tmp_path)
    hours = 1000
    for hour in range(hours):
        assert not any(seen(ids, [f"{hour}-{number}" for number in range(2)], hour * HOUR))
    slices = ids.dump().slices
    assert len(slices) < 30
    assert sum(len(each.runs) for each in slices) < 40
    assert all(seen(ids, [f"{hours - back}-1" for back in range(1, 299)], hours * HOUR))
    assert ids.window_s(hours * HOUR) == DedupeSettings().window_s


def test_a_crash_goes_back_to_the_ids_of_its_snapshot(tmp_path: Path) -> None:
    ids = RecentIds(DedupeSettings(min_ids=0), "in/0", tmp_path)
    for minute in range(300):
        seen(ids, [f"{minute}-{n}" for n in range(20)], T0 + 60.0 * minute)
    at = T0 + 60.0 * 300
    restored = again(ids, "in/0", tmp_path, at, min_ids=0)
    for minute in range(300, 400):  # runs are sealed and merged behind the snapshot, then the process dies
        seen(ids, [f"{minute}-{n}" for n in range(20)], T0 + 60.0 * minute)
    assert all(seen(restored, [f"{minute}-{n}" for minute in range(300) for n in range(20)], at))
    assert not any(seen(restored, [f"{minute}-{n}" for minute in range(300, 400) for n in range(20)], at))
    assert restored.window_s(at) == 6 * HOUR


@pytest.mark.usefixtures("small_runs")
def test_files_that_no_snapshot_needs_are_deleted(tmp_path: Path) -> None:
    ids = RecentIds(DedupeSettings(min_ids=0, window_s=HOUR), "in/0", tmp_path)
    counts = []
    for minute in range(600):
        seen(ids, [f"{minute}-{n}" for n in range(20)], T0 + 60.0 * minute)
        if minute % 10 == 9:
            ids.dump()
            counts.append(len(list(tmp_path.iterdir())))
    assert max(counts[30:]) <= max(counts[10:30]) < 60


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_ids_of_a_lost_file_are_forgotten_and_the_window_says_so(tmp_path: Path, damage: str) -> None:
    ids = RecentIds(DedupeSettings(min_ids=0), "in/0", tmp_path)
    for minute in range(300):
        seen(ids, [f"{minute}-{n}" for n in range(20)], T0 + 60.0 * minute)
    at = T0 + 60.0 * 299
    for path in tmp_path.iterdir():
        if damage == "missing":
            path.unlink()
        else:
            content = path.read_bytes()
            path.unlink()  # the mapped one stays as it is
            path.write_bytes(content[:-9] if damage == "cut" else b"x" * 8 + content[8:])
    restored = again(ids, "in/0", tmp_path, at, min_ids=0)
    assert 0 <= restored.window_s(at) < 2 * HOUR
    # The newest are in the snapshot itself.
    assert all(seen(restored, [f"{minute}-{n}" for minute in range(290, 300) for n in range(20)], at))
    assert not any(seen(restored, [f"{minute}-0" for minute in range(100)], at))


def test_a_full_disk_keeps_ids_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("no directory")
    ids = RecentIds(DedupeSettings(window_s=60), "in/0", tmp_path / "taken")
    for minute in range(5):
        seen(ids, [f"{minute}"], T0 + 60.0 * minute)
    assert all(seen(ids, ["3", "4"], T0 + 240))
    assert [record.message for record in caplog.records] == ["ids stay in memory: no file can be written"]
    assert all(seen(again(ids, "in/0", None, T0 + 240), ["3", "4"], T0 + 240))


def test_what_was_written_on_a_full_disk_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_a_part(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_a_part)
    ids = RecentIds(DedupeSettings(window_s=60), "in/0", tmp_path)
    for minute in range(5):
        seen(ids, [f"{minute}"], T0 + 60.0 * minute)
    assert all(seen(ids, ["3", "4"], T0 + 240))
    assert list(tmp_path.iterdir()) == []


def test_a_window_shorter_than_what_a_source_repeats_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = DetectorSettings(dedupe=DedupeSettings(min_ids=0, max_ids=80))
    subject = Rollup(settings, USAGE, 1, "in/0", overlap_s=900)
    for second in range(200):
        subject.process(message(usage(str(second), T0 + second)))
        subject.flush(None)
    window_s = metrics.DEDUPE_WINDOW.labels(input="in/0")._value.get()
    assert 60 <= window_s <= 80
    assert metrics.DEDUPE_SHORT.labels(input="in/0")._value.get() == 1
    assert len([record for record in caplog.records if "ids are forgotten" in record.message]) == 1


def test_a_snapshot_of_an_earlier_version_is_read() -> None:
    subject = Rollup(DetectorSettings(), USAGE, 1, "in/0")
    subject.process(message(usage("1", T0)))
    subject.flush(None)
    state = msgspec.msgpack.decode(subject.snapshot())
    del state["recent"]
    state["ids"] = (["1"], ["0"], T0)
    subject = Rollup(DetectorSettings(), USAGE, 1, "in/0")
    subject.restore(msgspec.msgpack.encode(state))
    assert not subject.process(message(usage("0", T0), usage("1", T0)))
    subject.flush(None)
    assert [each for each in subject.flush(T0 + 600) if b'"partial"' in each.value] == []
