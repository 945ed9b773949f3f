"""Simulated experiments of known truth: groups of runs whose experts differ by draw, with noise, twins and effects.

`levels_of_group` draws the levels of runs, which is enough where a question is about decisions. `runs_of_group` draws
every row: gradients as vectors with noise of their own in each half of the batch, tier norms whose noise is AR(1) with
Student-t(5) innovations, a declining trend, an early transient and drifting routing shares.
Axis letters: 2: the run and its twin, S seeds, E experts, L layers, U times (of bins or rows), K bins, T rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from validation.analysis.bins import BINS, Bins, Plan, bins_of
from validation.analysis.cohort import MeasuredRun
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, Levels
from validation.analysis.run import METRICS, Expert, Run
from validation.analysis.statistics import Array

Course = Callable[[Array], Array]
"""An effect over the time of a training, which runs from 0 to 1."""
BASE = {BOTTOM: math.log(0.2 / 0.9), SIZE: 0.0, DIRECTION: 0.4}
TOP = math.log(0.2 / 0.9)  # log of the top norm over the middle norm
TWIN = {BOTTOM: 0.5, SIZE: 0.9, DIRECTION: 0.8}
"""The correlation of a run's effects with its twin's, as in real trainings."""
OWN = 0.3  # sd of a layer's own level and of the drift over time, as a share of the expert's
STEPS, WARMUP = 600, 0.1


def constant(value: float) -> Course:
    """Return an effect that stays."""
    return lambda u: np.full(u.shape, value)


def kept(value: float, share: float) -> Course:
    """Return an effect of which only a share is left in the second half of the training after the warm-up."""
    return lambda u: np.where(u < WARMUP + (1 - WARMUP) / 2, value, share * value)


def halving(value: float, life: float) -> Course:
    """Return an effect that halves within a share of the training."""
    return lambda u: value * 2 ** (-u / life)


@dataclass(frozen=True)
class Design:
    """An experiment: its seeds, experts, twins, and the standard deviation of a run's effects between seeds."""

    seeds: int = 6
    perturbed: int = 2
    controls: int = 2
    layers: int = 2
    twins: bool = False
    sd: float = 0.15
    effects: dict[str, Course] = field(default_factory=dict)
    twin: dict[str, float] = field(default_factory=lambda: TWIN)
    steps: int = STEPS
    sham: bool = False
    """True if the runs themselves are sham runs."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the experts, the clean one first."""
        return ("clean", *["perturbed"] * self.perturbed, *["control"] * self.controls)

    def facts(self, seed: int, *, twin: bool, **more: Any) -> dict[str, Any]:
        """Return the facts of a run."""
        options = {
            "seed": seed,
            "perturbation_scale": 0.0 if twin or self.sham else 1.0,
            "merge": "example",
            "num_experts": 1 + self.perturbed,
            "control_experts": self.controls,
            "num_layers": self.layers,
            **more,
        }
        named = {f"config.{name}": value for name, value in options.items()}
        return {"planned_steps": self.steps, "exit_state": "finished", **named}


def levels_by_draw(design: Design, u_U: Array, rng: np.random.Generator) -> dict[str, Array]:
    """Return the levels of every expert of the runs and their twins, by effect, [2, S, E, L, U].

    An expert's level is drawn once and followed by all layers; layers and times differ a little. Twins share a part of
    every draw. The perturbed experts of the runs have the effect.
    """
    experts, times = len(design.roles), np.stack([np.cos(k * np.pi * u_U) for k in (1, 2)])
    one = design.sd / math.sqrt(1 / design.perturbed + 1 / max(design.controls, 1))
    perturbed = np.array(design.roles) == "perturbed"
    found = {}
    for name, base in BASE.items():

        def drawn(*shape: int, shared: float = design.twin[name]) -> Array:
            both = rng.normal(size=(2, design.seeds, experts, *shape))
            both[1] = shared * both[0] + math.sqrt(1 - shared**2) * both[1]
            return both

        of_layer, of_time = OWN * drawn(design.layers, 1), OWN * drawn(1, 2) @ times
        level = base + one * (drawn(1, 1) + of_layer + of_time)
        level[0][:, perturbed] += design.effects.get(name, constant(0.0))(u_U)
        if name == DIRECTION:
            level[:, :, 0] = 0.0
        found[name] = level
    return found


