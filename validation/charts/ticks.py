"""Ticks at round factors or powers of ten of a logarithmic axis, and labels moved apart so that they do not overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from validation.analysis.statistics import Array

MAX_EVEN_FOLD = 8.0  # a wider logarithmic axis has ticks by decades instead of evenly spaced ones
MAX_POWERS = 8  # on an axis with a label at each power of ten
BLOCK = 3  # powers of ten; ticks fill whole blocks, so that a chart keeps its ticks when its values change a little
IS_POWER = "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6"
"""A Vega expression of a tick: true at powers of ten."""


@dataclass(frozen=True)
class LogTicks:
    """Ticks of a logarithmic axis; some may lie beyond its ends, where Vega leaves them out."""

    values: tuple[float, ...]
    decades: bool
    """Only powers of ten have labels; the ticks between them are minor ones."""


def log_ticks(low: float, high: float) -> LogTicks:
    """Return powers of ten with minor ticks, or round factors if fewer than two powers lie between, or very many."""
    inside = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    if not 2 <= len(inside) <= MAX_POWERS:
        return LogTicks(tuple(factor_ticks(low, high)), decades=False)
    first, last = BLOCK * math.floor((inside[0] - 1) / BLOCK), BLOCK * math.ceil((inside[-1] + 1) / BLOCK)
    ticks = (float(f"{digit}e{power}") for power in range(first, last) for digit in range(1, 10))
    return LogTicks((*ticks, float(f"1e{last}")), decades=True)


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


def spread_labels(values: Array, gap: float, *, low: float = -math.inf, high: float = math.inf) -> Array:
    """Return the places nearest to the values, in the same order, with at least `gap` between neighbours.

    They lie between low and high. If there is no room for that, they fill it evenly.
    """
    count = len(values)
    if count > 1 and (count - 1) * gap > high - low:
        gap = (high - low) / (count - 1)
    order, steps = np.argsort(values, kind="stable"), gap * np.arange(count)
    # Without the gaps, the places only have to rise: labels that would fall pool to their mean.
    pools: list[tuple[float, int]] = []
    for value in values[order].astype(float) - steps:
        mean, size = float(value), 1
        while pools and pools[-1][0] >= mean:
            other, others = pools.pop()
            mean, size = (mean * size + other * others) / (size + others), size + others
        pools.append((mean, size))
    risen = np.repeat([mean for mean, _ in pools], [size for _, size in pools])
    places = np.empty(count)
    places[order] = np.clip(risen, low, high - (steps[-1] if count else 0.0)) + steps
    return places
