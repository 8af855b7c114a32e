"""Which machines are on, for how long, and how busy: what the rules on nodes and their groups share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Bools, Column, Columns, Floats
from curb.detector.state.view import View


class Params(NamedTuple):
    #: Minutes without data after which a machine is off: sources may sample rarely, and rows may be late. By hand.
    unseen_min: float = 15.0
    #: Minutes over which utilisation is held. Prototype.
    memory_min: float = 10.0
    #: Percent up to which one sample counts. By hand.
    most_pct: float = 30.0


P = Params()


class Machines:
    """Rows are the nodes in the order in which they came. A gap of the whole fleet changes nothing here."""

    def __init__(self, step_s: int, capacity: int = 64) -> None:
        self._step_min = step_s / 60
        self.columns = Columns(
            {
                #: Since it was last seen; a node never seen is off.
                "unseen_min": Column((), np.float32, np.inf),
                #: Since it came on, 0 while off.
                "on_min": Column((), np.float32),
                #: Held over ten minutes.
                "held_pct": Column((), np.float32, P.most_pct),
            },
            capacity,
        )
        self._groups = np.zeros(0, np.intp)
        #: Of this bucket: nodes that sent data or cost money, with the percent where one was measured.
        self.seen: Bools = np.zeros(0, np.bool_)
        self.measured: Bools = np.zeros(0, np.bool_)
        self.pct: Floats = np.zeros(0)
        self.elapsed_min: Floats = np.zeros(0)

    def advance(self, view: View) -> None:
        """Take in a bucket that is no gap."""
        nodes = view.of("node")
        self.columns.grow(len(nodes.index))
        amounts, unseen = nodes.amounts, self.columns["unseen_min"]
        samples = np.nan_to_num(amounts.gpu_samples, nan=0.0)
        percents = np.nan_to_num(amounts.gpu_percents, nan=-1.0)
        self.seen = (amounts.cost > 0) | (samples > 0)
        self.measured = (samples > 0) & (percents >= 0)
        self.pct = np.where(self.measured, percents / np.maximum(samples, 1e-9), np.nan)
        # What was not seen in between was on as well, if it was not for long.
        passed = unseen + self._step_min
        self.elapsed_min = np.where(passed <= P.unseen_min + self._step_min, passed, self._step_min).astype(np.float64)
        unseen[...] = np.where(self.seen, 0.0, passed)
        on_min, held = self.columns["on_min"], self.columns["held_pct"]
        on_min[...] = np.where(self.seen, on_min + self.elapsed_min, np.where(self.on, on_min, 0.0))
        share = np.minimum(1.0, self.elapsed_min / P.memory_min)
        # A machine that comes on is held to be busy until it shows otherwise.
        moved = held + share * (np.minimum(np.nan_to_num(self.pct), P.most_pct) - held)
        held[...] = np.where(self.measured, moved, np.where(self.on, held, P.most_pct))

    @property
    def on(self) -> Bools:
        """Nodes that are on, as far as is known."""
        on: Bools = self.columns["unseen_min"] <= P.unseen_min
        return on

    def groups(self, view: View) -> NDArray[np.intp]:
        """The row of each node's group, -1 for none."""
        nodes, groups = view.of("node").index, view.of("group").index
        known = len(self._groups)
        self._groups = np.concatenate([self._groups, np.full(len(nodes) - known, -1, np.intp)])
        if len(groups) and (self._groups < 0).any():
            # A node's group comes with it or never: only nodes that are on are asked for.
            for row in np.flatnonzero((self._groups < 0) & self.seen).tolist():
                above = view.registry.above(int(nodes[row]))
                if above is not None:
                    self._groups[row] = int(np.searchsorted(groups, above))
        return self._groups
