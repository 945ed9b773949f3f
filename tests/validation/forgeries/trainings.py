"""Simulated trainings to forge: the gradients of seven experts, by the real metrics, logged by the real logger.

Seeds come in pairs with opposite draws, so that a study of experts without an effect shows none by chance.
A gradient is a signal that all experts share, turned and scaled for each expert by a draw of its own, plus the noise of
two halves of a batch. Experts differ by chance (a standard deviation of a tenth in size), as in real trainings.
Axis letters: T logged steps, L layers, E experts, H halves of a batch, M tensors, D weights of one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from prismatic.measure.metrics import ExpertDynamics, aggregate, layer_rows
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.config import RunConfig, parse_config
from validation.analysis.statistics import Array

LAYERS, TENSORS = 2, 2
PLACES = {"top": slice(0, 10), "bottom": slice(10, 20), "middle": slice(20, 50)}
"""The weights of each tier of a tensor."""
WEIGHTS = 50
LEVEL_D = np.repeat([0.5, 0.8], [20, 30])
CORPUS = "0" * 64
PREFERRED = 1.0  # of the router's logits of perturbed experts: a chart of merged norms shows them on top
STEPS, WARMUP = 360, 50
OPTIONS = {
    "num_experts": 4,
    "control_experts": 3,
    "perturbation_scale": 1.0,
    "merge": "example",
    "num_layers": LAYERS,
    "steps": STEPS,
    "warmup_steps": WARMUP,
    "log_freq": 4,
    "probe_freq": 4,
    "weight_freq": 0,
}


@dataclass(frozen=True)
class Truth:
    """The true effect of the perturbation in a simulated training. None by default."""

    gain: float = 1.0
    """Factor on the bottom gradients of perturbed experts."""
    own: float = 0.3
    """Length of a perturbed expert's own part of the gradient, relative to the shared part; 0.3 for all others."""
    spread: float = 0.1
    """Standard deviation between experts of the log of each tier's size."""
    jitter: float = 0.4
    """Standard deviation over steps of the log of an expert's bottom gradient."""
    since: float = 0.0
    until: float = np.inf
    """Steps between which the gain lasts."""


def train(path: Path, *, seed: int, truth: Truth | None = None, **options: object) -> Path:
    """Write the run file of a simulated training, and return its path."""
    config = parse_config({**OPTIONS, "seed": seed, **options})
    dice = _dice(config, seed)
    steps = sorted({*range(0, config.steps, config.log_freq), config.steps - 1})
    truth = truth or Truth()
    shares_TLE = _shares(dice, len(steps), config)
    halves_TLEHMD = _gradients(dice, np.array(steps), config, truth)
    with DynamicsLogger(path, num_experts=len(config.roles), flush_seconds=1e9) as logger:
        _log_facts(logger, config, seed)
        for row, step in enumerate(steps):
            routed = [_dynamics(h, p) for h, p in zip(halves_TLEHMD[row], shares_TLE[row], strict=True)]
            dynamics = aggregate(routed)
            if config.probe_freq and (step % config.probe_freq == 0 or step == steps[-1]):
                dynamics["layers"] += layer_rows([_dynamics(h, None) for h in halves_TLEHMD[row]], "isolated")
            loss = 2 + np.exp(-row / 60) + dice.normal(0, 0.05)
            logger.log(step, dynamics, loss=loss, learning_rate=config.learning_rate)
    return path


def _dice(config: RunConfig, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *(round(1e6 * x) for x in (config.perturbation_scale, config.learning_rate))])


def _log_facts(logger: DynamicsLogger, config: RunConfig, seed: int) -> None:
    """Record what the trainer records about a run that it finished."""
    facts = {f"config.{name}": value for name, value in config.facts().items()}
    known = {"run_hash": config.run_hash(CORPUS), "corpus_sha256": CORPUS, "planned_steps": config.steps}
    known |= {"warmup_steps": config.warmup_steps, "routers": LAYERS, "log_freq": config.log_freq}
    known |= {"mixture": "parameters", "exit_state": "finished"}
    logger.log_run({**Thresholds().changed(config.thresholds).registration(), **facts, **known})
    scales = {"clean": 0.0, "perturbed": config.perturbation_scale, "control": config.control_scale}
    for expert, role in enumerate(config.roles):
        changed = {f"changed_{tier}": float(tier != "middle" and scales[role] > 0) for tier in TIERS}
        row = {"expert": expert, "role": role, "seed": seed if expert else None, "scale": scales[role], **changed}
        logger.log_table("experts", [row])
    for layer in range(LAYERS):
        sizes = {tier: TENSORS * (place.stop - place.start) for tier, place in PLACES.items()}
        names = {tier: None if tier == "middle" else f"{seed:014d}{layer}{tier[0]}" for tier in TIERS}
        logger.log_table("tiers", [{"layer": layer, "tier": t, "weights": sizes[t], "hash": names[t]} for t in TIERS])


