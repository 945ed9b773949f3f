"""The runs that are judged together: measured runs, groups that differ only in the seed, and their sham runs.

Axis letters: K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from prismatic.contract.options import FREE, TREATMENT
from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.bins import BINS
from validation.analysis.distinct import PairLevels, pair_bins, pair_levels
from validation.analysis.effects import Levels, levels_of
from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.analysis.trained import untrained_of
from validation.text import escaped

Options = tuple[tuple[str, str], ...]
SCALE = "perturbation_scale"


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run as its levels and facts, all that a verdict needs; the rows of `run` itself may be gone."""

    run: Run
    merged: Levels | None
    isolated: Levels | None
    common_gradient: bool
    """True if the merged gradient of every compared expert is one common gradient times a factor."""
    dormancy_K: Array
    """Log of the gradient per bottom weight of the clean expert relative to a middle weight; NaN where missing."""
    pairs: PairLevels | None = None
    """Differences between all experts by isolated gradients; None unless the probe compared them."""

    @classmethod
    def without_levels(cls, run: Run) -> MeasuredRun:
        """Return a run that could not be measured."""
        return cls(run, None, None, False, np.full(BINS, np.nan))

    def without_rows(self) -> MeasuredRun:
        """Return the same levels with the run's facts alone, small enough to be sent."""
        return replace(self, run=self.run.without_rows())

    def levels(self, source: str) -> Levels | None:
        """Return the levels from one source of gradients."""
        return self.isolated if source == "isolated" else self.merged

    def of_layers(self, layers: Sequence[int], source: str) -> MeasuredRun:
        """Return the run as if only these layers had been logged, in gradients of this source."""
        if source == "isolated":
            return replace(self, isolated=self.isolated and self.isolated.of_layers(layers))
        return replace(self, merged=self.merged and self.merged.of_layers(layers))

    @property
    def source(self) -> str:
        """The source to judge the run by: isolated if the probe planned a row in every bin."""
        probed = self.isolated is not None and self.isolated.bins.enough_planned
        return "isolated" if probed else "merged"


def measure_run(run: Run, thresholds: Thresholds) -> MeasuredRun:
    """Return the levels of a run by merged and by isolated gradients, and its structure."""
    merged = levels_of(run, thresholds)
    isolated = levels_of(run.isolated, thresholds) if run.isolated is not None else None
    compared = run.compared if merged is not None and 0 in run.experts else []
    common = bool(compared) and all(series.is_collinear(run, expert) for expert in compared)
    dormancy_K = np.full(BINS, np.nan) if merged is None or run.peers else merged.bins.mean(series.dormancy(run))
    pairs = None
    if run.isolated is not None and isolated is not None:
        bins = pair_bins(run.isolated, isolated.bins, warmup=thresholds.warmup, share=thresholds.rows_share)
        pairs = pair_levels(run.isolated, bins, reliability=thresholds.reliability, untrained=untrained_of(run))
    return MeasuredRun(run, merged, isolated, common, dormancy_K, pairs)


class Cohort:
    """Measured runs, with the sham runs that control the others. invalid: ids of runs that carry no verdict."""

    def __init__(self, runs: Sequence[MeasuredRun], invalid: Sequence[str] = ()):
        self.runs = tuple(runs)
        self.invalid = frozenset(invalid)

    def carries_verdict(self, each: MeasuredRun) -> bool:
        """Return True if the data of a run is valid and was measured."""
        return each.run.id not in self.invalid and each.merged is not None

    @cached_property
    def _shams(self) -> dict[Options, dict[int | None, list[MeasuredRun]]]:
        """The valid sham runs by options and seed, the least perturbed ones first, however files are named."""
        shams: dict[Options, dict[int | None, list[MeasuredRun]]] = {}
        for each in sorted(self.runs, key=lambda each: _preference(each.run)):
            if each.run.is_sham and each.run.config and each.run.id not in self.invalid:
                shams.setdefault(options_beside_treatment(each.run), {}).setdefault(each.run.seed, []).append(each)
        return shams

    def shams_of(self, run: Run) -> list[MeasuredRun]:
        """Return a valid sham run of each seed with the options of this run; none for a run without options.

        Two of one seed, of scales 0 and 0.001, are no two units.
        """
        return [same[0] for same in self._shams.get(options_beside_treatment(run), {}).values()] if run.config else []

    def twin_of(self, run: Run) -> MeasuredRun | None:
        """Return the sham run with the options and the seed of this run, if possible with its order of data."""
        if run.is_sham or not run.config or run.seed is None:
            return None
        same = self._shams.get(options_beside_treatment(run), {}).get(run.seed, [])
        order = run.config.get("data_seed")
        return min(same, key=lambda sham: sham.run.config.get("data_seed") != order, default=None)


def _preference(run: Run) -> tuple[float, str, str]:
    return run.option(SCALE) or 0.0, str(run.facts.get("started", "")), run.id


def options_of(run: Run) -> Options:
    """Return the options that runs of one group have in common, with the planned length."""
    options = {"steps": run.facts.get("planned_steps"), **run.config}
    if (scale := run.option(SCALE)) is not None:
        options[SCALE] = scale  # 1 and 1.0 are one scale
    return tuple(sorted((name, escaped(str(value))) for name, value in options.items() if name not in FREE))


def options_beside_treatment(run: Run) -> Options:
    """Return the options that a run has in common with its sham runs."""
    return tuple(pair for pair in options_of(run) if pair[0] not in TREATMENT)
