"""Simulated runs with layers and a probe: merged and isolated gradients of every expert, with half-batch products.

Axis letters: T logged steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prismatic.contract.schema import TIERS
from tests.support.simulated_runs import LEVEL, draws_of
from validation.analysis.run import METRICS, Expert, Run
from validation.analysis.statistics import Array

DIRECTION = 0.3  # 1 - cosine of an expert that nothing but its draw tells from the clean one


def probed_run(
    *,
    steps: int = 600,
    every: int = 5,
    layers: int = 2,
    perturbed: int = 3,
    control: int = 3,
    bottom: Array | float = 0.0,
    size: Array | float = 0.0,
    direction: Array | float = 0.0,
    spread: float = 0.03,
    sd: float = 0.05,
    reliability: Array | float | None = 0.5,
    scale: float = 1.0,
    probe: bool = True,
    seed: int = 0,
    noise_seed: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Run:
    """Return a run of several layers, logged and probed at every so many steps.

    bottom, size, direction: what the perturbation adds to the levels of perturbed experts, over the steps or
    constant. spread: sd between the draws of experts. sd: of the noise of a row. reliability: of half-batch products;
    None without these. scale: factor on every gradient. probe: False without isolated rows. seed: of the draws of
    the experts, and of the noise unless noise_seed names another.
    """
    noise = seed if noise_seed is None else noise_seed
    rng = np.random.default_rng(noise)
    steps_T = np.arange(0, steps, every)
    roles = ("clean", *["perturbed"] * perturbed, *["control"] * control)
    draws = draws_of(len(roles), seed, noise, spread)
    level = {"bottom": draws["bottom"], "size": draws["size"], "direction": DIRECTION + draws["direction"]}
    effects = {"bottom": bottom, "size": size, "direction": direction}
    levels_T = [
        {
            name: level[name][e] + (effects[name] if role == "perturbed" else 0.0) + np.zeros(len(steps_T))
            for name in level
        }
        for e, role in enumerate(roles)
    ]

    def made(source: str, shares_ET: Array, halves: Array | float | None) -> Run:
        columns = [_layer(rng, levels_T, sd, scale * shares_ET, halves) for _ in range(layers)]
        for of_layer in columns:
            for of_expert, share_T in zip(of_layer, shares_ET, strict=True):
                of_expert["routing_weight"] = share_T.copy()
        places = [{e: Expert(e, role, of[e]) for e, role in enumerate(roles)} for of in columns]
        means = {e: Expert(e, role, _means([place[e] for place in places])) for e, role in enumerate(roles)}
        known = {"config.log_freq": every, "planned_steps": steps, "config.merge": "example"}
        known |= ({"config.probe_freq": every} if probe else {}) | dict(facts or {})
        return Run("probed", "probed.db", steps_T, means, layers=places, source=source, facts=known)

    chosen_ET = np.exp(np.random.default_rng([noise, 4]).normal(0, 0.01, (len(roles), len(steps_T))))
    run = made("merged", chosen_ET / chosen_ET.sum(axis=0), None)
    return replace(run, isolated=made("isolated", np.ones_like(chosen_ET), reliability)) if probe else run


def _layer(
    rng: np.random.Generator,
    levels_T: list[dict[str, Array]],
    sd: float,
    scale_ET: Array,
    reliability: Array | float | None,
) -> list[dict[str, Array]]:
    """Return the columns of each expert in one layer."""

    def noise(rows: int) -> Array:
        return rng.normal(0, sd, rows)

    found: list[dict[str, Array]] = []
    for e, of in enumerate(levels_T):
        rows = len(of["size"])
        norms = {tier: scale_ET[e] * LEVEL[tier] * np.exp(of["size"] + noise(rows)) for tier in TIERS}
        norms["bottom"] = norms["bottom"] * np.exp(of["bottom"])
        columns = {name: np.full(rows, np.nan) for name in METRICS} | {f"{t}_norm": norm for t, norm in norms.items()}
        columns["norm"] = np.sqrt(sum(norm**2 for norm in norms.values()))
        columns["bottom_to_middle"] = np.log(norms["bottom"] / norms["middle"])
        columns["direction"] = of["direction"] + noise(rows) if e else np.zeros(rows)
        if reliability is not None:
            columns["half_product"] = reliability * columns["norm"] ** 2 * (1 + noise(rows))
            both = np.sqrt(columns["half_product"] * (found[0] if e else columns)["half_product"])
            columns["half_product_clean"] = (1 - columns["direction"]) * both if e else np.full(rows, np.nan)
        found.append(columns)
    return found


def _means(experts: list[Expert]) -> dict[str, Array]:
    return {name: np.mean([expert[name] for expert in experts], axis=0) for name in METRICS}
