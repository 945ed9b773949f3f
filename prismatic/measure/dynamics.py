"""The dynamics of a layer's experts from the sums of their gradients: one by one, or as arrays if there are many.

Arrays save time only where there are many experts: a call of numpy costs more than the arithmetic of a few of them, all
the more right after a training step, when neither its code nor its data are in the processor's caches.
Axis letters: P tensors of an expert, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import PACKED_ABOVE, TIERS
from prismatic.measure.kernels import COLUMNS, Sums
from prismatic.measure.metrics import ExpertArrays, ExpertDynamics, cosine
from prismatic.measure.plan import Plan


def dynamics_of(plan: Plan, numbers: NDArray[np.float64], missing_E: Sequence[int]) -> Sequence[ExpertDynamics]:
    """Return each expert's dynamics from the numbers of its layer, totals over all processes.

    numbers: the sums of every gradient, [P, E, COLUMNS], or [P, E, E, COLUMNS] by the tiers of each expert with the
    basis "current"; then for each expert the share that the layer tells, and the weight and the tokens that its router
    gave, [3, E]. missing_E: tensors without a gradient.
    """
    if plan.experts > PACKED_ABOVE:
        return ExpertArrays(_arrays(plan, numbers, missing_E), peer=plan.basis == "own")
    return _each(plan, numbers.tolist(), missing_E)


def _each(plan: Plan, numbers: list[float], missing_E: Sequence[int]) -> list[ExpertDynamics]:
    """Return the dynamics one by one."""
    experts, peers = plan.experts, plan.basis == "own"
    told, weights, tokens = (numbers[len(numbers) - row * experts :][:experts] for row in (3, 2, 1))
    columns = [_columns(plan, numbers, expert) for expert in range(experts)]
    totals = [[*map(sum, own)] for own in columns]
    norms = [math.sqrt(sum(total[:3])) for total in totals]
    ratios = _ratios(columns, norms)
    shares, token_shares = _shares(weights, told), _shares(tokens)
    return [
        ExpertDynamics(
            top_norm=math.sqrt(totals[expert][0]),
            bottom_norm=math.sqrt(totals[expert][1]),
            middle_norm=math.sqrt(totals[expert][2]),
            norm=norm,
            routing_weight=shares[expert],
            gradient_cosine=None if peers else cosine(totals[expert][3], norm, norms[0]),
            bottom_to_middle=ratios[expert],
            nonfinite=int(totals[expert][-1]),
            # Where a parameter holds all experts, a gradient of zeros means that the expert had no token.
            missing_gradients=len(plan.names) if plan.fused and norm == 0 else missing_E[expert],
            token_share=token_shares[expert],
            peer=peers,
        )
        for expert, norm in enumerate(norms)
    ]


def _columns(plan: Plan, numbers: list[float], expert: int) -> list[list[float]]:
    """Return the sums of an expert's tensors, [COLUMNS][P]."""
    by_own_tiers = plan.basis == "current"
    first = expert * (plan.experts + 1 if by_own_tiers else 1) * COLUMNS
    step = plan.experts * (plan.experts if by_own_tiers else 1) * COLUMNS
    return [numbers[first + column : plan.sums * COLUMNS : step] for column in range(COLUMNS)]


def _ratios(columns: Sequence[Sequence[Sequence[float]]], norms: Sequence[float]) -> list[float | None]:
    """Return, per expert, the mean over tensors of log(bottom norm / middle norm).

    The tensors are the same for every expert: those with tiers and without a zero in any expert's norms. An expert
    without any gradient, or with a non-finite one, gets None and excludes no tensor.
    """
    sound = [math.isfinite(norm) and norm > 0 for norm in norms]
    _, bottoms, middles, *_ = zip(*compress(columns, sound), strict=True) if any(sound) else [()] * 3
    least = zip(map(min, zip(*bottoms, strict=True)), map(min, zip(*middles, strict=True)), strict=True)
    usable = [bottom > 0 and middle > 0 for bottom, middle in least]
    count = sum(usable)

    def logs(sums_P: Sequence[float]) -> float:
        return sum(map(math.log, compress(sums_P, usable)))

    return [
        (logs(own[1]) - logs(own[2])) / count / 2 if count and is_sound else None
        for own, is_sound in zip(columns, sound, strict=True)
    ]


def _shares(sums_E: Sequence[float], told_E: Sequence[float] = ()) -> Sequence[float | None]:
    """Return each expert's share of a sum; what the layer told where nothing was summed; None without either."""
    whole = sum(sums_E)
    if whole > 0:
        return [own / whole for own in sums_E]
    return told_E if told_E and all(map(math.isfinite, told_E)) else [None] * len(sums_E)


def _arrays(plan: Plan, numbers: NDArray[np.float64], missing: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """Return the same by name as arrays [E], NaN for None."""
    experts = plan.experts
    told_E, weights_E, tokens_E = numbers[plan.sums * COLUMNS :].reshape(3, experts)
    sums_PE = numbers[: plan.sums * COLUMNS].reshape(len(plan.names), -1, experts, COLUMNS)
    # Of each parameter, take each expert's row from the sums by that expert's own tiers, or by those of all.
    sums_PE = sums_PE[:, np.arange(experts) if plan.basis == "current" else 0, np.arange(experts)]
    total_E = sums_PE.sum(axis=0)
    norm_E = np.sqrt(total_E[:, :3].sum(axis=1))
    unknown_E, missing_E = np.full(experts, np.nan), np.array(missing, dtype=np.float64)
    if plan.fused:
        missing_E = np.where(norm_E == 0, len(plan.names), missing_E)
    return {
        **{f"{tier}_norm": np.sqrt(total_E[:, place]) for place, tier in enumerate(TIERS)},
        "norm": norm_E,
        "routing_weight": _share_array(weights_E, told_E if np.isfinite(told_E).all() else unknown_E),
        "gradient_cosine": unknown_E if plan.basis == "own" else _cosine_array(total_E[:, 3], norm_E),
        "bottom_to_middle": _ratio_array(sums_PE),
        "nonfinite": total_E[:, -1],
        "missing_gradients": missing_E,
        "token_share": _share_array(tokens_E, unknown_E),
    }


def _ratio_array(sums_PE: Sums) -> NDArray[np.float64]:
    whole_E = sums_PE[:, :, :3].sum(axis=(0, 2))
    sound_E = np.isfinite(whole_E) & (whole_E > 0)
    bottom_PE, middle_PE = sums_PE[:, :, 1], sums_PE[:, :, 2]
    usable_P = ((bottom_PE[:, sound_E] > 0) & (middle_PE[:, sound_E] > 0)).all(axis=1)
    if not usable_P.any():
        return np.full(len(whole_E), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # of experts that are not sound
        mean_E = (np.log(bottom_PE[usable_P]) - np.log(middle_PE[usable_P])).mean(axis=0) / 2
    return np.where(sound_E, mean_E, np.nan)


def _share_array(sums_E: NDArray[np.float64], known_E: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = sums_E.sum()
    return np.asarray(sums_E / whole) if whole > 0 else known_E


def _cosine_array(product_E: NDArray[np.float64], norm_E: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        both_E = norm_E * norm_E[0]
    known_E = (both_E > 0) & np.isfinite(both_E) & np.isfinite(product_E)
    return np.where(known_E, product_E / np.where(known_E, both_E, 1.0), np.nan)