def _wave(dice: np.random.Generator, *shape: int, rho: float = 0.3) -> Array:
    """Return stationary AR(1) series of variance 1 along the first axis."""
    wave = dice.normal(size=shape)
    for row in range(1, shape[0]):
        wave[row] = rho * wave[row - 1] + np.sqrt(1 - rho**2) * wave[row]
    return wave


def _perturbed(config: RunConfig) -> NDArray[np.bool_]:
    return np.array([role == "perturbed" for role in config.roles])


def _shares(dice: np.random.Generator, rows: int, config: RunConfig) -> Array:
    experts = len(config.roles)
    logit_TLE = 0.3 * (_wave(dice, rows, LAYERS, experts, rho=0.8) + dice.normal(size=(LAYERS, experts)))
    logit_TLE += PREFERRED * _perturbed(config)
    return np.asarray(np.exp(logit_TLE) / np.exp(logit_TLE).sum(axis=-1, keepdims=True))


def _gradients(dice: np.random.Generator, steps_T: NDArray[np.int64], config: RunConfig, truth: Truth) -> Array:
    """Return each expert's gradients on the two halves of every batch, [T, L, E, H, M, D]."""
    rows, experts, perturbed_E = len(steps_T), len(config.roles), _perturbed(config)
    length_E11 = np.where(perturbed_E, truth.own, 0.3)[:, None, None] * np.exp(dice.normal(0, 0.1, (experts, 1, 1)))
    shared = _wave(dice, rows, LAYERS, 1, TENSORS, WEIGHTS)
    own = _wave(dice, rows, LAYERS, experts, TENSORS, WEIGHTS)
    gradient = (shared + length_E11 * own) / np.sqrt(1 + length_E11**2) * LEVEL_D
    draws, sign = _dice(config, config.seed // 2), (-1) ** config.seed
    decay_T1 = np.exp(-steps_T / 100)[:, None]
    log_size = np.zeros((rows, LAYERS, experts, 1, WEIGHTS)) + decay_T1[..., None, None, None]
    for tier, place in PLACES.items():
        level_TLE = sign * (
            draws.normal(0, truth.spread, experts) + draws.normal(0, truth.spread, (1, LAYERS, experts))
        )
        if tier == "bottom":
            gain_T1 = np.log(truth.gain) * ((steps_T >= truth.since) & (steps_T < truth.until))[:, None]
            level_TLE = level_TLE + (truth.jitter * _wave(dice, rows, experts) + gain_T1 * perturbed_E)[:, None]
        log_size[..., place] += level_TLE[..., None, None]
    noise = 0.5 * np.sqrt([0.7, 0.3])
    batch = noise[0] * dice.normal(size=(rows, LAYERS, 1, 2, TENSORS, WEIGHTS))
    alone = noise[1] * dice.normal(size=(rows, LAYERS, experts, 2, TENSORS, WEIGHTS))
    size = np.exp(log_size)[:, :, :, None]
    return np.asarray(size * (gradient[:, :, :, None] + (batch + alone) * LEVEL_D))


def _dynamics(halves_EHMD: Array, share_E: Array | None) -> list[ExpertDynamics]:
    """Return the metrics of one layer, routed with these shares, or measured alone without any."""
    mean_EMD = halves_EHMD.mean(axis=1)
    clean_HMD, norm_E = halves_EHMD[0], np.sqrt((mean_EMD**2).sum(axis=(1, 2)))
    tier_EM = {tier: np.sqrt((mean_EMD[..., place] ** 2).sum(axis=-1)) for tier, place in PLACES.items()}
    ratio_E = np.log(tier_EM["bottom"] / tier_EM["middle"]).mean(axis=-1)
    tier_E = {tier: np.sqrt((norm_EM**2).sum(axis=-1)) for tier, norm_EM in tier_EM.items()}
    cosine_E = np.einsum("emd,md->e", mean_EMD, mean_EMD[0]) / (norm_E * norm_E[0])
    product_E = np.einsum("emd,emd->e", halves_EHMD[:, 0], halves_EHMD[:, 1])
    clean_E = (
        np.einsum("emd,md->e", halves_EHMD[:, 0], clean_HMD[1])
        + np.einsum("emd,md->e", halves_EHMD[:, 1], clean_HMD[0])
    ) / 2
    factor_E = np.ones(len(norm_E)) if share_E is None else share_E
    return [
        ExpertDynamics(
            **{f"{tier}_norm": float(factor_E[e] * tier_E[tier][e]) for tier in TIERS},
            norm=float(factor_E[e] * norm_E[e]),
            routing_weight=None if share_E is None else float(share_E[e]),
            gradient_cosine=float(cosine_E[e]),
            bottom_to_middle=float(ratio_E[e]),
            nonfinite=0,
            missing_gradients=0,
            half_product=float(product_E[e]) if share_E is None else None,
            half_product_clean=float(clean_E[e]) if share_E is None and e else None,
        )
        for e in range(len(norm_E))
    ]
