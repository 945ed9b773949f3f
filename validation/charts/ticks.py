"""What the axes of several charts share: round factors as ticks, and labels that do not cover each other."""

from __future__ import annotations

import math

import numpy as np

from validation.analysis.statistics import Array

MANY_FOLD = 8.0  # a logarithmic axis that spans more than this is divided by decades, not evenly


def factors(low: float, high: float, most: int = 7) -> list[float]:
    """At most so many round factors between two positive ones, with 1 among them wherever it lies between.

    A logarithmic axis that is left to itself puts its ticks at 0.82, 1.22 and 1.49, which nobody can read.
    """
    if not 0 < low < high:
        return [low]
    if high / low > MANY_FOLD:
        return _decades(low, high, most)
    exponent = math.floor(math.log10(high - low)) - 2
    for step in (digit * 10.0**power for power in range(exponent, exponent + 5) for digit in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most and (not low <= 1 <= high or abs(round(1 / step) - 1 / step) < 1e-9):
            return [float(f"{place * step:.12g}") for place in range(first, last + 1)]
    return [1.0]


def _decades(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [
            float(f"{digit}e{power}") for power in powers for digit in digits if low <= digit * 10.0**power <= high
        ]
        if len(found) <= most:
            return found
    every = -(-len(found) // most)  # of the powers of ten, so that 1 stays
    return [tick for tick in found if round(math.log10(tick)) % every == 0]


def apart(values: Array, gap: float) -> Array:
    """Places for labels near their values and at least a gap from each other, in the same order."""
    order = np.argsort(values, kind="stable")
    placed = values[order].astype(float)
    for _ in range(60):  # push neighbours apart, half each, until all fit
        close = np.diff(placed) < gap * 0.999
        if not close.any():
            break
        push = np.where(close, (gap - np.diff(placed)) / 2, 0.0)
        placed[:-1] -= push
        placed[1:] += push
    result = np.empty_like(placed)
    result[order] = placed
    return result