def levels_of_group(
    design: Design, rng: np.random.Generator, *, complete: int = BINS
) -> tuple[list[MeasuredRun], list[MeasuredRun]]:
    """Return measured runs with isolated levels, and their twins. complete: bins that have been trained."""
    bins = replace(_bins(), complete=complete)
    middle_K = (bins.edges[:-1] + bins.edges[1:]) / 2 / STEPS
    found = levels_by_draw(design, middle_K, rng)

    def measured(twin: int, seed: int) -> MeasuredRun:
        of = {name: level[twin, seed] for name, level in found.items()}
        levels = Levels(bins, tuple(range(len(design.roles))), design.roles, of, np.ones_like(of[BOTTOM]))
        facts = design.facts(seed, twin=bool(twin), num_layers=1)
        experts = {number: Expert(number, role, {}) for number, role in enumerate(design.roles)}
        run = Run(f"{seed}{'t' if twin else ''}", "simulated", np.arange(STEPS), experts, facts=facts)
        return MeasuredRun(run, levels, levels, False, np.zeros(BINS))

    runs = [measured(0, seed) for seed in range(design.seeds)]
    return runs, [measured(1, seed) for seed in range(design.seeds)] if design.twins else []


def _bins() -> Bins:
    steps = np.arange(STEPS)
    return bins_of(
        Plan(0, 1, STEPS, WARMUP * STEPS), steps, np.ones(STEPS, dtype=bool), np.zeros((1, STEPS)), share=0.8
    )


@dataclass(frozen=True)
class Rows:
    """The rows of simulated runs: their number, and their noise."""

    every: int = 6
    rho: float = 0.5
    """Correlation of the noise of neighbouring rows."""
    noise: float = 0.1
    """Standard deviation of the noise of log norms between rows."""
    reliability: tuple[float, float] = (0.8, 0.5)
    """Share of the squared norm that is no noise, at the start and at the end."""
    dimensions: int = 24
    """Of a simulated gradient, all of which the noise fills: the fewer, the noisier are products of halves."""
    probe: bool = True
    """False: only merged gradients, and directions that are not corrected for noise."""


def runs_of_group(design: Design, rows: Rows, rng: np.random.Generator) -> list[Run]:
    """Return the runs of a group with all their rows, then their twins."""
    steps = np.arange(0, design.steps, rows.every)
    u_T = steps / design.steps
    found = {name: level[: 1 + design.twins] for name, level in levels_by_draw(design, u_T, rng).items()}
    shape = found[BOTTOM].shape
    size = found[SIZE] + ar1(rng, shape, rows) + ar1(rng, (*shape[:2], 1, 1, shape[-1]), rows) - 0.7 * u_T
    bottom = found[BOTTOM] + ar1(rng, shape, rows)
    transient = np.array(design.roles) == "perturbed"
    bottom[:, :, transient] += np.exp(-u_T / 0.02)  # over within the warm-up
    columns = _gradients(size, found[DIRECTION], rows, rng)
    columns |= _tiers(columns["norm"], bottom, TOP + ar1(rng, shape, rows))
    share = drifting(rng, shape[:3], u_T)[..., None, :]
    return [
        run_of_columns(
            design,
            rows,
            steps,
            {name: values[twin, seed] for name, values in columns.items()},
            share[twin, seed],
            design.facts(seed, twin=bool(twin), log_freq=rows.every, probe_freq=rows.every if rows.probe else 0),
        )
        for twin in range(1 + design.twins)
        for seed in range(design.seeds)
    ]


def ar1(rng: np.random.Generator, shape: tuple[int, ...], rows: Rows) -> Array:
    """Return stationary AR(1) series along the last axis, with t(5) innovations."""
    scale = rows.noise * math.sqrt((1 - rows.rho**2) / (5 / 3))  # 5 / 3 is the variance of t(5)
    innovations = rng.standard_t(5, size=shape) * scale
    start = rng.normal(size=(*shape[:-1], 1)) * rows.noise
    return np.asarray(signal.lfilter([1.0], [1.0, -rows.rho], innovations, zi=rows.rho * start, axis=-1)[0])


