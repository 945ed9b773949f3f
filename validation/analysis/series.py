"""Series of a run that charts show, its dormancy, and the structural test of one common gradient.

Axis letters: E experts, T logged steps. NaN means missing; a zero norm is a real zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from validation.analysis.run import Expert, Run, columns_of, is_measured, log
from validation.analysis.statistics import Array


def bottom_gain(expert: Expert, clean: Expert) -> Array:
    """Return the bottom tier's log ratio beyond the middle tier's, [T]: see `bottom_gains`."""
    return np.asarray(bottom_gains({0: clean, 1: expert}, [1])[0])


def bottom_gains(layer: Mapping[int, Expert], experts: Sequence[int]) -> Array:
    """Return the bottom tier's log ratio beyond the middle tier's, [E, T]: a difference in differences to expert 0.

    Any factor common to all tiers (routing share, scale of the loss) cancels. It is taken per parameter tensor where
    the run logged that, because pooling tensors of different shapes first shows a small spurious rise.
    """
    per_tensor = columns_of(layer, experts, "bottom_to_middle") - layer[0]["bottom_to_middle"]
    whole = _log_ratio(layer, experts, "bottom_norm") - _log_ratio(layer, experts, "middle_norm")
    return np.where(_mostly_finite(per_tensor)[:, None], per_tensor, whole)


def ratio_beyond_routing(run: Run, expert: int) -> dict[str, Array]:
    """Return per tier the log ratio of the norms beyond the routing ratio, or beyond the middle tier's without shares.

    It is taken in each logged layer and then averaged: layers have their own routers, and a mean of norms over layers
    is no longer a share times one gradient. A gradient is proportional to the share only if parameters are merged; a
    router of tokens gives an expert different tokens, not only more of them.
    """
    per_layer = [ratios_in_layer(run, layer, [expert]) for layer in _comparable_layers(run, expert)]
    return {tier: np.mean([ratios[tier][0] for ratios in per_layer], axis=0) for tier in TIERS}


def ratios_in_layer(run: Run, layer: Mapping[int, Expert], experts: Sequence[int]) -> dict[str, Array]:
    """Return the same of several experts of one layer, [E, T] per tier."""
    ratios = {tier: _log_ratio(layer, experts, f"{tier}_norm") for tier in TIERS}
    reference = ratios["middle"]
    if run.merges_parameters:
        share = _log_ratio(layer, experts, "routing_weight")
        reference = np.where(_mostly_finite(share)[:, None], share, reference)
    return {tier: ratio - reference for tier, ratio in ratios.items()}


def _log_ratio(layer: Mapping[int, Expert], experts: Sequence[int], metric: str) -> Array:
    """Return the log ratio of a column to that of expert 0, [E, T]."""
    return log(columns_of(layer, experts, metric)) - layer[0].log(metric)


def _comparable_layers(run: Run, expert: int) -> Sequence[Mapping[int, Expert]]:
    """Return the layers that have this expert and the clean one, or the means over layers if there are none."""
    return [layer for layer in run.layers if expert in layer and 0 in layer] or [run.experts]


def dormancy(run: Run) -> Array:
    """Return the log of the gradient per bottom weight of the clean expert relative to a middle weight, [T]."""
    clean = run.experts[0]
    sparsity = run.option("sparsity")
    half = (sparsity if sparsity and 0 < sparsity < 1 else 0.1) / 2
    known = run.weights and min(run.weights.values()) > 0
    weights = run.weights if known else {"bottom": half, "middle": 1 - 2 * half}
    per_weight = {tier: clean.log(f"{tier}_norm") - 0.5 * np.log(weights[tier]) for tier in ("bottom", "middle")}
    return np.asarray(per_weight["bottom"] - per_weight["middle"])


def is_collinear(run: Run, expert: int) -> bool:
    """Return True if both experts' gradients are one common gradient times a factor, in every logged layer.

    This is a fact of the model's structure, not of statistics. Isolated gradients never are.
    """
    if run.source == "isolated":
        return False
    return all(_is_collinear(layer[expert], layer[0]) for layer in _comparable_layers(run, expert))


def _is_collinear(expert: Expert, clean: Expert) -> bool:
    usable = expert.tiers_usable & clean.tiers_usable
    if usable.sum() < 3:
        return False
    direction = np.where(is_measured(expert["direction"]), expert["direction"], np.nan)[usable]
    has_direction = _mostly_finite(direction)
    if has_direction and float(np.nanmedian(direction)) >= 1e-3:
        return False
    ratios = np.stack([expert.log(f"{t}_norm")[usable] - clean.log(f"{t}_norm")[usable] for t in TIERS])
    if has_direction:
        # A small tier hardly turns the whole gradient, so one common gradient also needs one factor in every tier.
        return float(np.median(np.ptp(ratios, axis=0))) < 1e-2
    if np.mean(np.ptp(ratios, axis=0) < 1e-3) >= 0.95:
        return True
    share = (expert.log("routing_weight") - clean.log("routing_weight"))[usable]
    if _mostly_finite(share):
        whole = [np.sqrt(sum(e[f"{tier}_norm"][usable] ** 2 for tier in TIERS)) for e in (expert, clean)]
        rest = log(whole[0]) - log(whole[1]) - share
        return bool(np.nanstd(rest) < 1e-3 and abs(np.nanmean(rest)) < 1e-2)
    return False


def _mostly_finite(values: Array) -> NDArray[np.bool_]:
    """Return True for each row of values, along the last axis, of which at least 80 % are finite."""
    if not values.shape[-1]:
        return np.zeros(values.shape[:-1], dtype=bool)
    return np.asarray(np.isfinite(values).mean(axis=-1) >= 0.8)
