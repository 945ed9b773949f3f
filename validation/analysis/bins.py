"""Bins of time: the logging grid, the warm-up, and the rows and bins of a run that are used.

The run from the end of its warm-up to its planned end is cut into bins of equal time, and every estimate is a mean of
bin means: the order, the density and the repetition of rows inside a bin change nothing.
Axis letters: T logged rows, K bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validation.analysis.statistics import Array

BINS = 6
WARMUP_AT_MOST = 1 / 3  # of the planned steps, however long the learning rate warms up
OUTLIER = math.log(10)  # of a bottom level, from the median of its bin; honest rows stay within 0.6
MISSING_BINS = 1  # that a usable run may have
FEW_LOST = 0.02  # of the planned rows: trainings lose none, and lost rows may have been chosen
LARGEST_GAP = 2**62  # between two rows; options come from anyone, and steps have 64 bits


@dataclass(frozen=True)
class Plan:
    """The planned steps of a run, its warm-up, and the grid of steps at which it logs."""

    first: int
    """Step of the first row of the grid."""
    every: int
    """Steps between two rows of the grid."""
    planned: int
    """Steps of the whole run."""
    warmup: float
    """Step at which the warm-up ends."""

    @property
    def edges(self) -> Array:
        """The steps at which bins begin and end, [K + 1]."""
        return np.linspace(self.warmup, self.planned, BINS + 1)

    def on_grid(self, steps_T: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for each step on the grid, [T]."""
        # The difference of two steps may need 64 bits without a sign.
        since_T = steps_T.astype(np.uint64) - np.uint64(self.first % 2**64)
        return np.asarray((steps_T >= self.first) & (since_T % np.uint64(self.every) == 0))

    @property
    def rows_K(self) -> NDArray[np.int64]:
        """The number of grid rows in each bin, [K]."""
        places = np.ceil((self.edges - self.first) / self.every).clip(min=0)
        return np.diff(places).astype(np.int64)

    def complete(self, last: int) -> int:
        """Return the number of bins that get no more grid rows after a row of this step."""
        next_row = self.first + ((last - self.first) // self.every + 1) * self.every
        return int((self.edges[1:] <= next_row).sum())

    def completes(self, bins: int) -> int:
        """Return the step of the grid row after which this many bins are complete."""
        rows = math.ceil((float(self.edges[bins]) - self.first) / self.every) - 1
        return self.first + max(rows, 0) * self.every


def plan_of(
    steps_T: NDArray[np.int64], *, planned: int, frequencies: tuple[int | None, ...], share: float, warmup_steps: float
) -> Plan:
    """Return the plan of a run that has rows.

    frequencies: log_freq and, for isolated rows, probe_freq; if the file declares neither, the median gap between its
    steps is used. share: the least share of the planned steps that belongs to the warm-up. warmup_steps: of the
    learning rate.
    """
    declared = [frequency for frequency in frequencies if frequency]
    if declared:
        every, first = min(math.lcm(*declared), LARGEST_GAP), 0
    else:
        gaps = np.diff(np.sort(steps_T, kind="stable"))  # steps are in order already, which makes this quick
        gaps = gaps[gaps > 0]  # a difference of more than 63 bits has lost its sign
        every, first = int(np.median(gaps)) if len(gaps) else 1, int(steps_T.min())
    planned = max(planned, 0)
    warmup = min(max(share * planned, warmup_steps), WARMUP_AT_MOST * planned)
    return Plan(first, every, planned, warmup)


@dataclass(frozen=True, eq=False)
class Bins:
    """The bin of each row of a run, and the bins that have too few rows."""

    place_T: NDArray[np.int64]
    """The bin of each usable row, -1 for all others, [T]."""
    missing_K: NDArray[np.bool_]
    """True for bins with too few usable rows, [K]."""
    rows_K: NDArray[np.int64]
    """The number of grid rows in each bin, [K]."""
    edges: Array
    """The steps at which bins begin and end, [K + 1]."""
    complete: int
    """The number of bins that the run has passed."""

    @property
    def lost_K(self) -> NDArray[np.int64]:
        """The number of planned rows that are not usable, in each complete bin, [complete]."""
        found_K = np.bincount(self.place_T[self.place_T >= 0], minlength=BINS)
        return np.asarray(self.rows_K - found_K)[: self.complete]

    @property
    def usable(self) -> bool:
        """True if the complete bins lack at most MISSING_BINS of them, and at most as many rows and a few besides."""
        rows_K = self.rows_K[: self.complete]
        allowed = MISSING_BINS * rows_K.max(initial=0) + FEW_LOST * rows_K.sum()
        return bool(self.missing_K[: self.complete].sum() <= MISSING_BINS and self.lost_K.sum() <= allowed)

    @property
    def enough_planned(self) -> bool:
        """True if the grid has a row in each bin."""
        return bool((self.rows_K > 0).all())

    def thinned(self, plan: Plan, steps_T: NDArray[np.int64], there_T: NDArray[np.bool_], *, share: float) -> Bins:
        """Return the bins of rows that are logged more rarely, some of the rows of these bins.

        plan: of the rarer rows. there_T: the rows that hold them. share: see `bins_of`.
        """
        place_T = np.where(there_T & plan.on_grid(steps_T), self.place_T, -1)
        complete = plan.complete(int(steps_T.max()))
        return Bins(place_T, _missing(place_T, plan.rows_K, share), plan.rows_K, plan.edges, complete)

    def mean(self, values: Array) -> Array:
        """Return the mean of values [..., T] over the rows of each bin, [..., K]; NaN for missing bins."""
        there = np.flatnonzero(~self.missing_K)
        used_T = self.place_T >= 0 if len(there) == BINS else np.isin(self.place_T, there)
        rows = np.flatnonzero(used_T)
        rows = rows[np.argsort(self.place_T[rows], kind="stable")]
        starts = np.searchsorted(self.place_T[rows], there)
        means = np.full((*values.shape[:-1], BINS), np.nan)
        if len(there):
            counts = np.diff(starts, append=len(rows))
            means[..., there] = np.add.reduceat(values[..., rows], starts, axis=-1) / counts
        return means


def bins_of(plan: Plan, steps_T: NDArray[np.int64], sound_T: NDArray[np.bool_], bottom: Array, *, share: float) -> Bins:
    """Return the bins of a run.

    sound_T: rows in which every needed value of every expert is finite, and every norm above zero. bottom: the bottom
    levels of all experts in all layers, [..., T], by which outliers are found. share: the least share of its grid rows
    that a bin needs. Of several rows of one step, only the last is used.
    """
    place_T = np.digitize(steps_T, plan.edges) - 1
    place_T[(place_T < 0) | (place_T >= BINS) | ~sound_T | ~plan.on_grid(steps_T) | _repeated(steps_T)] = -1
    flat = bottom.reshape(-1, len(steps_T))
    for k in range(BINS):
        rows = np.flatnonzero(place_T == k)
        if len(rows) and np.ptp(flat[:, rows], axis=1).max() > OUTLIER:  # else no row can be as far from the median
            distance = np.abs(flat[:, rows] - np.median(flat[:, rows], axis=1, keepdims=True)).max(axis=0)
            place_T[rows[distance > OUTLIER]] = -1
    rows_K = plan.rows_K
    missing_K = _missing(place_T, rows_K, share)
    return Bins(place_T, missing_K, rows_K, plan.edges, plan.complete(int(steps_T.max())))


def _missing(place_T: NDArray[np.int64], rows_K: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Return True for bins with less than this share of their grid rows, or none."""
    found_K = np.bincount(place_T[place_T >= 0], minlength=BINS)
    return np.asarray(found_K < np.maximum(np.ceil(share * rows_K), 1))


def _repeated(steps_T: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True for each row whose step is logged again in a later row, [T]."""
    order = np.argsort(steps_T, kind="stable")
    later = np.zeros(len(steps_T), dtype=bool)
    later[order[:-1]] = np.diff(steps_T[order]) == 0
    return later