def drifting(rng: np.random.Generator, shape: tuple[int, ...], u_T: Array) -> Array:
    """Return routing shares that drift slowly: a softmax over experts of waves with random phases."""
    waves = [
        rng.normal(size=(*shape, 1)) * np.sin(2 * np.pi * (k * u_T + rng.random((*shape, 1)))) for k in (0.5, 1, 1.5)
    ]
    grown = np.exp(0.3 * np.sum(waves, axis=0))
    return np.asarray(grown / grown.sum(axis=-2, keepdims=True))


def _gradients(size: Array, direction: Array, rows: Rows, rng: np.random.Generator) -> dict[str, Array]:
    """Return norm, direction and products of the halves of simulated gradients, each half with noise of its own.

    size, direction: [2, S, E, L, T]. The first coordinate is the clean expert's direction; each expert turns into one
    of its own.
    """
    cosine = np.clip(1 - direction, -1, 1)
    true = np.zeros((*size.shape, rows.dimensions))
    true[..., 0] = np.exp(size) * cosine
    for expert in range(1, size.shape[2]):
        true[:, :, expert, ..., expert] = (np.exp(size) * np.sqrt(1 - cosine**2))[:, :, expert]
    reliable = np.linspace(*rows.reliability, size.shape[-1])
    sd = np.exp(size) * np.sqrt(2 * (1 / reliable - 1) / rows.dimensions)
    first, second = true + sd[..., None] * rng.normal(size=(2, *true.shape))
    mean = (first + second) / 2
    norm = np.linalg.norm(mean, axis=-1)
    clean = norm[:, :, :1]
    plain = 1 - (mean * mean[:, :, :1]).sum(-1) / (norm * clean)
    if not rows.probe:
        return {"norm": norm, "direction": plain}
    crossed = ((first * second[:, :, :1]).sum(-1) + (second * first[:, :, :1]).sum(-1)) / 2
    return {"norm": norm, "direction": plain, "half_product": (first * second).sum(-1), "half_product_clean": crossed}


def _tiers(norm: Array, bottom: Array, top: Array) -> dict[str, Array]:
    """Return tier norms whose squares add up to that of the norm. bottom, top: logs of their ratios to the middle."""
    middle = norm / np.sqrt(1 + np.exp(2 * bottom) + np.exp(2 * top))
    return {"middle_norm": middle, "bottom_norm": middle * np.exp(bottom), "top_norm": middle * np.exp(top)}


def run_of_columns(
    design: Design,
    rows: Rows,
    steps: NDArray[np.int64],
    columns: dict[str, Array],
    share_E1T: Array,
    facts: dict[str, Any],
) -> Run:
    """Return a run of columns [E, L, T]: merged gradients are the isolated ones times the routing share."""
    nothing = np.full(len(steps), np.nan)

    def experts(columns: dict[str, Array], layer: int | None) -> dict[int, Expert]:
        means = {name: values.mean(axis=1) if layer is None else values[:, layer] for name, values in columns.items()}
        if layer is None:
            gaps = [np.abs(means[f"{tier}_norm"] - means[f"{tier}_norm"][:1]) for tier in ("top", "bottom", "middle")]
            means["divergence"] = np.mean(gaps, axis=0)
        return {
            number: Expert(
                number, role, dict.fromkeys(METRICS, nothing) | {name: each[number] for name, each in means.items()}
            )
            for number, role in enumerate(design.roles)
        }

    merged = {name: values * share_E1T if name.endswith("norm") else values for name, values in columns.items()}
    merged = {name: values for name, values in merged.items() if not name.startswith("half")}
    merged["routing_weight"] = np.broadcast_to(share_E1T, columns["norm"].shape)
    name = f"{facts['config.seed']}{'' if facts['config.perturbation_scale'] else 't'}"
    run = Run(name, "simulated", steps, experts(merged, None), facts=facts)
    layers = range(design.layers)
    run = replace(run, layers=[experts(merged, layer) for layer in layers])
    if not rows.probe:
        return run
    alone = {**columns, "routing_weight": np.ones_like(columns["norm"])}
    isolated = replace(
        run, source="isolated", experts=experts(alone, None), layers=[experts(alone, layer) for layer in layers]
    )
    return replace(run, isolated=isolated)
