"""How much of what was counted could be judged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Judged(NamedTuple):
    """Records and dollars that were counted since the start, and those of them that came after they could be judged."""

    records: int = 0
    usd: float = 0.0
    late: int = 0
    late_usd: float = 0.0

    def add(self, usd: NDArray[np.float64], late_usd: NDArray[np.float64]) -> Judged:
        """With further records, by their dollars and what of these is late."""
        return Judged(
            self.records + len(usd),
            self.usd + float(usd.sum()),
            self.late + int(np.count_nonzero(late_usd)),
            self.late_usd + float(late_usd.sum()),
        )
