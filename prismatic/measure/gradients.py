"""Measure gradients: tier norms, shares and alignment of every expert in every layer (log_gradient_dynamics, measure).

Small models would pay more for each call of Python or numpy than for the reading of their gradients, so what stays from
step to step is in a plan, and layers of one form are computed together.
Axis letters: P tensors of an expert, E experts, L layers, R = P x E gradients of a layer, S sums of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prismatic.collectives import world
from prismatic.contract.schema import PACKED_ABOVE, TIERS
from prismatic.experts.discovery import find_routers
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import SPARSITY, num_experts, roles_of, tiers_of
from prismatic.experts.tiers import TierIndices
from prismatic.experts.views import View
from prismatic.measure.kernels import COLUMNS, Sums, TensorGradients, measure_tensors
from prismatic.measure.metrics import ExpertArrays, ExpertDynamics, aggregate
from prismatic.measure.plan import Gradients, Plan, plans_of
from prismatic.measure.shards import PartTiers


def log_gradient_dynamics(model: nn.Module, step: int) -> dict[str, Any] | None:
    """Measure the gradients of every layer of experts in a model: call it after backward, before the optimizer's step.

    Returns what `DynamicsLogger.log` takes: `expert_gradients` and `divergence_scores` as means over layers, `layers`
    with a row per layer and expert, and counts of entries and tensors that could not be measured; None for a model
    without such a layer or without any gradient yet. Of more than 32 experts, `layers` is read like a list but kept as
    arrays, and `roles` are theirs.
    """
    routers = find_routers(model)
    if not has_gradients(routers):
        return None
    return {"step": step, **aggregate(measure(routers), roles_of(max(routers, key=num_experts)))}


Gradient = Callable[[nn.Parameter], Tensor | None]
OfView = Callable[[View], Tensor | None]
"""The gradient of one tensor of an expert: laid out like its parameter, or of the expert's own shape."""
_NOTHING = torch.empty(0)


dot_grad: Gradient = attrgetter("grad")
"""A function that returns the gradient that the optimizer is about to use."""


def has_gradients(routers: Sequence[Any], gradient: Gradient = dot_grad) -> bool:
    """Return whether any expert of any router has a gradient; True if `gradient` fails, as `measure` will."""
    parameters = [parameter for plan in plans_of(routers) for parameter in plan.parameters]
    if any(parameter.grad is not None for parameter in parameters):
        return True
    try:
        return any(gradient(parameter) is not None for parameter in parameters)
    except Exception:  # raised again in `measure`, by all processes, none of which then waits for another
        return True


def measure(routers: Sequence[Any], gradient: Gradient = dot_grad) -> list[Sequence[ExpertDynamics]]:
    """Return the dynamics of every expert of every router, [L][E].

    gradient: a function from a parameter to its gradient.
    If several processes train the model, each sums its part of every tensor and all of them get the total: every
    process must call it.
    """
    return _measured(routers, lambda plan: [*map(gradient, plan.parameters)])


def measure_views(routers: Sequence[Any], gradient: OfView) -> list[Sequence[ExpertDynamics]]:
    """Return the same from a function of an expert's tensors, which may share a parameter."""
    return _measured(routers, lambda plan: [*map(gradient, plan.views_R)])


@torch.no_grad()
def _measured(routers: Sequence[Any], gradients: Callable[[Plan], Gradients]) -> list[Sequence[ExpertDynamics]]:
    """Return the dynamics from a function that returns the gradients of a layer, [R]."""
    plans, layers = plans_of(routers), list[_Layer]()
    fetching = [plan for plan in plans if plan.fetching]
    # Before gradients are fetched, make sure that every process has its own: the others would wait for it.
    found = world().all_or_raise(lambda: [*map(gradients, fetching)]) if fetching else []
    fetched = dict(zip(fetching, found, strict=True))

    def local_numbers() -> NDArray[np.float64]:
        for router, plan in zip(routers, plans, strict=True):
            layers.append(_Layer.of(router, plan, fetched.get(plan) or gradients(plan)))
        sums_S, routed = measure_tensors([t for layer in layers for t in layer.tensors], [*map(_routed, routers)])
        return _numbers(plans, sums_S, routed)

    count = sum(plan.sums * COLUMNS + 3 * plan.experts for plan in plans)
    return _dynamics(layers, world().all_reduce(local_numbers, count))


