"""What says how much of a divergence the perturbation did not cause, and how far such a comparison can be trusted.

An expert is one draw: how the symmetry between experts breaks differs from draw to draw, also where nothing was
perturbed, and no number of steps makes one draw two. So a comparison with controls carries the spread between draws
beside the uncertainty over steps, wherever the run has enough layers and experts to see it. Axis letters: L layers,
P perturbed experts, C control experts.
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
"""Options in which a sham run may differ from the run whose control it is."""
CONTROL_EXPERT, FROZEN_ROUTING, SHAM_RUN = "control_expert", "frozen_routing", "sham_run"
COMPARED = ("perturbed", "control")
MIN_SHAMS = 3  # estimates from which a spread between sham runs is taken


@dataclass(frozen=True)
class BetweenDraws:
    """How much a comparison would differ with other draws of the experts: standard error, degrees of freedom."""

    error: float
    freedom: float


@dataclass(frozen=True)
class Control:
    """What an expert's divergence is compared to."""

    kind: str
    told: str
    baseline: dict[str, Array] | None = None
    """Series to subtract; None where the design itself is the control."""
    draws: dict[str, BetweenDraws] | None = None
    """By series; None where the draws are too few to see their spread."""


Options = tuple[tuple[str, str], ...]
Spreads = Mapping[tuple[Options, str, str, bool], tuple[float, int]]
"""By options, source of the gradients, series, and whether relative to control experts: as `Cohort.spread`."""


class Cohort:
    """The runs that are judged together: which of them are the controls of which others.

    spreads: what is known already of the spread between sham runs, where not all of them are here.
    """

    def __init__(self, runs: Sequence[Run], thresholds: Thresholds, spreads: Spreads | None = None):
        self.runs = tuple(runs)
        self.thresholds = thresholds
        self._layer_means: dict[tuple[str, str], dict[str, dict[int, Array]]] = {}
        self._spreads = dict(spreads or {})
        self._options: dict[str, Options] = {}

    def _family(self, run: Run) -> tuple[Options, str]:
        """What a sham run must have in common with this run: the options, and the source of the gradients."""
        if run.id not in self._options:
            self._options[run.id] = options_of(run)
        return self._options[run.id], run.source

    @cached_property
    def _shams(self) -> dict[tuple[Options, str], list[Run]]:
        shams: dict[tuple[Options, str], list[Run]] = {}
        for run in self.runs:
            if run.config and run.is_sham:
                for seen in (run, run.isolated):
                    if seen is not None:
                        shams.setdefault(self._family(seen), []).append(seen)
        return shams

    @cached_property
    def _of_seed(self) -> dict[tuple[Options, str, int | None], Run]:
        return {(*family, sham.seed): sham for family, shams in self._shams.items() for sham in reversed(shams)}

    def shams_of(self, run: Run) -> list[Run]:
        """Runs of the same options in which nothing was perturbed; as the probe saw them, if this run is so."""
        return [] if not run.config or run.is_sham else self._shams.get(self._family(run), [])

    def sham_of(self, run: Run) -> Run | None:
        """Its sham run: that of the same seed, else the first one."""
        shams = self.shams_of(run)
        return self._of_seed.get((*self._family(run), run.seed), shams[0]) if shams else None

    def layer_means(self, run: Run) -> dict[str, dict[int, Array]]:
        """By series and expert, the mean after the warm-up in each layer, [L]."""
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
        """How much `bottom_gain` differs between experts of one role in one layer, for a mean over layers."""
        levels = self.layer_means(run).get("bottom_gain", {})
        by_role = [_alike(levels, run, role) for role in COMPARED]
        squares, freedom, layers = 0.0, 0, 0
        for level_LE in by_role:
            level_LE = level_LE[np.isfinite(level_LE).all(axis=1)]
            if not level_LE.size:
                continue
            layers = max(layers, len(level_LE))
            squares += float(((level_LE - level_LE.mean(axis=1, keepdims=True)) ** 2).sum())
            freedom += len(level_LE) * (level_LE.shape[1] - 1)
        return BetweenDraws(math.sqrt(squares / freedom / layers), freedom) if freedom and layers else None

    def spread(self, run: Run, name: str, control: Control | None) -> tuple[float, int]:
        """Standard deviation of a series' mean between the experts of matching sham runs, and how many there are.

        name: "bottom_gain", or a series of divergence, then relative to the control experts where the run has some. 0
        if fewer than MIN_SHAMS.
        """
        if not run.config or run.is_sham:
            return 0.0, 0
        relative = control is not None and control.kind == CONTROL_EXPERT
        key = (*self._family(run), name, relative)
        if key not in self._spreads:
            shams = self.shams_of(run)
            self._spreads[key] = spread_of([v for sham in shams for v in self._of_sham(sham, name, relative=relative)])
        return self._spreads[key]

    def shown_by(self, sham: Run) -> dict[tuple[Options, str, str, bool], list[float]]:
        """What a sham run adds to each spread, `spread_of` all of which is the spread."""
        seen = [one for one in (sham, sham.isolated) if one is not None]
        return {
            (*self._family(one), name, relative): list(self._of_sham(one, name, relative=relative))
            for one in seen
            for name in self.layer_means(one)
            for relative in (False, True)
        }

    def _of_sham(self, sham: Run, name: str, *, relative: bool) -> Iterator[float]:
        if 0 not in sham.experts:
            return
        levels = self.layer_means(sham).get(name, {})
        perturbed_LP, control_LC = (_alike(levels, sham, role) for role in COMPARED)
        if relative and name != "bottom_gain" and control_LC.size and len(control_LC) == len(perturbed_LP):
            perturbed_LP = perturbed_LP - control_LC.mean(axis=1, keepdims=True)
        for own_L in perturbed_LP.T:
            yield _mean(own_L)


