"""The weights of a layer's experts, to be read and replaced in place, however the model stores them.

Axis letters: E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prismatic.contract.schema import TIERS
from prismatic.errors import ModelError
from prismatic.experts.found import FoundExperts
from prismatic.experts.protocol import num_experts, views_of
from prismatic.experts.tiers import TierIndices, is_sharded
from prismatic.experts.treatment import treatment_of
from prismatic.layer.router import Prismatic

Weights = Mapping[str, Tensor]
"""The tensors of one expert, by name."""


def check_treatable(router: Any) -> None:
    """Raise ModelError for a layer whose experts cannot be changed in place, or were changed before."""
    name = type(router.module if isinstance(router, FoundExperts) else router).__name__
    if isinstance(router, Prismatic):
        raise ModelError(
            "a Prismatic layer perturbs its experts by its own config, so perturb() would do it twice. Set "
            "RouterConfig(perturbation_scale=..., control_experts=...) instead."
        )
    before = treatment_of(router)
    if before is not None and any(share for shares in before.changed for share in shares.values()):
        done = ", ".join(f"{key}={value}" for key, value in before.options.items())
        raise ModelError(
            f"the experts of {name} were treated before ({done}). Build the model again, and treat it once."
        )
    seen: dict[int, int] = {}
    for expert in range(num_experts(router)):
        for view in views_of(router, expert).values():
            parameter = view.parameter
            if is_sharded(parameter):
                raise ModelError(
                    f"{name}.{view.name} is sharded, so no process has whole experts. Perturb or upcycle the model "
                    "before fully_shard, in every process with the same seed."
                )
            if parameter.is_meta or not parameter.is_floating_point():
                raise ModelError(
                    f"{name}.{view.name} is {'without values (meta)' if parameter.is_meta else parameter.dtype}, so it "
                    "cannot be changed. Load the weights as floating-point numbers first."
                )
            if view.expert is None and seen.setdefault(id(parameter), expert) != expert:
                raise ModelError(
                    f"experts {seen[id(parameter)]} and {expert} of {name} share the weights {view.name}, so that a "
                    "change of one changes the other. Give each expert its own, by copy.deepcopy."
                )


def weights_of(router: Any, expert: int) -> dict[str, Tensor]:
    """Return views of an expert's weights; writing to them changes the model."""
    found = {name: view.of(view.parameter.detach()) for name, view in views_of(router, expert).items()}
    return {name: weight for name, weight in found.items() if weight is not None}


def tiers_of_all(weights_E: Sequence[Weights], sparsity: float) -> tuple[TierIndices, ...]:
    """Return the tiers of each expert's weights; copies of the first share its object."""
    first = TierIndices.of(weights_E[0], sparsity, saved=False)
    return tuple(
        first if _equal(weights, weights_E[0]) else TierIndices.of(weights, sparsity, saved=False)
        for weights in weights_E
    )


def _equal(weights: Weights, others: Weights) -> bool:
    return all(torch.equal(weight, others[name]) for name, weight in weights.items())


def replace_weights(weights: Weights, after: Weights, tiers: TierIndices) -> dict[str, float]:
    """Write new values into an expert's weights; return, by tier, the share that changed."""
    hits = dict.fromkeys(TIERS, 0)
    for name, weight in weights.items():
        new = after[name].to(weight)
        differs = (new != weight).flatten()
        ends = {tier: int(differs[indices].sum()) for tier, indices in zip(TIERS, tiers[name], strict=False)}
        for tier, count in {**ends, "middle": int(differs.sum()) - sum(ends.values())}.items():
            hits[tier] += count
        weight.copy_(new)
    sizes = tiers.sizes(sum(weight.numel() for weight in weights.values()))
    return {tier: hits[tier] / sizes[tier] if sizes[tier] else 0.0 for tier in TIERS}
