"""What an axis counts: steps, tokens or hours, of any step of a run."""

from __future__ import annotations

import numpy as np
import pandas as pd

from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.frames.batches import Counted

AXES = {"Steps": "Training step", "Tokens": "Tokens", "Hours": "Hours since the first row"}


def on_axis(long: pd.DataFrame, run: Run, unit: str) -> pd.DataFrame:
    """The rows with what the axis counts in place of the step."""
    return long if unit == "Steps" else long.assign(step=at_steps(run, unit, long["step"].to_numpy(dtype=float)))


def at_steps(run: Run, unit: str, steps: Array) -> Array:
    """What the axis counts at some steps; between those of which it is known, in proportion."""
    values = axis_values(run, unit)
    known = np.isfinite(values)
    if unit == "Steps" or not known.any():
        return np.asarray(steps, dtype=float)
    return np.interp(steps, run.steps[known], values[known])


def axis_values(run: Run, unit: str) -> Array:
    """What the axis counts at each logged step; NaN where the file does not say."""
    if unit == "Tokens":
        per_step = (run.number("config.batch_size") or np.nan) * (run.number("config.sequence_length") or np.nan)
        return np.asarray((run.steps + 1) * per_step, dtype=float)
    if unit == "Hours":
        wall = run.step_column("wall_time")
        known = wall[np.isfinite(wall)]
        return (wall - known[0]) / 3600 if len(known) else wall
    return run.steps.astype(float)


def counted_on_axis(known: Counted, run: Run, unit: str) -> Counted:
    """The same with what the axis counts in place of the steps."""
    ends = [(*at_steps(run, unit, np.array([first, last])).tolist(), why) for first, last, why in known.left_out]
    steps = {name: at_steps(run, unit, known.batches[name].to_numpy(dtype=float)) for name in ("step", "last")}
    whole = float(np.ptp(at_steps(run, unit, run.steps.astype(float))))
    return Counted(tuple(ends), known.batches.assign(**steps), whole)
