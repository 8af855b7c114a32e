"""Prophet without its log output: one fit of days or hours. The only module that knows its API."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curb.detector.state.columns import Floats

#: Loggers that are silenced during a fit: samplers, and a plotting library that is not installed.
_LOGGERS = ("cmdstanpy", "prophet", "prophet.models", "prophet.plot")


def missing(modules: Sequence[str] = ("prophet", "statsmodels")) -> tuple[str, ...]:
    """Which of these libraries are not installed."""
    return tuple(name for name in modules if find_spec(name) is None)


def advice(gone: Sequence[str]) -> str:
    """One sentence on what forecasts lack without these libraries, and how to install them."""
    extras = ",".join("forecast" if name == "statsmodels" else name for name in gone)
    return (
        f"without {' and '.join(gone)}, forecasts of long histories use weekday levels alone and hours have plainer "
        f"bands: install curbd[{extras}]"
    )


def predict(
    at_s: NDArray[np.int64], value: Floats, coming_s: NDArray[np.int64], interval: float = 0.0, **options: Any
) -> tuple[Floats, Floats, Floats]:
    """Fit `value` at `at_s` (local seconds since 1970); returns expected, low and high at `coming_s`.

    `interval` is the share of values between low and high; with 0, both are the expected values.
    `options` go to Prophet. Raises ModuleNotFoundError when prophet is missing, RuntimeError when the fit fails.
    """
    _hush()
    import pandas as pd
    from prophet import Prophet

    _hush()  # importing sets levels of its own

    samples = 200 if interval else 0
    model = Prophet(uncertainty_samples=samples, interval_width=interval or 0.8, yearly_seasonality=False, **options)
    model.fit(pd.DataFrame({"ds": pd.to_datetime(at_s, unit="s"), "y": value}), seed=1)
    found = model.predict(pd.DataFrame({"ds": pd.to_datetime(coming_s, unit="s")}))
    expected = found["yhat"].to_numpy(float)
    if not interval:
        return expected, expected, expected
    return expected, found["yhat_lower"].to_numpy(float), found["yhat_upper"].to_numpy(float)


def _hush() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
