"""The series that the verdict compares (formulas: docs/verdict.md, "Series").

Axis letters: T logged steps. NaN means missing everywhere; a zero norm is a real zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from prismatic.contract.schema import TIERS
from validation.analysis.run import Expert, Run, log
from validation.analysis.statistics import Array


def bottom_ratio(expert: Expert, clean: Expert) -> Array:
    """Log ratio of the bottom norms: what a person comparing two lines on the chart sees."""
    return expert.log("bottom_norm") - clean.log("bottom_norm")


def bottom_gain(expert: Expert, clean: Expert) -> Array:
    """Difference in differences: the bottom tier's log ratio beyond the middle tier's.

    Any factor common to all tiers (routing share, scale of the loss) cancels. Taken per parameter tensor where the run
    has logged that, since pooling tensors of different shape first shows a small spurious rise.
    """
    per_tensor = expert["bottom_to_middle"] - clean["bottom_to_middle"]
    if _mostly_finite(per_tensor):
        return per_tensor
    return bottom_ratio(expert, clean) - (expert.log("middle_norm") - clean.log("middle_norm"))


def related_gains(run: Run) -> list[Array]:
    """What the bottom and the top tier of every other expert gained beyond the middle tier: related of `bottom_gain`.

    Their noise is of the same kind, whatever their level is.
    """
    clean, found = run.experts[0], []
    for expert in run.experts.values():
        if expert.role != "clean":
            middle = expert.log("middle_norm") - clean.log("middle_norm")
            found += [expert.log(f"{t}_norm") - clean.log(f"{t}_norm") - middle for t in ("bottom", "top")]
    return found


def ratio_beyond_routing(run: Run, expert: int) -> dict[str, Array]:
    """Per tier, the log ratio of the norms beyond the routing ratio; beyond the middle tier's where no share is logged.

    Taken in each layer and then averaged, where layers are logged: layers have routers of their own, and a mean of
    norms over layers is no longer a share times one gradient. Only of merged parameters a gradient is proportional to
    the share; a router that sends tokens gives an expert other tokens, and not only more of them.
    """
    per_layer = [_ratio_beyond_routing(layer[expert], layer[0], run) for layer in _places(run, expert)]
    return {tier: np.mean([one[tier] for one in per_layer], axis=0) for tier in TIERS}


def _ratio_beyond_routing(expert: Expert, clean: Expert, run: Run) -> dict[str, Array]:
    ratios = {tier: expert.log(f"{tier}_norm") - clean.log(f"{tier}_norm") for tier in TIERS}
    share = expert.log("routing_weight") - clean.log("routing_weight")
    reference = share if run.merges_parameters and _mostly_finite(share) else ratios["middle"]
    return {tier: ratio - reference for tier, ratio in ratios.items()}


def divergence(run: Run, expert: Expert) -> dict[str, Array]:
    """How far an expert's gradient is from the clean one's: in direction where that can be seen, else in size by tier.

    The direction can be seen in isolated gradients and where experts are not merged, and with merged parameters only
    with one merge per example: with one merge per batch all experts share one gradient, and a cosine below 1 comes from
    elsewhere.
    """
    if _directional(run, expert):
        return {"direction": expert["direction"]}
    return ratio_beyond_routing(run, expert.index)


def _directional(run: Run, expert: Expert) -> bool:
    seen = run.source == "isolated" or run.config.get("merge") == "example" or not run.merges_parameters
    return seen and _mostly_finite(expert["direction"])


def by_layer(run: Run, expert: int) -> list[dict[str, Array]]:
    """The series of `divergence` and `bottom_gain` in each layer that is logged; of the whole run where none is.

    Layers without this expert or the clean one have no series.
    """
    if not any(expert in layer and 0 in layer for layer in run.layers):
        return [_compared(run, run.experts[expert], run.experts[0])]
    directional = _directional(run, run.experts[expert])
    return [
        _compared(run, layer[expert], layer[0], directional=directional) if expert in layer and 0 in layer else {}
        for layer in run.layers
    ]


def _compared(run: Run, expert: Expert, clean: Expert, *, directional: bool | None = None) -> dict[str, Array]:
    seen = _directional(run, expert) if directional is None else directional
    diverged = {"direction": expert["direction"]} if seen else _ratio_beyond_routing(expert, clean, run)
    return {**diverged, "bottom_gain": bottom_gain(expert, clean)}


def _places(run: Run, expert: int) -> Sequence[Mapping[int, Expert]]:
    """Where an expert can be compared to the clean one: in each layer, or in their means where no layer is logged."""
    return [layer for layer in run.layers if expert in layer and 0 in layer] or [run.experts]


def above_noise(run: Run, expert: Expert) -> Array | None:
    """Direction beyond the noise floor, the direction between the clean expert's gradients on two halves of a batch."""
    floor = run.experts[0]["noise_direction"]
    return expert["direction"] - floor if _mostly_finite(floor) else None


def dormancy(run: Run) -> Array:
    """Log of how much gradient a bottom weight of the clean expert receives, relative to a middle weight."""
    clean = run.experts[0]
    sparsity = run.number("config.sparsity")
    half = (sparsity if sparsity and 0 < sparsity < 1 else 0.1) / 2
    weights = run.weights or {"bottom": half, "middle": 1 - 2 * half}
    per_weight = {tier: clean.log(f"{tier}_norm") - 0.5 * np.log(weights[tier]) for tier in ("bottom", "middle")}
    return np.asarray(per_weight["bottom"] - per_weight["middle"])


def is_collinear(run: Run, expert: int) -> bool:
    """Whether both experts' gradients are one common gradient times a factor: a fact of structure, not of statistics.

    It must hold in every layer, where layers are logged. Gradients measured alone have nothing in common but the batch.
    """
    if run.source == "isolated":
        return False
    return all(_is_collinear(layer[expert], layer[0]) for layer in _places(run, expert))


def _is_collinear(expert: Expert, clean: Expert) -> bool:
    usable = expert.tiers_usable & clean.tiers_usable
    if usable.sum() < 3:
        return False
    ratios = np.stack([expert.log(f"{t}_norm")[usable] - clean.log(f"{t}_norm")[usable] for t in TIERS])
    direction = expert["direction"][usable]
    if _mostly_finite(direction):
        # A small tier hardly turns the whole: one common gradient also has one common factor in every tier.
        return float(np.nanmedian(direction)) < 1e-3 and float(np.median(np.ptp(ratios, axis=0))) < 1e-2
    if np.mean(np.ptp(ratios, axis=0) < 1e-3) >= 0.95:
        return True
    share = (expert.log("routing_weight") - clean.log("routing_weight"))[usable]
    if _mostly_finite(share):
        whole = [np.sqrt(sum(e[f"{tier}_norm"][usable] ** 2 for tier in TIERS)) for e in (expert, clean)]
        rest = log(whole[0]) - log(whole[1]) - share
        return bool(np.nanstd(rest) < 1e-3 and abs(np.nanmean(rest)) < 1e-2)
    return False


def _mostly_finite(values: Array) -> bool:
    return len(values) > 0 and float(np.isfinite(values).mean()) >= 0.8
