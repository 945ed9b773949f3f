"""Controls of a divergence: control experts, frozen routing or sham runs, and the spread between draws of experts.

An expert is one random draw: experts differ by chance, even where nothing was perturbed, and more steps do not add
draws. So a comparison with controls has a spread between draws as well as an uncertainty over steps, if the run has
enough layers and experts to estimate it.
Axis letters: L layers, P perturbed experts, C control experts, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.run import Expert, Run, align
from validation.analysis.statistics import Array

FREE = frozenset({"perturbation_scale", "seed", "device"})
"""Options in which a sham run may differ from the run that it controls."""
CONTROL_EXPERT, FROZEN_ROUTING, SHAM_RUN = "control_expert", "frozen_routing", "sham_run"
COMPARED = ("perturbed", "control")
MIN_SHAMS = 3  # values needed for a spread between sham runs


@dataclass(frozen=True)
class BetweenDraws:
    """The spread of a comparison between randomly drawn experts: standard error and degrees of freedom."""

    error: float
    freedom: float


@dataclass(frozen=True)
class Control:
    """The control of an expert's divergence."""

    kind: str
    label: str
    """Its name in a sentence, such as "the control expert"."""
    baseline: dict[str, Array] | None = None
    """Series to subtract; None where the design itself is the control."""
    draws: dict[str, BetweenDraws] | None = None
    """By series; None with too few experts or layers for a spread."""


Options = tuple[tuple[str, str], ...]
SpreadKey = tuple[Options, str, str, bool]
"""Options, source of the gradients, series, and whether it is relative to control experts."""
Spreads = Mapping[SpreadKey, tuple[float, int]]
"""The results of `Cohort.spread`."""


class Cohort:
    """The runs that are judged together, with the sham runs that control the others.

    spreads: known spreads between sham runs, where some of these runs are elsewhere.
    """

    def __init__(self, runs: Sequence[Run], thresholds: Thresholds, spreads: Spreads | None = None):
        self.runs = tuple(runs)
        self.thresholds = thresholds
        self._layer_means: dict[tuple[str, str], dict[str, dict[int, Array]]] = {}
        self._spreads = dict(spreads or {})
        self._options: dict[str, Options] = {}

    def _family(self, run: Run) -> tuple[Options, str]:
        """Return what a sham run must have in common with this run: the options and the source of the gradients."""
        if run.id not in self._options:
            self._options[run.id] = options_of(run)
        return self._options[run.id], run.source

    @cached_property
    def _shams(self) -> dict[tuple[Options, str], list[Run]]:
        shams: dict[tuple[Options, str], list[Run]] = {}
        for run in self.runs:
            if run.config and run.is_sham:
                for measured in (run, run.isolated):
                    if measured is not None:
                        shams.setdefault(self._family(measured), []).append(measured)
        return shams

    @cached_property
    def _by_seed(self) -> dict[tuple[Options, str, int | None], Run]:
        return {(*family, sham.seed): sham for family, shams in self._shams.items() for sham in reversed(shams)}

    def shams_of(self, run: Run) -> list[Run]:
        """Return the sham runs with the options of this run, from the same source of gradients."""
        return [] if not run.config or run.is_sham else self._shams.get(self._family(run), [])

    def sham_of(self, run: Run) -> Run | None:
        """Return the sham run with the same seed, else the first one."""
        shams = self.shams_of(run)
        return self._by_seed.get((*self._family(run), run.seed), shams[0]) if shams else None

    def layer_means(self, run: Run) -> dict[str, dict[int, Array]]:
        """Return by series and expert the mean after the warm-up in each layer, [L]."""
        key = (run.id, run.source)
        if key not in self._layer_means:
            rows = run.after_warmup(self.thresholds.warmup)
            self._layer_means[key] = {}
            for number in [e.index for e in run.experts.values() if e.role != "clean"]:
                layers = series.by_layer(run, number)
                for name in {name: None for layer in layers for name in layer}:
                    means = [_mean(layer[name][rows]) if name in layer else math.nan for layer in layers]
                    self._layer_means[key].setdefault(name, {})[number] = np.array(means)
        return self._layer_means[key]

    def draws_of_gain(self, run: Run) -> BetweenDraws | None:
        """Return the spread of `bottom_gain` between experts of one role in one layer, for a mean over layers."""
        means = self.layer_means(run).get("bottom_gain", {})
        squares, freedom, layers = 0.0, 0, 0
        for mean_LE in [_of_role(means, run, role) for role in COMPARED]:
            mean_LE = mean_LE[np.isfinite(mean_LE).all(axis=1)]
            if not mean_LE.size:
                continue
            layers = max(layers, len(mean_LE))
            squares += float(((mean_LE - mean_LE.mean(axis=1, keepdims=True)) ** 2).sum())
            freedom += len(mean_LE) * (mean_LE.shape[1] - 1)
        return BetweenDraws(math.sqrt(squares / freedom / layers), freedom) if freedom and layers else None

    def spread(self, run: Run, name: str, control: Control | None) -> tuple[float, int]:
        """Return the standard deviation of a series' mean between the experts of matching sham runs, and their number.

        name: "bottom_gain", or a series of divergence, which is relative to the control experts where the run has some.
        The deviation is 0 for fewer than MIN_SHAMS values.
        """
        if not run.config or run.is_sham:
            return 0.0, 0
        relative = control is not None and control.kind == CONTROL_EXPERT
        key = (*self._family(run), name, relative)
        if key not in self._spreads:
            shams = self.shams_of(run)
            values = [value for sham in shams for value in self._sham_means(sham, name, relative=relative)]
            self._spreads[key] = spread_of(values)
        return self._spreads[key]

    def spread_values(self, sham: Run) -> dict[SpreadKey, list[float]]:
        """Return the values that one sham run adds to each spread; `spread_of` the values of all runs is the spread."""
        sources = [measured for measured in (sham, sham.isolated) if measured is not None]
        return {
            (*self._family(measured), name, relative): list(self._sham_means(measured, name, relative=relative))
            for measured in sources
            for name in self.layer_means(measured)
            for relative in (False, True)
        }

    def _sham_means(self, sham: Run, name: str, *, relative: bool) -> Iterator[float]:
        if 0 not in sham.experts:
            return
        means = self.layer_means(sham).get(name, {})
        perturbed_LP, control_LC = (_of_role(means, sham, role) for role in COMPARED)
        if relative and name != "bottom_gain" and control_LC.size and len(control_LC) == len(perturbed_LP):
            perturbed_LP = perturbed_LP - control_LC.mean(axis=1, keepdims=True)
        for mean_L in perturbed_LP.T:
            yield _mean(mean_L)


