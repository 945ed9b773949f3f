"""The options of one Prismatic layer: experts, perturbation, tiers, routing, merging, controls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Strategy = Literal["dual_sided", "top_only", "bottom_only", "random"]
Mode = Literal["noise", "attractive", "repulsive"]


class RouterConfig(BaseModel):
    """The options of one Prismatic router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_experts: Annotated[int, Field(ge=2, le=1024)] = 3
    """One clean expert and num_experts - 1 perturbed ones. More than 32 are logged as arrays."""
    perturbation_scale: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    """Largest change of a weight, as a share of its own magnitude."""
    sparsity: Annotated[FiniteFloat, Field(gt=0, lt=1)] = 0.1
    """Share of the weights in the two tiers together: 0.1 is the largest and the smallest 5 %."""
    perturbation_strategy: Strategy = "dual_sided"
    perturbation_mode: Mode = "noise"
    merge: Literal["batch", "example"] = "batch"
    """batch: one merge with the batch-mean routing weights; example: one merge per sequence, as SMEAR does."""
    routing: Literal["trained", "frozen"] = "trained"
    """frozen: every expert always has the same share, which removes the symmetry breaking by the router."""
    router_input: Literal["mean", "first"] = "mean"
    """The router's input from a sequence: the mean over positions, or the first position only, which is causal."""
    expert_dropout: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0
    """Probability of leaving an expert out of a sequence's merge while training, as SMEAR does."""
    load_balancing: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Weight of the Switch Transformer's load-balancing loss; without it a router may collapse onto one expert."""
    tier_basis: Literal["base", "current"] = "base"
    """base: tiers of the weights before perturbation, fixed; current: of each expert's present weights."""
    control_experts: Annotated[int, Field(ge=0, le=10)] = 0
    """Copies that are perturbed by control_scale only, so any effect in them is not due to the perturbation's size."""
    control_scale: Annotated[FiniteFloat, Field(ge=0)] = 0.001
    positive_control: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Factor on the bottom-tier gradients of perturbed experts. Other than 1: the run is a marked positive control."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def roles(self) -> list[str]:
        """The role of each expert, in order: clean, perturbed, control."""
        return ["clean"] + ["perturbed"] * (self.num_experts - 1) + ["control"] * self.control_experts