def _routed(router: Any) -> Tensor:
    """Return what is known of the routing: sums of weight and tokens [2, E], a layer's own shares [E], or nothing."""
    known = router.routing.peek() if isinstance(router, FoundExperts) else router.routing_weights
    return _NOTHING if known is None else known


@dataclass(frozen=True, eq=False)
class _Layer:
    """The gradients of one layer: the entries that this process counts, by parameter tensor."""

    tensors: Sequence[TensorGradients]
    """With the basis "base" there is one per tensor, else one per tensor *and* expert.

    With "each" it holds the gradients of expert 0 and of the expert; with "own", those of the expert alone.
    """
    missing: Sequence[int]
    """Per expert, the number of trained parameters without a gradient."""
    plan: Plan

    @classmethod
    def of(cls, router: Any, plan: Plan, grads_R: Gradients) -> _Layer:
        """Return the layer of the gradients of all its tensors."""
        entries_R = plan.entries(grads_R)
        by_tensor = [entries_R[at : at + plan.experts] for at in range(0, len(entries_R), plan.experts)]
        return cls(_tensors(router, plan, by_tensor), plan.missing(grads_R), plan)


def _tensors(router: Any, plan: Plan, by_tensor: Sequence[Gradients]) -> list[TensorGradients]:
    """Return the gradients [P][E] with the tiers that they are summed by."""
    experts = range(plan.experts)
    if plan.basis == "base":
        return [*map(TensorGradients, by_tensor, plan.tiers(0, tiers_of(router)))]
    if plan.basis in ("own", "each"):
        of_each = [plan.tiers(expert, tiers_of(router, expert)) for expert in experts]
        return [
            TensorGradients([own[0], own[e]][plan.basis == "own" :], of_each[e][place])
            for place, own in enumerate(by_tensor)
            for e in experts
        ]
    sparsity = getattr(getattr(router, "config", None), "sparsity", SPARSITY)
    current = [
        TierIndices.of({name: view.parameter for name, view in views.items()}, sparsity, saved=False)
        for views in plan.views
    ]
    return [
        TensorGradients(own, PartTiers(part, tiers))
        for part, own in zip(plan.parts[0], by_tensor, strict=True)
        for tiers in current
    ]


