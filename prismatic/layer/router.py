"""The Prismatic layer: one clean copy of a block, perturbed copies, and a router that merges their parameters.

Soft merging of experts with adaptive routing: Muqeeth, Liu & Raffel 2023 (SMEAR, arXiv 2306.03745), section 3.
Axis letters: B sequences of a batch, S positions, D hidden size, E experts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from prismatic.collectives import ALONE, mean_over_processes, world
from prismatic.contract.schema import TIERS
from prismatic.errors import ModelError
from prismatic.experts.tiers import TierIndices, is_sharded
from prismatic.layer.config import RouterConfig
from prismatic.layer.optimizer_steps import STEPS
from prismatic.layer.perturbation import noise_seed, perturb


class Prismatic(nn.Module):
    """A layer of experts made from one block and merged by a router: `forward(x [B, S, D]) -> [B, S, D]`.

    block: the initialised module to copy, [B, S, D] -> [B, S, D]; it becomes expert 0. hidden_size: D.
    layer: this layer's index in the model; it varies the noise.
    roles: the role of each expert (clean, perturbed, control).
    routing_weights: [E], each expert's mean share in the next step's gradient, over the forward passes since the
    weights last changed; evaluations are not counted.
    forced: the number of the expert that runs alone, unrouted; the isolated probe sets it for a moment.
    balance: the imbalance of the last batch, if the config has load_balancing.
    routes_together: route over the batches of all processes as one batch; `share_routing` sets it.
    The first training forward pass starts counting optimizer steps, see `layer/optimizer_steps.py`.
    Raises ModelError for a block without parameters or with weights that are not finite.
    """

    mixture = "parameters"
    routing_weights: Tensor
    changed_EK: Tensor

    def __init__(self, block: nn.Module, hidden_size: int, config: RouterConfig | None = None, *, layer: int = 0):
        super().__init__()
        self.config = config or RouterConfig()
        self.layer = layer
        self.roles = self.config.roles
        if not any(True for _ in block.parameters()):
            raise ModelError(
                f"{type(block).__name__} has no parameters, so there is nothing to perturb or merge; "
                "wrap a module that has some."
            )
        self.experts = nn.ModuleList([block, *(copy.deepcopy(block) for _ in self.roles[1:])])
        self.parameter_names = [name for name, _ in block.named_parameters()]
        self.tiers = TierIndices()
        self.forced: int | None = None
        self.balance: Tensor | None = None
        self.routes_together = False
        self._merging = False
        self._weights_at_forward: tuple[int, int] | None = None
        self._batches = 0
        for module in block.modules():
            module.register_forward_pre_hook(self._refuse_recomputation)
        self.register_buffer("changed_EK", torch.zeros(len(self.roles), len(TIERS)))
        self.register_buffer("routing_weights", torch.full((len(self.roles),), 1 / len(self.roles)), persistent=False)
        self.norm = nn.LayerNorm(hidden_size)
        self.gate = nn.Linear(hidden_size, len(self.roles))
        if self.config.routing == "frozen":
            self.norm.requires_grad_(False)
            self.gate.requires_grad_(False)
        self.reset_experts()

    @torch.no_grad()
    def reset_experts(self) -> None:
        """Make every expert again from expert 0: call it after initialising the model's weights again."""
        clean = dict(self.experts[0].named_parameters())
        self.tiers.rank(clean, self.config.sparsity)
        for expert, role in enumerate(self.roles):
            for name, parameter in self.experts[expert].named_parameters():
                if expert:
                    parameter.copy_(self._perturbed(clean[name], name, expert, role))
        self.changed_EK.copy_(torch.tensor([self._changed(expert) for expert in range(len(self.roles))]))

    def scale_of(self, expert: int) -> float:
        """Return the largest perturbation of this expert's selected weights, as a share of their magnitude."""
        return {"clean": 0.0, "perturbed": self.config.perturbation_scale, "control": self.config.control_scale}[
            self.roles[expert]
        ]

    def _perturbed(self, weight: Tensor, name: str, expert: int, role: str) -> Tensor:
        return perturb(
            weight,
            self.tiers[name],
            scale=self.scale_of(expert),
            mode="noise" if role == "control" else self.config.perturbation_mode,
            strategy=self.config.perturbation_strategy,
            seed=noise_seed(self.config.seed, self.layer, expert, name),
        )

    def _changed(self, expert: int) -> list[float]:
        """Return the share of each tier's weights, in the order of TIERS, that differ from expert 0."""
        changed, total = dict.fromkeys(TIERS, 0), self.tiers.sizes(sum(p.numel() for p in self.experts[0].parameters()))
        for name, weight in self.experts[expert].named_parameters():
            differs = (weight != self.experts[0].get_parameter(name)).flatten().cpu()
            for tier, indices in zip(("top", "bottom"), self.tiers[name], strict=True):
                hits = int(differs[indices.cpu()].sum())
                changed[tier] += hits
                changed["middle"] -= hits
            changed["middle"] += int(differs.sum())
        return [changed[tier] / total[tier] if total[tier] else 0.0 for tier in TIERS]

    def route(self, x: Tensor) -> Tensor:
        """Return routing weights [B, E], float32 also under autocast; they sum to 1 over the experts."""
        if self.config.routing == "frozen":
            return self.routing_weights.new_full((x.shape[0], len(self.roles)), 1 / len(self.roles))
        routed_by = x[:, 0] if self.config.router_input == "first" else x.mean(1)
        with torch.autocast(x.device.type, enabled=False):
            p_BE = self.gate(self.norm(routed_by.to(self.gate.weight.dtype))).float().softmax(-1)
        if self.config.load_balancing:
            self.balance = load_imbalance(p_BE, self._batch_mean)
        return self._dropped(p_BE) if self.training and self.config.expert_dropout else p_BE

    def _dropped(self, p_BE: Tensor) -> Tensor:
        """Drop some experts of each sequence, never all, and rescale the other shares to sum to 1."""
        processes = world() if self.routes_together else ALONE
        # Drawn for the whole batch, so that a sequence loses the same experts in any process.
        drawn_BE = torch.rand((processes.size * len(p_BE), p_BE.shape[1]), dtype=p_BE.dtype, device=p_BE.device)
        kept_BE = drawn_BE[processes.rank * len(p_BE) :][: len(p_BE)] >= self.config.expert_dropout
        kept_BE = kept_BE | ~kept_BE.any(-1, keepdim=True)
        p_BE = p_BE * kept_BE
        return p_BE / p_BE.sum(-1, keepdim=True).clamp_min(torch.finfo(p_BE.dtype).tiny)

    def forward(self, x: Tensor) -> Tensor:
        self._merging = True
        try:
            y = self._forward(x)
        finally:
            self._merging = False
        # FSDP2, recognised by `unshard`, puts hooks on y: an in-place operation on a view would drop them.
        return y.clone() if hasattr(self, "unshard") and y._is_view() else y

    def _forward(self, x: Tensor) -> Tensor:
        if self.forced is not None:
            alone = {name: self._parameter(self.forced, name) for name in self.parameter_names}
            return functional_call(self.experts[0], alone, (x,))
        p_BE = self.route(x)
        if torch.is_grad_enabled():  # an evaluation has no gradient, so its shares do not count
            self._remember(p_BE.detach().mean(0))
        if self.config.merge == "batch":
            return functional_call(self.experts[0], self._merged(self._batch_mean(p_BE)), (x,))
        # The CPU's fused attention has no batching rule under vmap and would run one sequence at a time.
        with sdpa_kernel(SDPBackend.MATH) if x.device.type == "cpu" else nullcontext():
            return torch.vmap(self._one_sequence, randomness="different")(self._merged(p_BE), x)

    def _batch_mean(self, values_BE: Tensor) -> Tensor:
        """Return the mean [E] over this process's sequences, or over those of all processes."""
        mean_E = values_BE.mean(0)
        return mean_over_processes(mean_E) if self.routes_together else mean_E

    @torch.no_grad()
    def _remember(self, p_E: Tensor) -> None:
        """Update routing_weights, the mean share over the batches since the weights last changed."""
        if torch.compiler.is_compiling():  # a compiled graph cannot count batches
            self.routing_weights = p_E
            return
        STEPS.watch(self)
        weights = self._weights_version()
        self._batches = self._batches + 1 if weights == self._weights_at_forward else 1
        self._weights_at_forward = weights
        before_E = self.routing_weights.to(p_E.device)
        self.routing_weights = p_E if self._batches == 1 else before_E + (p_E - before_E) / self._batches

    @property
    def stepped_since_forward(self) -> bool:
        """True if the weights changed after the last forward pass, so that gradients belong to other weights."""
        return self._weights_at_forward not in (None, self._weights_version())

    def _weights_version(self) -> tuple[int, int]:
        """Return two counts, of in-place changes of the weights and of optimizer steps.

        A sharded weight is another tensor in a forward pass than outside of it, so only steps count for it.
        """
        changes = (int(weight._version) for weight in self.experts.parameters() if not is_sharded(weight))
        return sum(changes), STEPS.count

    def _refuse_recomputation(self, module: nn.Module, _: Any) -> None:
        """Raise ModelError if a part of the block runs in a backward pass, as activation checkpointing makes it.

        It would silently be computed again with expert 0's weights in place of the merged ones.
        """
        if not torch.compiler.is_compiling() and not self._merging and torch._C._current_graph_task_id() != -1:
            raise ModelError(
                f"activation checkpointing inside an expert ({type(module).__name__}) would compute its gradients with "
                "the wrong weights; checkpoint around the whole Prismatic router instead."
            )

    def _one_sequence(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.experts[0], parameters, (x[None],))[0]

    def _merged(self, p: Tensor) -> dict[str, Tensor]:
        """Return the experts' parameters weighted by p [..., E], each of shape [..., *parameter]."""
        merged = {}
        for name in self.parameter_names:
            stacked = torch.stack([self._parameter(expert, name) for expert in range(len(self.roles))])
            merged[name] = torch.tensordot(p, stacked.float(), dims=1).to(stacked.dtype)
        return merged

    def _parameter(self, expert: int, name: str) -> Tensor:
        weight = self.experts[expert].get_parameter(name)
        if self.config.positive_control == 1 or self.roles[expert] != "perturbed":
            return weight
        bottom = self.tiers[name].bottom
        return weight if not len(bottom) else _GradientGain.apply(weight, bottom, self.config.positive_control)

    def log_gradient_dynamics(self) -> dict[str, Any] | None:
        """Measure this layer's gradients; return None before any backward. See `prismatic.measure.gradients`.

        Metrics without a value are skipped, because the documented helper adds up all metrics over layers.
        """
        from prismatic.measure.gradients import measure
        from prismatic.measure.metrics import aggregate

        if all(parameter.grad is None for parameter in self.experts.parameters()):
            return None
        dynamics = aggregate(measure([self]), self.roles)
        for values in (*dynamics["expert_gradients"].values(), dynamics["divergence_scores"]):
            for name in [name for name, value in values.items() if value is None]:
                del values[name]
        return dynamics


