"""Lays a daemon's buckets on the rows that it gets, and remembers that over a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec
import numpy as np

from curb.config.file import CurbConfig, EmbeddedSettings
from curb.detector.rollup.rollup import Rollup
from curb.evaluate.grid import Grid, about_periods, grid_of_times, lie_on

logger = logging.getLogger(__name__)

_FILE = "grid.json"


class RowGrid:
    """On which grid the rows lie; the buckets of the configuration where they lie on none."""

    def __init__(self, config: CurbConfig) -> None:
        """Read what was remembered. Where several processes share a log, each would see rows of its own: none fits."""
        self._config = config
        self._fits = config.detector.fit_buckets and isinstance(config.log, EmbeddedSettings)
        self._path = config.state_dir / _FILE
        self._grid: Grid | None = None
        self._next: Grid | None = None
        if self._fits and self._path.exists():
            try:
                self._grid = msgspec.json.decode(self._path.read_bytes(), type=Grid | None)
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("the grid of the rows is learned again", extra={"error": str(error)})

    @property
    def config(self) -> CurbConfig:
        """The configuration with buckets that fit."""
        if self._grid is None:
            return self._config
        return self._config.model_copy(update={"detector": self._grid.settings(self._config.detector)})

    def look(self, states: Iterable[object]) -> bool:
        """Look at the rows that came last, by the states of the rollup; whether other buckets fit them."""
        if not self._fits:
            return False
        times = np.concatenate(
            [np.empty((2, 0)), *(each.recent_times.columns() for each in states if isinstance(each, Rollup))], axis=1
        )
        if not times.shape[1] or (self._grid is not None and lie_on(times, self._grid)):
            return False
        found, detector = grid_of_times(times), self._config.detector
        fits = about_periods(times, found) and found.step_s >= detector.bucket_s
        self._next = found if fits and (found.step_s, found.phase_s) != (detector.bucket_s, 0) else None
        return self._next != self._grid

    def take(self) -> None:
        """Take the buckets that fit, as `look` found them."""
        self._grid = self._next
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(msgspec.json.encode(self._grid))
        except OSError as error:  # learned again after the next start
            logger.warning("the grid of the rows cannot be kept", extra={"error": str(error)})
        chosen = self.config.detector
        extra = {"bucket_s": chosen.bucket_s, "phase_s": chosen.phase_s, "grace_s": chosen.grace_s}
        logger.info("buckets follow the rows", extra=extra)
