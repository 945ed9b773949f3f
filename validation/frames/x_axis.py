"""Units of the horizontal axis, steps, tokens or hours, and the position of each step of a run on it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.frames.bins import VerdictBins

AXES = {"Steps": "Training step", "Tokens": "Tokens", "Hours": "Hours since the first row"}
"""Axis title by unit."""


def rows_on_axis(rows: pd.DataFrame, run: Run, unit: str) -> pd.DataFrame:
    """Return the rows with the column `step` in the unit of the axis."""
    return rows if unit == "Steps" else rows.assign(step=steps_on_axis(run, unit, rows["step"].to_numpy(dtype=float)))


def steps_on_axis(run: Run, unit: str, steps: Array) -> Array:
    """Return the axis position of each step; interpolate between steps of known position."""
    values = axis_values(run, unit)
    known = np.isfinite(values)
    if unit == "Steps" or not known.any():
        return np.asarray(steps, dtype=float)
    return np.interp(steps, run.steps[known], values[known])


def axis_values(run: Run, unit: str) -> Array:
    """Return the axis position of each logged step; NaN where the file lacks it."""
    if unit == "Tokens":
        per_step = (run.option("batch_size") or np.nan) * (run.option("sequence_length") or np.nan)
        return np.asarray((run.steps + 1) * per_step, dtype=float)
    if unit == "Hours":
        wall = run.step_column("wall_time")
        known = wall[np.isfinite(wall)]
        return (wall - known[0]) / 3600 if len(known) else wall
    return run.steps.astype(float)


def bins_on_axis(bins: VerdictBins, run: Run, unit: str) -> VerdictBins:
    """Return the bins with their steps in the unit of the axis."""
    skipped = [(*steps_on_axis(run, unit, np.array([first, last])).tolist(), why) for first, last, why in bins.skipped]
    steps = {name: steps_on_axis(run, unit, bins.means[name].to_numpy(dtype=float)) for name in ("step", "last")}
    span = float(np.ptp(steps_on_axis(run, unit, run.steps.astype(float))))
    return VerdictBins(tuple(skipped), bins.means.assign(**steps), span)