def load_imbalance(p_BE: Tensor, mean: Callable[[Tensor], Tensor] = lambda values_BE: values_BE.mean(0)) -> Tensor:
    """Return the imbalance: 1 if every expert is chosen equally often, E if one is always chosen. mean: over the batch.

    E x sum over experts of (share of sequences that prefer it) x (mean probability): Fedus, Zoph & Shazeer 2022,
    Switch Transformers (arXiv 2101.03961), section 2.2.
    """
    experts = p_BE.shape[-1]
    preferred_BE = nn.functional.one_hot(p_BE.argmax(-1), experts).to(p_BE.dtype)
    return experts * (mean(preferred_BE) * mean(p_BE)).sum()


def load_balancing_loss(model: nn.Module) -> Tensor | float:
    """Return the term of the training loss: the sum over layers of load_balancing x imbalance of the last forward."""
    routers = [module for module in model.modules() if isinstance(module, Prismatic)]
    return sum((r.config.load_balancing * r.balance for r in routers if r.balance is not None), start=0.0)


class _GradientGain(torch.autograd.Function):
    """The identity whose gradient is multiplied by `gain` at some indices, which makes a positive control.

    It is part of the graph, because copy.deepcopy and torch.compile silently lose hooks on parameters.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, indices: Tensor, gain: float) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.gain = gain
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        scaled = grad[0].clone(memory_format=torch.contiguous_format)
        scaled.view(-1)[indices] *= ctx.gain
        return scaled, None, None
