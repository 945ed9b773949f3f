"""Rows of a dose-response: the effect of each seed at each scale, and the means over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from validation.analysis.intervals import student
from validation.verdict.dose_response import Dose


def dose_effects(dose: Dose, alpha: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the effects that Page's test compares, and their means over seeds with Student's interval.

    The first table has rows of scale, seed and value; the second of scale, mean, low, high and seeds (their number).
    """
    table_SD = np.array(dose.values)
    each = pd.DataFrame(table_SD, pd.Index(dose.seeds, name="seed"), pd.Index(dose.scales, name="scale"))
    means = [
        {"scale": scale, "mean": over.mid, "low": over.low, "high": over.high, "seeds": over.units}
        for scale, over in zip(dose.scales, (student(values_S, alpha) for values_S in table_SD.T), strict=True)
    ]
    return each.stack().rename("value").reset_index(), pd.DataFrame(means)