def _numbers(plans: Sequence[Plan], sums_S: Sums, routed: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the numbers that the processes add up: the sums of all layers, then what is known of their routing.

    The latter are, for each expert of a layer, the share that the layer tells, and the weight and the tokens that its
    router gave.
    """
    ends = np.cumsum([plan.sums * (2 if plan.basis == "each" else 1) for plan in plans])
    sums = [
        own_S[1::2] if plan.basis == "each" else own_S
        for plan, own_S in zip(plans, np.split(sums_S, ends[:-1]), strict=True)
    ]
    return np.concatenate([part.ravel() for part in (*sums, *map(_routing_numbers, plans, routed))])


def _routing_numbers(plan: Plan, routed: NDArray[np.float64]) -> NDArray[np.float64]:
    numbers_3E = np.zeros((3, plan.experts))
    numbers_3E[0] = np.nan
    if routed.ndim == 2:
        numbers_3E[1:] = routed
    elif len(routed):
        numbers_3E[0] = routed / world().size
    return numbers_3E


def _dynamics(layers: Sequence[_Layer], numbers: NDArray[np.float64]) -> list[Sequence[ExpertDynamics]]:
    """Return each expert's dynamics from the totals of `_numbers`; layers of one form are computed together."""
    found: list[Sequence[ExpertDynamics]] = []
    sums, routing = np.split(numbers, [COLUMNS * sum(layer.plan.sums for layer in layers)])
    for _, group in groupby(layers, lambda layer: layer.plan.form):
        own = [*group]
        plan, count = own[0].plan, len(own)
        experts = plan.experts
        sums_LPE, sums = sums[: count * plan.sums * COLUMNS], sums[count * plan.sums * COLUMNS :]
        routing_L3E, routing = routing[: count * 3 * experts], routing[count * 3 * experts :]
        sums_LPE = sums_LPE.reshape(count, len(plan.names), -1, experts, COLUMNS)
        # Of each parameter, take each expert's row from the sums by that expert's own tiers, or by those of all.
        sums_LPE = sums_LPE[:, :, np.arange(experts) if plan.basis == "current" else 0, np.arange(experts)]
        missing_LE = np.array([layer.missing for layer in own], dtype=np.float64)
        columns = _columns(plan, sums_LPE, routing_L3E.reshape(count, 3, experts), missing_LE)
        for layer in range(count):
            arrays = {name: values_LE[layer] for name, values_LE in columns.items()}
            experts_of = ExpertArrays(arrays, peer=plan.basis == "own")
            found.append(experts_of if experts > PACKED_ABOVE else experts_of[:])
    return found


def _columns(
    plan: Plan, sums_LPE: Sums, routing_L3E: NDArray[np.float64], missing_LE: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of layers of one form by name, [L, E]."""
    told_LE, weights_LE, tokens_LE = routing_L3E.swapaxes(0, 1)
    total_LE = sums_LPE.sum(axis=1)
    norms_LE = np.sqrt(total_LE[..., :3])
    norm_LE = np.sqrt(total_LE[..., :3].sum(axis=-1))
    if plan.fused:  # a gradient of zeros means that the expert had no token
        missing_LE = np.where(norm_LE == 0, len(plan.names), missing_LE)
    unknown_LE = np.full_like(norm_LE, np.nan)
    known_LE = np.where(np.isfinite(told_LE).all(axis=-1, keepdims=True), told_LE, np.nan)
    with np.errstate(all="ignore"):  # of experts without a gradient, or with one that is not finite
        return {
            **{f"{tier}_norm": norms_LE[..., place] for place, tier in enumerate(TIERS)},
            "norm": norm_LE,
            "routing_weight": _shares(weights_LE, known_LE),
            "gradient_cosine": unknown_LE if plan.basis == "own" else _cosines(total_LE[..., 3], norm_LE),
            "bottom_to_middle": _bottom_to_middle(sums_LPE),
            "nonfinite": total_LE[..., -1],
            "missing_gradients": missing_LE,
            "token_share": _shares(tokens_LE, unknown_LE),
        }


def _bottom_to_middle(sums_LPE: Sums) -> NDArray[np.float64]:
    """Return, per expert, the mean over tensors of log(bottom norm / middle norm).

    The tensors are the same for every expert: those with tiers and without a zero in any expert's norms. An expert
    without any gradient, or with a non-finite one, gets NaN and excludes no tensor.
    """
    whole_LE = sums_LPE[..., :3].sum(axis=(1, 3))
    sound_LE = np.isfinite(whole_LE) & (whole_LE > 0)
    bottom_LPE, middle_LPE = sums_LPE[..., 1], sums_LPE[..., 2]
    usable_LPE = (bottom_LPE > 0) & (middle_LPE > 0)
    usable_LP = (usable_LPE | ~sound_LE[:, None]).all(axis=-1) & sound_LE.any(axis=-1)[:, None]
    log_LPE = np.where(usable_LP[..., None] & usable_LPE, np.log(bottom_LPE / middle_LPE), 0.0)
    mean_LE = log_LPE.sum(axis=1) / usable_LP.sum(axis=-1)[:, None] / 2
    return np.where(sound_LE, mean_LE, np.nan)


def _shares(sums_LE: NDArray[np.float64], known_LE: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each expert's share of the sum of its layer; what is known where nothing was summed."""
    whole_L1 = sums_LE.sum(axis=-1, keepdims=True)
    return np.where(whole_L1 > 0, sums_LE / whole_L1, known_LE)


def _cosines(product_LE: NDArray[np.float64], norm_LE: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of each gradient with the first one; NaN if one of them is zero or not finite."""
    both_LE = norm_LE * norm_LE[:, :1]
    known_LE = (both_LE > 0) & np.isfinite(both_LE) & np.isfinite(product_LE)
    return np.where(known_LE, product_LE / both_LE, np.nan)
