"""Lays the buckets of a daemon on the rows that it gets: one choice for all processes of a log, and it is on the log.

Where processes share a log, each sees the rows of its own inputs. They show one another a sample of each input; the
process that owns the commands chooses by all of them, and every process takes what is on the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import cast

import msgspec
import numpy as np

from curb.config.file import CurbConfig
from curb.detector.rollup.rollup import Rollup
from curb.detector.state.columns import Floats
from curb.evaluate.grid import Grid, about_periods, grid_of_times, lie_on
from curb.stream.errors import TransientError
from curb.stream.log.codec import UNREADABLE, encode
from curb.stream.log.protocol import Log, Message, TopicPartition
from curb.stream.log.topics import COMMANDS, GRID, SPEND

logger = logging.getLogger(__name__)

_CHOSEN, _SEEN = b"chosen", b"seen/"
#: Rows of an input that other processes see: 5 kB. By hand: one in a hundred of them shows.
_SHOWN = 200
#: Seconds after which a sample is shown again although it says the same. By hand: 120 kB a day and input.
_SHOW_AGAIN_S = 3600.0
#: Pauses of the reader, seconds: for more on the log, and after it was out of reach. By hand.
_FETCH_S, _AGAIN_S = 1.0, 5.0


class _Seen(msgspec.Struct):
    """Starts and receipts of some rows of an input, epoch seconds."""

    starts: list[float]
    received: list[float]


class RowGrid:
    """On which grid the rows lie; the buckets of the configuration where they lie on none."""

    def __init__(self, config: CurbConfig, log: Log) -> None:
        self._config, self._log = config, log
        self._fits = config.detector.fit_buckets
        #: What the buckets in use were made for, and what is on the log.
        self._grid: Grid | None = None
        self._chosen: Grid | None = None
        #: By input: the rows that its process has shown last.
        self._seen: dict[str, Floats] = {}
        #: By input: what the rows said that were shown last, and when.
        self._shown: dict[str, tuple[tuple[int, int, bool], float]] = {}
        #: Whether the log has lost its beginning: states cannot be made again from it.
        self._lost = False

    async def open(self) -> None:
        """Read what was chosen."""
        if self._fits:
            for key, value in (await self._log.table(GRID)).items():
                self.take_in(key, value)
            self._grid = self._chosen

    @property
    def config(self) -> CurbConfig:
        """The configuration with buckets that fit."""
        if self._grid is None:
            return self._config
        return self._config.model_copy(update={"detector": self._grid.settings(self._config.detector)})

    async def look(self, states: Mapping[TopicPartition, object], *, alone: bool) -> bool:
        """Look at the rows that came last, by the states of the rollup; whether other buckets were chosen.

        `alone` says that these are all inputs of the log. Raises TransientError.
        """
        if not self._fits:
            return False
        own = {
            f"{at.topic}/{at.partition}": state.recent_times.columns()
            for at, state in states.items()
            if isinstance(state, Rollup)
        }
        if not alone:
            own = {name: times[:, _evenly(times.shape[1])] for name, times in own.items() if times.shape[1]}
            await self._show(own)
        if TopicPartition(COMMANDS, 0) in states:
            await self._choose({**self._seen, **{name: times for name, times in own.items() if times.shape[1]}})
        return self._chosen != self._grid

    def take(self) -> None:
        """Use the buckets that were chosen."""
        self._grid = self._chosen
        chosen = self.config.detector
        extra = {"bucket_s": chosen.bucket_s, "phase_s": chosen.phase_s, "grace_s": chosen.grace_s}
        logger.info("buckets follow the rows", extra=extra)

    async def follow(self, group: str, stop: asyncio.Event) -> None:
        """Take in what other processes show and choose, until `stop`. `group` must be this process's own."""
        while not stop.is_set():
            try:
                reader = await self._log.reader(group, [GRID])
                try:
                    while not stop.is_set():
                        for message in await reader.fetch(timeout_s=_FETCH_S):
                            self.take_in(message.key, message.value)
                finally:
                    await reader.close()
            except TransientError as error:
                logger.warning("the grid of the rows is followed again later", extra={"error": str(error)})
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _AGAIN_S)

    def take_in(self, key: bytes, value: bytes) -> None:
        """Take in a message of the topic; what cannot be read is left out."""
        try:
            if key == _CHOSEN:
                chosen = msgspec.json.decode(value, type=Grid | None)
                if chosen is not None:
                    chosen.settings(self._config.detector)
                self._chosen = chosen
            elif key.startswith(_SEEN):
                seen = msgspec.json.decode(value, type=_Seen)
                self._seen[key.removeprefix(_SEEN).decode()] = np.array([seen.starts, seen.received])
        except (*UNREADABLE, ValueError, ZeroDivisionError) as error:
            logger.warning(
                "a grid of rows cannot be read", extra={"key": key.decode(errors="replace"), "why": str(error)}
            )

    async def _show(self, own: dict[str, Floats]) -> None:
        """Let the other processes see rows that say something else than before."""
        now, messages = asyncio.get_running_loop().time(), []
        for name, times in own.items():
            found = grid_of_times(times)
            view = (found.step_s, found.phase_s, about_periods(times, found))
            known = self._shown.get(name)
            if known is None or known[0] != view or now - known[1] >= _SHOW_AGAIN_S:
                self._shown[name] = view, now
                messages.append(Message(GRID, encode(_Seen(*times.tolist())), key=_SEEN + name.encode()))
        await self._log.append(messages)

    async def _choose(self, inputs: Mapping[str, Floats]) -> None:
        times = np.concatenate([np.empty((2, 0)), *inputs.values()], axis=1)
        wanted = self._wanted(times)
        if wanted == self._chosen or self._lost:
            return
        if not await self._log_is_whole():
            logger.warning("other buckets would fit the rows, but the log has lost what was learned in these")
            self._lost = True
            return
        await self._log.append([Message(GRID, msgspec.json.encode(wanted), key=_CHOSEN)])
        self._chosen = wanted

    def _wanted(self, times: Floats) -> Grid | None:
        if not times.shape[1] or (self._chosen is not None and lie_on(times, self._chosen)):
            return self._chosen
        found, detector = grid_of_times(times), self._config.detector
        fits = about_periods(times, found) and found.step_s >= detector.bucket_s
        return found if fits and (found.step_s, found.phase_s) != (detector.bucket_s, 0) else None

    async def _log_is_whole(self) -> bool:
        """Whether the log still holds its first sums."""
        for number in range(self._log.partitions(SPEND)):
            messages = self._log.scan(SPEND, {TopicPartition(SPEND, number): 0})
            async with contextlib.aclosing(cast("AsyncGenerator[Message, None]", messages)):
                async for message in messages:
                    if message.offset > 0:
                        return False
                    break
        return True


def _evenly(count: int) -> Floats:
    """Which of so many rows others see."""
    return np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).astype(np.int64))