def spread_of(values: Sequence[float]) -> tuple[float, int]:
    """Standard deviation of the finite ones, 0 if they are fewer than MIN_SHAMS, and how many they are."""
    known = [value for value in values if math.isfinite(value)]
    return (float(np.std(known, ddof=1)) if len(known) >= MIN_SHAMS else 0.0), len(known)


def options_of(run: Run) -> Options:
    """What makes two runs the same experiment but for scale and seed."""
    return tuple(sorted((name, str(value)) for name, value in run.config.items() if name not in FREE))


def control_of(run: Run, expert: Expert, cohort: Cohort) -> Control | None:
    """What this expert is compared to: control experts of its run, frozen routing, or a matching sham run."""
    controls = run.of_role("control")
    if controls:
        own = [series.divergence(run, control) for control in controls]
        baseline = {name: np.asarray(np.mean([one[name] for one in own], axis=0)) for name in own[0]}
        told = "the control expert" if len(controls) == 1 else f"{len(controls)} control experts"
        return Control(CONTROL_EXPERT, told, baseline, _draws_of_experts(run, cohort))
    if run.config.get("routing") == "frozen":
        return Control(FROZEN_ROUTING, "frozen routing")
    twin = cohort.sham_of(run)
    return _sham_control(run, expert, twin, cohort) if twin else None


def _sham_control(run: Run, expert: Expert, sham: Run, cohort: Cohort) -> Control | None:
    if expert.index not in sham.experts or 0 not in sham.experts:
        return None
    own, twin = series.divergence(run, expert), series.divergence(sham, sham.experts[expert.index])
    if own.keys() != twin.keys():
        return None
    baseline = {name: align(sham.steps, twin[name], run.steps) for name in own}
    return Control(SHAM_RUN, f"sham run {sham.id}", baseline, _draws_of_pairs(run, sham, cohort))


def _draws_of_experts(run: Run, cohort: Cohort) -> dict[str, BetweenDraws] | None:
    """From the spread between experts of one role in one layer; with one expert of each role, between layers."""
    draws = {}
    for name, levels in cohort.layer_means(run).items():
        if name == "bottom_gain":
            continue
        perturbed_LP, control_LC = (_alike(levels, run, role) for role in COMPARED)
        if len(perturbed_LP) != len(control_LC) or not perturbed_LP.size or not control_LC.size:
            continue
        whole = np.isfinite(perturbed_LP).all(axis=1) & np.isfinite(control_LC).all(axis=1)
        perturbed_LP, control_LC = perturbed_LP[whole], control_LC[whole]
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


def _alike(levels: dict[int, Array], run: Run, role: str) -> Array:
    """The levels of a role's experts, [L, E]; damaged files may hold experts with other layers, which are left out."""
    own = [levels[e.index] for e in run.of_role(role) if e.index in levels]
    layers = max((len(one) for one in own), default=0)
    same = [one for one in own if len(one) == layers]
    return np.stack(same, axis=1) if same else np.empty((0, 0))


def _draws_of_pairs(run: Run, sham: Run, cohort: Cohort) -> dict[str, BetweenDraws] | None:
    """From the spread of the differences between twins: the same expert in the same layer, with and without."""
    draws = {}
    own, twin = cohort.layer_means(run), cohort.layer_means(sham)
    for name in own.keys() & twin.keys():
        both = [e.index for e in run.of_role("perturbed") if e.index in own[name] and e.index in twin[name]]
        pairs = [own[name][e] - twin[name][e] for e in both if len(own[name][e]) == len(twin[name][e])]
        differences = np.concatenate(pairs) if pairs else np.empty(0)
        differences = differences[np.isfinite(differences)]
        if len(differences) > 1:
            layers = max(1, len(differences) // len(pairs))
            draws[name] = BetweenDraws(float(differences.std(ddof=1)) / math.sqrt(layers), len(differences) - 1)
    return draws or None


def _mean(values: Array) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else math.nan
