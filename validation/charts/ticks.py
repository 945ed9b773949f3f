"""Ticks at round factors of a logarithmic axis, and labels moved apart so that they do not overlap."""

from __future__ import annotations

import math

import numpy as np

from validation.analysis.statistics import Array

MAX_EVEN_FOLD = 8.0  # a wider logarithmic axis has ticks by decades instead of evenly spaced ones


def factor_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at most `most` round factors between two positive values; 1 is one of them if it lies between.

    Vega's own ticks on such an axis are 0.82, 1.22 and 1.49, which nobody can read.
    """
    if not 0 < low < high:
        return [low]
    if high / low > MAX_EVEN_FOLD:
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
        ticks = [
            float(f"{digit}e{power}") for power in powers for digit in digits if low <= digit * 10.0**power <= high
        ]
        if len(ticks) <= most:
            return ticks
    every = -(-len(ticks) // most)
    return [tick for tick in ticks if round(math.log10(tick)) % every == 0]  # 10**0 = 1 stays


def spread_labels(values: Array, gap: float) -> Array:
    """Return positions near the values, in the same order, with at least `gap` between neighbours."""
    order = np.argsort(values, kind="stable")
    sorted_places = values[order].astype(float)
    for _ in range(60):  # push neighbours apart, half the overlap each, until all fit
        close = np.diff(sorted_places) < gap * 0.999
        if not close.any():
            break
        push = np.where(close, (gap - np.diff(sorted_places)) / 2, 0.0)
        sorted_places[:-1] -= push
        sorted_places[1:] += push
    places = np.empty_like(sorted_places)
    places[order] = sorted_places
    return places
