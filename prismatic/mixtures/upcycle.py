"""upcycle: a mixture of experts out of a dense model, each expert a copy of its MLP, with noise, or re-initialised.

Axis letters: E experts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prismatic.contract.schema import PEER
from prismatic.errors import ConfigError, ModelError
from prismatic.experts.discovery import find_routers
from prismatic.experts.found import SPARSITY, FoundExperts
from prismatic.experts.tiers import TierIndices
from prismatic.experts.treatment import Option, Treatment, record
from prismatic.mixtures.canonical import canonical_names
from prismatic.mixtures.dense import DenseMLP, find_mlps, replace
from prismatic.mixtures.huggingface import build_mixture, matching_mixture
from prismatic.mixtures.in_place import Weights, check_treatable, replace_weights, weights_of
from prismatic.mixtures.methods import METHODS, Method, Seed, fresh_router, partly_dropped, perturbed, with_noise
from prismatic.mixtures.options import check, check_integers, check_scales, check_seed, roles
from prismatic.mixtures.top_k import TopKMixture


@torch.no_grad()
def upcycle(
    dense: nn.Module,
    *,
    num_experts: int = 8,
    top_k: int = 2,
    method: Method = "copy",
    noise: float = 0.1,
    drop: float = 0.5,
    seed: int = 0,
    control_experts: int = 0,
    control_scale: float = 0.001,
    keep_clean: bool = True,
    router_std: float = 0.02,
    where: str | Sequence[str] | None = None,
) -> nn.Module:
    """Return a mixture of experts made from a dense model, which stays as it is.

    Each MLP becomes `num_experts` experts, and a new router sends each token to `top_k` of them, with weights that add
    up to 1. method: "copy" leaves the experts equal, so that the mixture's outputs are the dense model's; "noise" adds
    Gaussian noise, `noise` times as wide as the tensor's standard deviation; "drop" re-initialises a share `drop` of
    the intermediate units, with the mean and standard deviation of the removed weights (see `methods`).
    keep_clean: expert 0 stays a copy, the reference of every comparison. Without it all experts are treated, and are
    peers. The last `control_experts` are copies whose weights change by control_scale of their magnitude.
    A Llama or Mistral becomes transformers' Mixtral, a Qwen2 a Qwen2-MoE, a Qwen3 a Qwen3-MoE. In any other model, and
    with `where`, MLPs are replaced by layers of ours (`TopKMixture`). where: see `find_mlps`.
    The router (normal, of standard deviation router_std) and all noise depend on seed, layer and expert alone. A router
    of top_k 1 gets no gradient, because its only weight is always 1.

    A callback's `attach` knows the roles and records what was done, as for `perturb`. The run with the same seed and
    method "copy" is the sham twin of one with "noise" or "drop".
    Raises ConfigError for an option out of range, and ModelError for a model that cannot be upcycled.
    """
    upcycling = Upcycling(
        num_experts=num_experts,
        top_k=top_k,
        method=method,
        noise=noise,
        drop=drop,
        seed=seed,
        control_experts=control_experts,
        control_scale=control_scale,
        keep_clean=keep_clean,
        router_std=router_std,
    )
    upcycling.check()
    mixture, mlps = upcycling.build(dense, where)
    upcycling.fill(mixture, mlps)
    return mixture


@dataclass(frozen=True)
class Upcycling:
    """The options of `upcycle` by their names there."""

    num_experts: int
    top_k: int
    method: Method
    noise: float
    drop: float
    seed: int
    control_experts: int
    control_scale: float
    keep_clean: bool
    router_std: float

    def check(self) -> None:
        """Raise ConfigError for an option out of range."""
        check("method", self.method, self.method in METHODS, f"one of {', '.join(METHODS)}")
        check_integers(
            num_experts=(self.num_experts, 2), top_k=(self.top_k, 1), control_experts=(self.control_experts, 0)
        )
        check_seed(self.seed)
        check("top_k", self.top_k, self.top_k <= self.num_experts, f"at most num_experts = {self.num_experts}")
        for name, std in {"noise": self.noise, "router_std": self.router_std}.items():
            check(name, std, math.isfinite(std) and std > 0, "a standard deviation above 0")
        check_scales(control_scale=self.control_scale)
        check("drop", self.drop, 0 < self.drop <= 1, "the share of units that begin again, above 0 and at most 1")
        if self.control_experts and not self.keep_clean:
            raise ConfigError("control_experts need a clean expert to be compared with. Leave keep_clean as it is.")
        if self.keep_clean:
            roles(self.num_experts, self.control_experts)

    @property
    def options(self) -> dict[str, Option]:
        """The options of the experiment as they are recorded; those of other methods are 0.

        `num_experts` does not count the controls, as in the config of a Prismatic layer.
        """
        return {
            "upcycle_method": self.method,
            "upcycle_noise": self.noise if self.method == "noise" else 0.0,
            "upcycle_drop": self.drop if self.method == "drop" else 0.0,
            "upcycle_clean": self.keep_clean,
            "num_experts": self.num_experts - self.control_experts,
            "top_k": self.top_k,
            "control_experts": self.control_experts,
            "control_scale": self.control_scale,
            "router_std": self.router_std,
            "seed": self.seed,
        }

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each expert."""
        return roles(self.num_experts, self.control_experts) if self.keep_clean else (PEER,) * self.num_experts

    def build(self, dense: nn.Module, where: str | Sequence[str] | None) -> tuple[nn.Module, list[DenseMLP]]:
        """Return the mixture, whose routers and experts have yet to be filled, and the MLPs of the dense model."""
        if find_routers(dense):
            raise ModelError(
                f"{type(dense).__name__} is a mixture of experts already. Give a dense model, or use prismatic.perturb."
            )
        matching = matching_mixture(dense) if where is None else None
        if matching is not None:
            mixture = build_mixture(dense, matching, num_experts=self.num_experts, top_k=self.top_k)
            return mixture, find_mlps(dense, "model.layers.*.mlp")
        mixture = copy.deepcopy(dense)
        mlps = find_mlps(mixture, where)
        for mlp in mlps:
            layer = TopKMixture(mlp.module, mlp.hidden_size, num_experts=self.num_experts, top_k=self.top_k)
            replace(mixture, mlp, layer)
        return mixture, mlps

    def fill(self, mixture: nn.Module, mlps: Sequence[DenseMLP]) -> None:
        """Write the routers and the experts of a mixture, and record what was done."""
        layers: dict[str, FoundExperts] = {layer.path: layer for layer in find_routers(mixture)}
        for number, mlp in enumerate(mlps):
            layer = layers.get(f"{mlp.path}.experts")
            if layer is None:
                raise ModelError(
                    f"{mlp.path} did not become a layer of experts, because its copies have no weights of their own. "
                    "Name other modules by where=."
                )
            check_treatable(layer)
            gate = mixture.get_submodule(f"{mlp.path}.gate").get_parameter("weight")
            gate.copy_(fresh_router(gate.shape, std=self.router_std, seed=self.seed, layer=number))
            self.treat(layer, mlp, number)

    def treat(self, layer: FoundExperts, mlp: DenseMLP, number: int) -> None:
        """Write the experts of a layer, and record what was done. number: of the layer, in the model's order."""
        if self.method == "drop" and not mlp.unit_axes:
            raise ModelError(
                f"{mlp.path} is not an MLP of two or three linear layers, so it has no intermediate units to "
                're-initialise. Use method="noise".'
            )
        names = _dense_names(weights_of(layer, 0), dict(mlp.module.named_parameters()))
        base = {name: mlp.module.get_parameter(own).detach() for name, own in names.items()}
        unit_axes = {name: mlp.unit_axes[own] for name, own in names.items() if own in mlp.unit_axes}
        tiers = TierIndices.of(base, SPARSITY, saved=False)
        changed = []
        for e, role in enumerate(self.roles):
            weights = weights_of(layer, e)
            for name, weight in weights.items():
                weight.copy_(base[name])
            after = self._made(role, base, unit_axes, tiers, (self.seed, number, e))
            changed.append(replace_weights(weights, after, tiers))
        treated = 0.0 if self.method == "copy" else None
        scales = tuple({"clean": 0.0, "control": self.control_scale}.get(role, treated) for role in self.roles)
        seeds = tuple(None if role == "clean" else self.seed for role in self.roles)
        bases = (tiers,) * len(self.roles) if self.keep_clean else ()
        record(layer, Treatment(self.roles, seeds, scales, tuple(changed), bases, self.options))

    def _made(self, role: str, base: Weights, unit_axes: Mapping[str, int], tiers: TierIndices, seed: Seed) -> Weights:
        """Return the weights of one expert."""
        if role == "control":
            return perturbed(base, tiers, scale=self.control_scale, seed=seed)
        if role == "clean" or self.method == "copy":
            return base
        if self.method == "noise":
            return with_noise(base, noise=self.noise, seed=seed)
        return partly_dropped(base, unit_axes, share=self.drop, seed=seed)


def _dense_names(mixed: Iterable[str], dense: Iterable[str]) -> dict[str, str]:
    """Return, by the name of an expert's tensor in the mixture, its name in the dense MLP."""
    known = {canonical: name for name, canonical in canonical_names(dense).items()}
    return {name: known[canonical] for name, canonical in canonical_names(mixed).items()}
