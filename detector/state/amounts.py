"""The sums per series and bucket: dollars, requests, tokens, GPU samples."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Floats

#: What sums are for: totals, budgets and judging; all but judging; or judging alone.
Purpose = Literal["all", "counted", "scored"]
#: Seconds after which what came late is of the past: no window is corrected by it, but history may be learned from it.
#: Two hours, from where scoring starts before the first tick; half an hour late is still usual of rows. By hand.
PAST_S = 7200


class Amounts(NamedTuple):
    """Sums of one bucket, arrays of one length."""

    #: Dollars.
    cost: Floats
    requests: Floats
    errors: Floats
    #: Distinct end users, summed over the steps of the source; 0 where nobody counts them.
    users: Floats
    input_tokens: Floats
    output_tokens: Floats
    #: Samples of GPUs, and the sums of their percents and GiB.
    gpu_samples: Floats
    gpu_percents: Floats
    gpu_gib: Floats
    #: The dollars in `cost` that must raise no alert.
    unscored_cost: Floats
    #: Requests that ended well and reported neither tokens nor a cost.
    unmetered: Floats
    #: Of the errors, those that a limit of the gateway refused: they reached no model and cost nothing.
    refused: Floats

    def of(self, index: NDArray[np.intp]) -> Amounts:
        """Those of some series."""
        return Amounts(*[amount.take(index) for amount in self])


#: Names of the sums, in the order of the rows in which they are kept.
AMOUNTS = Amounts._fields
