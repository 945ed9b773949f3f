"""Simulated runs of known truth: gradient norms with a given effect, routing and noise, as arrays or as a run file.

The noise is like that of training: AR(1) over steps, partly common to all experts, with declining norms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prismatic.contract.schema import TIERS
from prismatic.runfile.logger import DynamicsLogger
from validation.analysis.run import METRICS, Expert, Run
from validation.analysis.statistics import Array

LAYER_COLUMNS = (
    *(f"{tier}_norm" for tier in TIERS),
    *("norm", "routing_weight", "bottom_to_middle", "half_product", "half_product_clean"),
)
LEVEL = {"top": 0.2, "bottom": 0.2, "middle": 0.9}


def ar1(rng: np.random.Generator, steps: int, *, rho: float, sd: float) -> Array:
    """Return a stationary AR(1) series of standard deviation sd."""
    noise = rng.normal(size=steps) * sd * np.sqrt(1 - rho**2)
    series = np.empty(steps)
    series[0] = rng.normal() * sd
    for step in range(1, steps):
        series[step] = rho * series[step - 1] + noise[step]
    return series


def simulated_run(
    *,
    steps: int = 600,
    awakening: float = 1.0,
    divergence: Array | float = 0.0,
    routing_ratio: float = 1.0,
    scale: float = 1.0,
    rho: float = 0.5,
    sd: float = 0.1,
    perturbed: int = 1,
    control: int = 0,
    spread: float = 0.03,
    collinear: bool = False,
    shares: bool = True,
    seed: int = 0,
    noise_seed: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Run:
    """Return a run of a clean expert, perturbed and control experts, logged at every step as means over layers.

    awakening: factor on the perturbed experts' bottom norms. divergence: added to the log of all their norms, beyond
    routing. routing_ratio: p_1 / p_0. scale: factor on every gradient, like another scale of the loss. spread: sd
    between experts that differ by their draw alone. collinear: one common gradient, exactly. seed: of the draws of the
    experts, and of the noise unless noise_seed names another.
    """
    noise = seed if noise_seed is None else noise_seed
    rng, run_rng = np.random.default_rng(noise), np.random.default_rng([noise, 1])
    common = {tier: ar1(rng, steps, rho=rho, sd=sd) + run_rng.normal(0, 0.1) for tier in TIERS}
    trend = np.linspace(0.5, 0, steps)
    roles = ("clean", *["perturbed"] * perturbed, *["control"] * control)
    weights = [routing_ratio if role == "perturbed" else 1.0 for role in roles]
    # A trained router never repeats a share exactly.
    chosen_ET = np.array([w * (1 + 1e-4 * np.sin(np.arange(steps) + e)) for e, w in enumerate(weights)])
    draws = draws_of(len(roles), seed, noise, 0.0 if collinear else spread)
    experts = {}
    for number, role in enumerate(roles):
        own = {tier: 0.0 if collinear else ar1(rng, steps, rho=rho, sd=sd) for tier in TIERS}
        share = chosen_ET[number] / chosen_ET.sum(axis=0)
        changed = role == "perturbed"
        log_norm = {
            tier: np.log(LEVEL[tier] * scale * share)
            + trend
            + common[tier]
            + own[tier]
            + draws["size"][number]
            + (divergence if changed else 0)
            for tier in TIERS
        }
        log_norm["bottom"] = log_norm["bottom"] + draws["bottom"][number] + (np.log(awakening) if changed else 0)
        experts[number] = _expert(
            number, role, {tier: np.exp(log_norm[tier]) for tier in TIERS}, share if shares else None
        )
    _add_divergence(experts)
    return Run(id="simulated", name="simulated.db", steps=np.arange(steps), experts=experts, facts=dict(facts or {}))


def draws_of(experts: int, seed: int, noise_seed: int, spread: float) -> dict[str, Array]:
    """Return the levels by which experts differ without any perturbation, by effect, [E].

    Runs of one seed share the most of them, as a run and its sham run do, and each run adds half as much of its own.
    """
    both = (np.random.default_rng([seed, 2]), np.random.default_rng([noise_seed, 3]))
    drawn = [rng.normal(size=(3, experts)) for rng in both]
    return dict(zip(("bottom", "size", "direction"), spread * (drawn[0] + drawn[1] / 2), strict=True))


def named(run: Run, name: str, **config: Any) -> Run:
    """Return the run under another id, with further options of its training."""
    options = {f"config.{key}": value for key, value in config.items()}
    isolated = run.isolated and named(run.isolated, name, **config)
    return replace(run, id=name, facts={**run.facts, **options}, isolated=isolated)


EFFECTS = ("awakening", "divergence", "bottom", "size", "direction")


def study(
    seeds: int,
    make: Callable[..., Run] = simulated_run,
    *,
    first_seed: int = 0,
    scale: float = 1.0,
    loss_scale: float = 1.0,
    twins: bool = False,
    config: Mapping[str, Any] | None = None,
    **made: Any,
) -> list[Run]:
    """Return runs that differ only in their seed, named after it, and the sham run of each if asked for.

    scale: perturbation_scale. loss_scale: factor on every gradient. config: further options of all of them. made:
    arguments of `make`; sham runs get no effect.
    """
    facts = {"planned_steps": made.get("steps", 600), "config.merge": "example", **made.pop("facts", {})}

    def run(seed: int, scale: float, name: str, noise_seed: int, **made: Any) -> Run:
        run = make(seed=seed, noise_seed=noise_seed, facts=facts, scale=loss_scale, **made)
        return named(run, name, seed=seed, perturbation_scale=scale, **(config or {}))

    of_shams = {key: value for key, value in made.items() if key not in EFFECTS}
    numbers = range(first_seed, first_seed + seeds)
    treated = [run(seed, scale, f"{seed}", seed, **made) for seed in numbers]
    return treated + [run(seed, 0.0, f"sham {seed}", 10**6 + seed, **of_shams) for seed in numbers if twins]


def _expert(number: int, role: str, norms: Mapping[str, Array], share: Array | None) -> Expert:
    nothing = np.full(len(norms["top"]), np.nan)
    columns = dict.fromkeys(METRICS, nothing) | {f"{tier}_norm": norm for tier, norm in norms.items()}
    columns["norm"] = np.sqrt(sum(norm**2 for norm in norms.values()))
    return Expert(number, role, columns | ({} if share is None else {"routing_weight": share}))


def _add_divergence(experts: dict[int, Expert]) -> None:
    for number, expert in experts.items():
        if number:
            gaps = [abs(expert[f"{tier}_norm"] - experts[0][f"{tier}_norm"]) for tier in TIERS]
            experts[number] = Expert(number, expert.role, {**expert.columns, "divergence": np.mean(gaps, axis=0)})


def with_norms(run: Run, expert: int, **norms: Array) -> Run:
    """Return the run with some columns of one expert replaced; its whole norm follows from its tier norms."""
    columns = {**run.experts[expert].columns, **norms}
    if any(f"{tier}_norm" in norms for tier in TIERS) and "norm" not in norms:
        columns["norm"] = np.sqrt(sum(columns[f"{tier}_norm"] ** 2 for tier in TIERS))
    changed = Expert(expert, run.experts[expert].role, columns)
    return replace(run, experts={**run.experts, expert: changed})


def write(run: Run, path: Path, **facts: Any) -> Path:
    """Write the run to a file with the logger, and return its path."""
    with DynamicsLogger(path, num_experts=len(run.experts), flush_seconds=1e9) as logger:
        log_facts(logger, run, **facts)
        log_rows(logger, run, range(len(run.steps)))
    return path


def log_facts(logger: DynamicsLogger, run: Run, **facts: Any) -> None:
    """Log the roles and the facts of the run."""
    logger.log_table("experts", [{"expert": e.index, "role": e.role} for e in run.experts.values()])
    logger.log_run({**run.facts, **facts})


def log_rows(logger: DynamicsLogger, run: Run, rows: Iterable[int], *, started: float | None = None) -> None:
    """Log some rows of the run. started: the time of step 0, if rows shall have a time, with one second a step."""
    for row in rows:
        step = int(run.steps[row])
        gradients: dict[str, dict[str, float]] = {}
        for number, expert in run.experts.items():
            whole = "perturbed_norm" if number else "clean_norm"
            gradients[f"expert_{number}"] = {
                **{f"{tier}_norm": expert[f"{tier}_norm"][row] for tier in TIERS},
                whole: expert["norm"][row],
                "routing_weight": expert["routing_weight"][row],
            }
        scores = {f"expert_{n}_divergence": e["divergence"][row] for n, e in run.experts.items() if n}
        dynamics = {"expert_gradients": gradients, "divergence_scores": scores}
        dynamics |= {} if started is None else {"wall_time": started + step}
        logger.log(step, dynamics | ({"layers": [*_layer_rows(run, step)]} if run.layers else {}))


def _layer_rows(run: Run, step: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of table `layers` at a step, of merged and of isolated gradients."""
    for source in (run, *([run.isolated] if run.isolated else [])):
        for row in np.flatnonzero(source.steps == step):
            for layer, place in enumerate(source.layers):
                for e, expert in place.items():
                    values = {
                        name: float(expert[name][row]) for name in LAYER_COLUMNS if np.isfinite(expert[name][row])
                    }
                    cosine = {"gradient_cosine": 1 - float(expert["direction"][row])}
                    yield {"step": step, "layer": layer, "expert": e, "source": source.source, **values, **cosine}


def write_spiked_run(path: Path) -> Path:
    """Write a run of 3000 steps whose perturbed bottom norm is a hundred times larger at step 1777."""
    run = simulated_run(steps=3000)
    spiked = run.experts[1]["bottom_norm"].copy()
    spiked[1777] *= 100
    return write(with_norms(run, 1, bottom_norm=spiked, norm=run.experts[1]["norm"]), path)


SCALES = (0.0, 1.0, 2.0)


def write_dose_runs(folder: Path) -> list[Path]:
    """Write runs of three scales and three seeds; the bottom tier gains with the scale."""
    return [
        write(
            simulated_run(seed=10 * seed + int(scale), awakening=1 + 0.3 * scale, steps=150),
            folder / f"{seed}-{scale:g}.db",
            run_hash=f"{seed}{int(scale)}" + "a" * 7,
            **{"config.seed": seed, "config.perturbation_scale": scale, "config.merge": "example"},
        )
        for scale in SCALES
        for seed in range(3)
    ]
