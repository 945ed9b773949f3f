"""Simulated runs of peers: experts without roles, whose pairs the isolated probe compared, in memory and as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prismatic.contract.options import as_facts
from prismatic.runfile.logger import DynamicsLogger
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import log_facts, log_rows
from validation.analysis.run import Expert, Run


def peer_run(
    *, experts: int = 8, apart: float = 0.3, seed: int = 0, pairs: bool = True, sd: float = 0.02, **made: Any
) -> Run:
    """Return a run of peers. apart: 1 - cosine between each two. pairs: False for a probe that compared none.

    sd: spread of `apart` between pairs. made: arguments of `probed_run`.
    """
    facts = {"mixture": "top_k", **as_facts({"seed": seed, "learning_rate": 1e-3}), **made.pop("facts", {})}
    run = as_peers(probed_run(perturbed=experts - 1, control=0, seed=seed, facts=facts, **made))
    run = replace(run, id=f"peers{seed}", name=f"peers{seed}.db")
    if run.isolated is None or not pairs:
        return run
    rng = np.random.default_rng([seed, 7])
    compared = [_pairs(layer, apart, sd, rng) for layer in run.isolated.layers]
    return replace(run, isolated=replace(run.isolated, id=run.id, pairs=compared))


def as_peers(run: Run) -> Run:
    """Return the run with the role of a peer for every expert, without the options of another trainer."""

    def named(place: Mapping[int, Expert]) -> dict[int, Expert]:
        return {e: Expert(e, "peer", expert.columns) for e, expert in place.items()}

    facts = {name: value for name, value in run.facts.items() if name != "config.merge"}
    isolated = run.isolated and as_peers(run.isolated)
    layers = [named(layer) for layer in run.layers]
    return replace(run, experts=named(run.experts), layers=layers, facts=facts, isolated=isolated)


def _pairs(layer: Mapping[int, Expert], apart: float, sd: float, rng: np.random.Generator) -> dict[Any, Any]:
    found = {}
    for e, one in layer.items():
        for f, other in layer.items():
            if e < f:
                rows = len(one["norm"])
                both = np.sqrt(np.abs(one["half_product"] * other["half_product"]))
                direction = apart + rng.normal(0, sd) + rng.normal(0, sd, rows)
                found[e, f] = {
                    "half_product": (1 - direction) * both,
                    "weight_distance": np.full(rows, 1.3),
                    "output_distance": np.full(rows, 0.4),
                }
    return found


def peer_study(seeds: int, **made: Any) -> list[Run]:
    """Return runs of peers that differ only in the seed."""
    return [peer_run(seed=seed, noise_seed=seed, **made) for seed in range(seeds)]


def write_peers(run: Run, path: Path, **facts: Any) -> Path:
    """Write a run of peers with the logger, its pairs with it, and return its path."""
    with DynamicsLogger(path, num_experts=len(run.experts), flush_seconds=1e9) as logger:
        log_facts(logger, run, run_hash=run.id, **facts)
        log_rows(logger, run, range(len(run.steps)))
        if run.isolated is not None and run.isolated.pairs:
            logger.log_table("pairs", [*_pair_rows(run.isolated)])
    return path


def _pair_rows(run: Run) -> Iterator[dict[str, Any]]:
    for layer, pairs in enumerate(run.pairs):
        for (expert, other), columns in pairs.items():
            for row, step in enumerate(run.steps):
                values = {name: float(column[row]) for name, column in columns.items()}
                yield {"step": int(step), "layer": layer, "expert": expert, "other": other, **values}