def spread_of(values: Sequence[float]) -> tuple[float, int]:
    """Return the standard deviation of the finite values, 0 for fewer than MIN_SHAMS, and their number."""
    known = [value for value in values if math.isfinite(value)]
    return (float(np.std(known, ddof=1)) if len(known) >= MIN_SHAMS else 0.0), len(known)


def options_of(run: Run) -> Options:
    """Return the options that make two runs the same experiment, apart from scale and seed."""
    return tuple(sorted((name, str(value)) for name, value in run.config.items() if name not in FREE))


def control_of(run: Run, expert: Expert, cohort: Cohort) -> Control | None:
    """Return the control of this expert: control experts of its run, frozen routing, or a matching sham run."""
    controls = run.of_role("control")
    if controls:
        each = [series.divergence(run, control) for control in controls]
        baseline = {name: np.asarray(np.mean([values[name] for values in each], axis=0)) for name in each[0]}
        label = "the control expert" if len(controls) == 1 else f"{len(controls)} control experts"
        return Control(CONTROL_EXPERT, label, baseline, _draws_of_experts(run, cohort))
    if run.config.get("routing") == "frozen":
        return Control(FROZEN_ROUTING, "frozen routing")
    sham = cohort.sham_of(run)
    return _sham_control(run, expert, sham, cohort) if sham else None


def _sham_control(run: Run, expert: Expert, sham: Run, cohort: Cohort) -> Control | None:
    if expert.index not in sham.experts or 0 not in sham.experts:
        return None
    treated, untreated = series.divergence(run, expert), series.divergence(sham, sham.experts[expert.index])
    if treated.keys() != untreated.keys():
        return None
    baseline = {name: align(sham.steps, untreated[name], run.steps) for name in treated}
    return Control(SHAM_RUN, f"sham run {sham.id}", baseline, _draws_of_pairs(run, sham, cohort))


def _draws_of_experts(run: Run, cohort: Cohort) -> dict[str, BetweenDraws] | None:
    """Return the spread between experts of one role in one layer; between layers with one expert of each role."""
    draws = {}
    for name, means in cohort.layer_means(run).items():
        if name == "bottom_gain":
            continue
        perturbed_LP, control_LC = (_of_role(means, run, role) for role in COMPARED)
        if len(perturbed_LP) != len(control_LC) or not perturbed_LP.size or not control_LC.size:
            continue
        finite = np.isfinite(perturbed_LP).all(axis=1) & np.isfinite(control_LC).all(axis=1)
        perturbed_LP, control_LC = perturbed_LP[finite], control_LC[finite]
        (layers, perturbed), controls = perturbed_LP.shape, control_LC.shape[1]
        if not layers:
            continue
        if perturbed + controls > 2:
            freedom = layers * (perturbed + controls - 2)
            squares = sum(float(((x - x.mean(axis=1, keepdims=True)) ** 2).sum()) for x in (perturbed_LP, control_LC))
            draws[name] = BetweenDraws(math.sqrt(squares / freedom * (1 + 1 / controls) / layers), freedom)
        elif layers > 1:
            difference_L = perturbed_LP[:, 0] - control_LC[:, 0]
            draws[name] = BetweenDraws(float(difference_L.std(ddof=1)) / math.sqrt(layers), layers - 1)
    return draws or None


def _of_role(means: dict[int, Array], run: Run, role: str) -> Array:
    """Return the layer means of a role's experts, [L, E], without experts of fewer layers (in damaged files)."""
    experts = [means[e.index] for e in run.of_role(role) if e.index in means]
    layers = max((len(mean_L) for mean_L in experts), default=0)
    complete = [mean_L for mean_L in experts if len(mean_L) == layers]
    return np.stack(complete, axis=1) if complete else np.empty((0, 0))


def _draws_of_pairs(run: Run, sham: Run, cohort: Cohort) -> dict[str, BetweenDraws] | None:
    """Return the spread of the differences between the same expert in the same layer, perturbed and not."""
    draws = {}
    treated, untreated = cohort.layer_means(run), cohort.layer_means(sham)
    for name in treated.keys() & untreated.keys():
        of_run, of_sham = treated[name], untreated[name]
        both = [e.index for e in run.of_role("perturbed") if e.index in of_run and e.index in of_sham]
        pairs = [of_run[e] - of_sham[e] for e in both if len(of_run[e]) == len(of_sham[e])]
        differences = np.concatenate(pairs) if pairs else np.empty(0)
        differences = differences[np.isfinite(differences)]
        if len(differences) > 1:
            layers = max(1, len(differences) // len(pairs))
            draws[name] = BetweenDraws(float(differences.std(ddof=1)) / math.sqrt(layers), len(differences) - 1)
    return draws or None


def _mean(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
