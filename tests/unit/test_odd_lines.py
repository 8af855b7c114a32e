"""One odd line is one dead letter: nothing raises, and the lines beside it survive, in every decoder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.odd_lines import decoders


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", list(decoders(Path())))
def test_an_odd_line_harms_no_other(name: str, tmp_path: Path) -> None:
    trial = decoders(tmp_path)[name]

    @settings(max_examples=60)
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        trial(random.Random(seed))

    holds()
