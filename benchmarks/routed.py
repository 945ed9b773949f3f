"""Simulated runs whose experts differ in their routing alone: merged gradients without a probe.

Axis letters: B examples of a batch, E experts, D weights, T rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from simulated import Design, Rows, run_of_columns

from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array

DESIGN, ROWS = Design(layers=1), Rows(probe=False)
TIERS_OF = np.repeat(["top", "bottom", "middle"], [6, 6, 52])  # of the weights, by place
DORMANT = 0.1  # the signal of bottom weights, relative to the others
BATCH = 32
NORMS = ("norm", "top_norm", "bottom_norm", "middle_norm")


def routed_run(seed: int, dice: np.random.Generator, *, bias: float, spread: float, signal: float) -> Run:
    """Return a run of experts with equal weights, merged for each example by a router with a bias for perturbed ones.

    spread: standard deviation of an expert's logit over the examples. signal: length of the mean gradient; the noise of
    an example has length one.
    """
    steps = np.arange(0, DESIGN.steps, ROWS.every)
    roles, weights = np.array(DESIGN.roles), len(TIERS_OF)
    logit_E = dice.normal(0, 0.1, len(roles)) + bias * (roles == "perturbed")
    mean_D = dice.normal(size=weights) * np.where(TIERS_OF == "bottom", DORMANT, 1.0)
    mean_D *= signal / np.linalg.norm(mean_D)
    gradient_TBD = mean_D + dice.normal(0, weights**-0.5, (len(steps), BATCH, weights))
    logit_TBE = logit_E + dice.normal(0, spread, (len(steps), BATCH, len(roles)))
    share_TBE = np.exp(logit_TBE) / np.exp(logit_TBE).sum(axis=-1, keepdims=True)
    merged_TED = share_TBE.transpose(0, 2, 1) @ gradient_TBD / BATCH
    share_E1T = share_TBE.mean(axis=1).T[:, None]
    facts = DESIGN.facts(seed, twin=False, log_freq=ROWS.every, probe_freq=0)
    return run_of_columns(DESIGN, ROWS, steps, _columns(merged_TED, share_E1T), share_E1T, facts)


def _columns(merged_TED: Array, share_E1T: Array) -> dict[str, Array]:
    """Return norms relative to the shares, as of isolated gradients, and directions, [E, 1, T]."""
    norm_TE = np.linalg.norm(merged_TED, axis=-1)
    cosine_TE = np.einsum("ted,td->te", merged_TED, merged_TED[:, 0]) / (norm_TE * norm_TE[:, :1])
    found = {"norm": norm_TE.T[:, None] / share_E1T, "direction": 1 - cosine_TE.T[:, None]}
    for tier in ("top", "bottom", "middle"):
        part_TE = np.linalg.norm(merged_TED[:, :, tier == TIERS_OF], axis=-1)
        found[f"{tier}_norm"] = part_TE.T[:, None] / share_E1T
    return found


def with_tokens(run: Run, share: float) -> Run:
    """Return a run as of a top-k router whose perturbed experts get a share of the tokens of the others."""

    def of(experts: Any) -> dict[int, Expert]:
        found = {}
        for number, expert in experts.items():
            tokens = np.full(len(run.steps), 0.2 * (share if expert.role == "perturbed" else 1.0))
            norms = {name: expert[name] / expert["routing_weight"] * tokens for name in NORMS}
            found[number] = replace(expert, columns={**expert.columns, **norms, "routing_weight": tokens})
        return found

    facts = {name: value for name, value in run.facts.items() if name != "config.merge"} | {"mixture": "top_k"}
    return replace(run, facts=facts, experts=of(run.experts), layers=[of(layer) for layer in run.layers])
