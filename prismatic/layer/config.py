"""The options of one Prismatic layer: experts, perturbation, tiers, routing, merging, controls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Strategy = Literal["dual_sided", "top_only", "bottom_only", "random"]
Mode = Literal["noise", "attractive", "repulsive"]


class RouterConfig(BaseModel):
    """Options of one Prismatic router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_experts: Annotated[int, Field(ge=2, le=200)] = 3
    """One clean expert and num_experts - 1 perturbed ones; SQLite's 2,000 columns a table set the limit."""
    perturbation_scale: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    """Largest change of a weight, as a share of its own magnitude."""
    sparsity: Annotated[FiniteFloat, Field(gt=0, lt=1)] = 0.1
    """Share of the weights in the two tiers together: 0.1 is the largest and the smallest 5 %."""
    perturbation_strategy: Strategy = "dual_sided"
    perturbation_mode: Mode = "noise"
    merge: Literal["batch", "example"] = "batch"
    """batch: one merge with the batch-mean routing weights; example: one merge per sequence, as SMEAR does."""
    routing: Literal["trained", "frozen"] = "trained"
    """frozen: every expert has the same share for ever, which takes the router's symmetry breaking away."""
    router_input: Literal["mean", "first"] = "mean"
    """What of a sequence the router sees: the mean over positions, or the first one only, which is causal."""
    expert_dropout: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.0
    """While training, leave each expert out of a sequence's merge with this probability, as SMEAR does."""
    load_balancing: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Weight of the Switch Transformer's load-balancing loss; without it a router collapses onto one expert."""
    tier_basis: Literal["base", "current"] = "base"
    """base: tiers of the weights before perturbation, for ever; current: of each expert's weights as they are now."""
    control_experts: Annotated[int, Field(ge=0, le=10)] = 0
    """Copies perturbed by control_scale only: whatever they show, the perturbation's size did not cause."""
    control_scale: Annotated[FiniteFloat, Field(ge=0)] = 0.001
    positive_control: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Factor on the bottom-tier gradients of perturbed experts. Not 1: the run is an artificial yes, marked as such."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def roles(self) -> list[str]:
        """Role of each expert, in order: clean, perturbed, control."""
        return ["clean"] + ["perturbed"] * (self.num_experts - 1) + ["control"] * self.control_experts
