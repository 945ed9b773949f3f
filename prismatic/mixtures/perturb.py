"""perturb: the documented perturbation on the experts of any mixture that is found, in place.

Axis letters: E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from prismatic.errors import ModelError
from prismatic.experts.discovery import find_routers, nothing_found
from prismatic.experts.protocol import num_experts
from prismatic.experts.treatment import Option, Treatment, record, treatment_of
from prismatic.layer.config import Mode, Strategy
from prismatic.mixtures.in_place import check_treatable, replace_weights, tiers_of_all, weights_of
from prismatic.mixtures.methods import perturbed
from prismatic.mixtures.options import check, check_integers, check_scales, check_seed, roles

MODES, STRATEGIES = get_args(Mode), get_args(Strategy)


@torch.no_grad()
def perturb(
    model: nn.Module,
    *,
    scale: float = 1.0,
    sparsity: float = 0.1,
    mode: Mode = "noise",
    strategy: Strategy = "dual_sided",
    seed: int = 0,
    control_experts: int = 0,
    control_scale: float = 0.001,
) -> nn.Module:
    """Perturb the experts of a mixture in place, as a Prismatic layer perturbs its own, and return the model.

    In each layer expert 0 stays clean. The others change by up to `scale` times the magnitude of each selected weight:
    the largest and the smallest sparsity/2 of each of the expert's tensors. The last `control_experts` change by
    control_scale only. mode, strategy: see `RouterConfig`.
    The noise depends on the seed, the layer, the expert, the tensor's name and its place among the weights. It does not
    depend on whether the model stores its experts as modules or as stacked tensors, transposed (unless square) or not.

    A callback's `attach` then knows the roles and records what was done. `copy.deepcopy` and wrappers keep that, and a
    checkpoint does not: after `from_pretrained`, give `roles=` and facts by hand.
    Call it before training, before fully_shard, and in every process with the same arguments.
    Raises ConfigError for an option out of range, and ModelError for a model without experts, with sharded or absent
    weights, with experts that share weights, or whose experts were treated before.
    """
    perturbation = Perturbation(
        scale=scale,
        sparsity=sparsity,
        mode=mode,
        strategy=strategy,
        seed=seed,
        control_experts=control_experts,
        control_scale=control_scale,
    )
    perturbation.check()
    routers = find_routers(model)
    if not routers:
        raise ModelError(nothing_found(model).replace("nothing is logged", "nothing can be perturbed"))
    for router in routers:
        roles(num_experts(router), control_experts)
        check_treatable(router)
    for number, router in enumerate(routers):
        perturbation.treat(router, number)
    return model


@dataclass(frozen=True)
class Perturbation:
    """The options of `perturb`, by their names there."""

    scale: float
    sparsity: float
    mode: Mode
    strategy: Strategy
    seed: int
    control_experts: int
    control_scale: float

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        check_scales(scale=self.scale, control_scale=self.control_scale)
        check("sparsity", self.sparsity, 0 < self.sparsity < 1, "the share of the weights that change, between 0 and 1")
        check("mode", self.mode, self.mode in MODES, f"one of {', '.join(MODES)}")
        check("strategy", self.strategy, self.strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}")
        check_integers(control_experts=(self.control_experts, 0))
        check_seed(self.seed)

    @property
    def options(self) -> dict[str, Option]:
        """The options of the experiment as they are recorded, by the names that a Prismatic layer gives them."""
        return {
            "perturbation_scale": self.scale,
            "sparsity": self.sparsity,
            "perturbation_mode": self.mode,
            "perturbation_strategy": self.strategy,
            "control_experts": self.control_experts,
            "control_scale": self.control_scale,
            "seed": self.seed,
        }

    def treat(self, router: Any, number: int) -> None:
        """Perturb the experts of a layer, and record what was done. number: of the layer, in the model's order."""
        weights_E = [weights_of(router, e) for e in range(num_experts(router))]
        tiers_E = tiers_of_all(weights_E, self.sparsity)
        found = roles(len(weights_E), self.control_experts)
        by_role = {"clean": 0.0, "perturbed": self.scale, "control": self.control_scale}
        changed = []
        for e, role in enumerate(found):
            mode: Mode = "noise" if role == "control" else self.mode
            options: Any = {"mode": mode, "strategy": self.strategy, "seed": (self.seed, number, e)}
            after = perturbed(weights_E[e], tiers_E[e], scale=by_role[role], **options)
            changed.append(replace_weights(weights_E[e], after, tiers_E[e]))
        before = treatment_of(router)
        known = before.options if before is not None else {}
        options = {**known, "num_experts": len(found) - self.control_experts, **self.options}
        seeds = tuple(self.seed if e else None for e in range(len(found)))
        scales = tuple(by_role[role] for role in found)
        record(router, Treatment(found, seeds, scales, tuple(changed), tiers_E, options))
